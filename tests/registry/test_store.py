import shutil
from pathlib import Path

import pytest
import torch

from fcn_core import storage
from fcn_core.predict import Predictor
from fcn_core.registry.checks import self_check
from fcn_core.registry.gate import read_gate
from fcn_core.registry.store import Registry
from fcn_core.registry.version import is_version, read_facts
from fcn_core.storage import TornError
from tests.registry.made import FILES, NAME, RUN, SCENES, Made, made_champion, make


def test_what_is_packed_is_read_and_can_be_served_alone(registry: Registry, made: Made) -> None:
    version = registry.pack(NAME, made.candidate())
    assert set(storage.list_folder(version.url)) == FILES
    assert (registry.models(), registry.versions(NAME)) == ([NAME], [1])
    again = registry.read(NAME, 1, version.manifest)
    assert again == version
    assert (again.label, again.weights, again.facts.run) == ("streets/1", made.weights, RUN)
    assert again.facts.software["torch"] == torch.__version__.split("+")[0]
    assert again.card.classes == SCENES.classes
    assert (again.evaluation().confusion == made.evaluation.confusion).all()
    image, labels = again.example()
    assert (image == SCENES.read(0).image).all()
    assert (labels == Predictor.load(made.url).labels(image).numpy()).all()
    assert (Predictor.load(version.url).labels(image).numpy() == labels).all()
    assert [(check.name, check.passed) for check in self_check(again)] == [("finite", True), ("example", True)]
    assert is_version(version.url)
    assert read_facts(version.url) == version.facts
    assert not is_version(made.url)


def test_a_packed_version_is_no_champion(registry: Registry, made: Made) -> None:
    registry.pack(NAME, made.candidate())
    assert registry.champion(NAME) is None
    assert registry.read_champion(NAME) is None
    assert registry.history(NAME) == []
    assert registry.find("streets/1") == registry.place(NAME, 1)
    for reference in ("streets", "streets/2", "streets/01", "streets/x", "../streets/1", "other", "streets/1/x", ""):
        assert registry.find(reference) is None


def test_the_champion_is_the_last_entry_of_a_log(registry: Registry, made: Made) -> None:
    first = made_champion(registry, made.candidate())
    assert (first.number, first.previous, first.reason, first.forced) == (1, None, "the gate passed", False)
    second = made_champion(registry, made.candidate())
    assert registry.champion(NAME) == second
    assert registry.history(NAME) == [first, second]
    assert (second.version, second.previous) == (2, 1)
    champion = registry.read_champion(NAME)
    assert champion is not None
    assert champion.label == "streets/2"
    assert registry.find(NAME) == champion.url
    gate = read_gate(champion.url)
    assert gate is not None
    assert gate.sound
    assert (gate.manifest, gate.champion) == (champion.manifest, 1)
    assert [check.name for check in gate.checks] == ["whole", "finite", "example", "reproduced", "not worse"]


def test_versions_are_counted_and_not_spelt(local: Registry) -> None:
    for number in ("1", "2", "9", "10", "010", "0", "x", "²"):
        with storage.publishing(storage.join(local.url, NAME, number)):
            pass
    (Path(local.url) / NAME / "11").mkdir()
    assert local.versions(NAME) == [1, 2, 9, 10]


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", ".a", "a b", "a" * 65, "é", "a\n"])
def test_names_that_would_be_another_folder_are_refused(local: Registry, made: Made, name: str) -> None:
    for use in (lambda: local.pack(name, made.candidate()), lambda: local.champion(name), lambda: local.versions(name)):
        with pytest.raises(ValueError, match="no name of a model"):
            use()
    assert not Path(local.url).exists()


def test_an_evaluation_of_other_weights_is_not_packed(local: Registry, made: Made, other: Made) -> None:
    with pytest.raises(ValueError, match="is not what was evaluated: evaluate it again"):
        local.pack(NAME, made.candidate()._replace(checkpoint=other.url))
    assert local.versions(NAME) == []


def test_a_damaged_checkpoint_is_not_packed(local: Registry, tmp_path: Path) -> None:
    damaged = make(tmp_path / "run", 3)
    storage.write_bytes(storage.join(damaged.url, "model.safetensors"), b"torn")
    with pytest.raises(TornError, match="has not the SHA-256"):
        local.pack(NAME, damaged.candidate())
    assert local.versions(NAME) == []


def test_a_number_that_was_claimed_or_is_there_is_not_given_again(registry: Registry, made: Made) -> None:
    storage.create_bytes(storage.join(registry.url, NAME, "claims", "00000003.json"), b"killed before it published")
    assert registry.pack(NAME, made.candidate()).label == "streets/4"
    with storage.publishing(registry.place(NAME, 7)):
        pass
    assert registry.pack(NAME, made.candidate()).label == "streets/8"


def test_what_was_packed_is_found_by_what_was_evaluated(local: Registry, made: Made) -> None:
    for candidate in (made.scored(50), made.scored(50, split="test"), made.scored(50)):
        local.pack(NAME, candidate)
    (Path(local.url) / NAME / "3" / "evaluation.json").write_text("{")
    assert local.packed(NAME, made.scored(50).report.subject) == [1]
    assert local.packed(NAME, made.scored(50, digest="2" * 64).report.subject) == []


@pytest.mark.parametrize("contents", [b"", b"{", b'{"version": 1}'])
def test_a_damaged_entry_is_never_a_champion(registry: Registry, made: Made, contents: bytes) -> None:
    made_champion(registry, made.candidate())
    storage.write_bytes(storage.join(registry.url, NAME, "champions", "00000002.json"), contents)
    for read in (registry.champion, registry.read_champion, registry.history, registry.find):
        with pytest.raises(TornError, match=r"champions/00000002\.json is damaged"):
            read(NAME)


def test_an_entry_under_another_number_is_damaged(local: Registry, made: Made) -> None:
    made_champion(local, made.candidate())
    log = Path(local.url) / NAME / "champions"
    shutil.copy(log / "00000001.json", log / "00000007.json")
    with pytest.raises(TornError, match="says that it is entry 1"):
        local.champion(NAME)


def test_what_others_leave_in_the_log_is_no_entry(local: Registry, made: Made) -> None:
    entry = made_champion(local, made.candidate())
    log = Path(local.url) / NAME / "champions"
    for name in (".partial-00000002.json.x", "notes.txt", "2.json", "00000002.json.bak"):
        (log / name).write_text("?")
    assert local.champion(NAME) == entry
