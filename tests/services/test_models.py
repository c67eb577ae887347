import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from fcn_core import storage
from fcn_core.checkpoint import CARD, WEIGHTS
from fcn_core.predict import Predictor
from fcn_core.registry.gate import rollback
from fcn_core.registry.store import MODELS, Registry
from fcn_core.registry.version import EXAMPLE_MASK, Version
from services._models import Models, RefusedError
from services._settings import Serving
from tests.registry.made import NAME, Made, crown_as_it_is, made_champion
from tests.services.serving import client_of, encoded, scene, serving


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def registry(tmp_path: Path, made: Made) -> Registry:
    registry = Registry(str(tmp_path / MODELS))
    made_champion(registry, made.candidate())
    return registry


def models(registry: Registry, **changes: object) -> Models:
    place = registry.url.removesuffix(f"/{MODELS}")
    return Models(Serving.model_validate({"storage": place} | changes), "cpu")


def crown_another(registry: Registry, candidate: Made) -> Version:
    version = registry.pack(NAME, candidate.candidate())
    registry.crown(version, registry.champion(NAME), "a test")
    return version


def changed(registry: Registry, version: Version, file: str, contents: bytes) -> None:
    """Change a file of a version, seal the version anew and crown it."""
    with storage.publishing(version.url) as folder:
        for path in Path(version.url).iterdir():
            if path.name not in (storage.MANIFEST, storage.COMMIT):
                shutil.copy(path, folder)
        (folder / file).write_bytes(contents)
    sealed = registry.read(NAME, version.facts.version) if file != WEIGHTS else None
    manifest = sealed.manifest if sealed else "0" * 64
    crown_as_it_is(registry, version.facts.version, manifest)


def test_the_champion_is_served(registry: Registry) -> None:
    served = models(registry)
    assert served.name == NAME
    assert served.champion.version.label == "streets/1"
    assert [one.version.label for one in served.all()] == ["streets/1"]


def test_a_new_champion_takes_over(registry: Registry, other: Made) -> None:
    served = models(registry)
    before = served.champion
    crown_another(registry, other)
    served.refresh()
    assert served.champion.version.label == "streets/2"
    assert before.version.label == "streets/1"
    assert before.predictor is not served.champion.predictor


def test_nothing_is_loaded_again_where_nothing_changed(registry: Registry) -> None:
    served = models(registry)
    before = served.champion
    served.refresh()
    assert served.champion is before


def test_a_champion_of_before_takes_over_again(registry: Registry, other: Made) -> None:
    served = models(registry)
    crown_another(registry, other)
    served.refresh()
    rollback(registry, NAME)
    served.refresh()
    assert served.champion.version.label == "streets/1"


def damaged_weights(registry: Registry, other: Made) -> None:
    version = crown_another(registry, other)
    with (Path(version.url) / WEIGHTS).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff\xff\xff\xff")


def missing_file(registry: Registry, other: Made) -> None:
    version = crown_another(registry, other)
    (Path(version.url) / EXAMPLE_MASK).unlink()


def other_weights_sealed_anew(registry: Registry, other: Made) -> None:
    version = registry.pack(NAME, other.candidate())
    weights = {name: torch.zeros_like(value) for name, value in load_file(Path(version.url) / WEIGHTS).items()}
    save_file(weights, Path(version.url) / "new")
    contents = (Path(version.url) / "new").read_bytes()
    (Path(version.url) / "new").unlink()
    changed(registry, version, WEIGHTS, contents)


def another_mask(registry: Registry, other: Made) -> None:
    version = registry.pack(NAME, other.candidate())
    mask = np.full((40, 48), 9, np.uint8)
    changed(registry, version, EXAMPLE_MASK, encoded(mask))


def example_that_is_no_png(registry: Registry, other: Made) -> None:
    changed(registry, registry.pack(NAME, other.candidate()), EXAMPLE_MASK, b"no PNG")


def another_network(registry: Registry, other: Made) -> None:
    version = registry.pack(NAME, other.candidate())
    card = version.card.model_copy(update={"model": version.card.model.model_copy(update={"width": 0.1})})
    changed(registry, version, CARD, card.model_dump_json().encode())


def never_published(registry: Registry, other: Made) -> None:
    assert other
    crown_as_it_is(registry, 7, "0" * 64)


BROKEN = [
    *(damaged_weights, missing_file, other_weights_sealed_anew, another_mask, example_that_is_no_png),
    *(another_network, never_published),
]


@pytest.mark.parametrize("breaking", BROKEN, ids=lambda breaking: breaking.__name__)
def test_a_broken_champion_never_serves_and_the_old_one_goes_on(
    registry: Registry, other: Made, breaking: object
) -> None:
    served = models(registry)
    before = served.champion
    assert callable(breaking)
    breaking(registry, other)
    served.refresh()
    assert served.champion is before
    (reason,) = served.refused
    assert reason.startswith("streets/")
    served.refresh()
    assert served.champion is before
    # A replica that starts now serves the last that was good.
    assert models(registry).champion.version.label == "streets/1"


def test_a_champion_after_a_broken_one_takes_over(registry: Registry, other: Made) -> None:
    served = models(registry)
    damaged_weights(registry, other)
    served.refresh()
    crown_another(registry, other)
    served.refresh()
    assert served.champion.version.label == "streets/3"


def test_a_storage_that_is_away_for_a_while_changes_nothing(registry: Registry, other: Made) -> None:
    served = models(registry)
    crown_another(registry, other)
    away = Path(registry.url).rename(f"{registry.url}-away")
    served.refresh()
    assert served.champion.version.label == "streets/1"
    away.rename(registry.url)
    served.refresh()
    assert served.champion.version.label == "streets/2"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("tried to allocate"), OSError("stale file handle")])
@pytest.mark.parametrize("method", ["scores", "labels"])
def test_a_proof_that_cannot_be_made_is_tried_again(
    registry: Registry, other: Made, monkeypatch: pytest.MonkeyPatch, error: Exception, method: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    served = models(registry)
    crown_another(registry, other)
    with monkeypatch.context() as patched:
        patched.setattr(Predictor, method, fail)
        with pytest.raises(type(error)):
            served.refresh()
    assert (served.champion.version.label, served.refused) == ("streets/1", ())
    served.refresh()
    assert served.champion.version.label == "streets/2"


def test_a_bucket_serves_as_a_folder_does(bucket: str, tmp_path: Path, made: Made, other: Made) -> None:
    registry = Registry(f"{bucket}/{tmp_path.name}/{MODELS}")
    made_champion(registry, made.candidate())
    served = models(registry)
    version = crown_another(registry, other)
    served.refresh()
    assert [served.champion.version.label, served.champion.version.weights] == ["streets/2", version.weights]
    broken = registry.pack(NAME, made.candidate())
    registry.crown(broken, registry.champion(NAME), "a test")
    storage.write_bytes(storage.join(broken.url, WEIGHTS), b"other")
    shutil.rmtree(tmp_path / "cache")
    served.refresh()
    assert served.champion.version.label == "streets/2"


def test_without_a_good_champion_nothing_starts(registry: Registry) -> None:
    with (Path(registry.place(NAME, 1)) / WEIGHTS).open("ab") as file:
        file.write(b"more")
    with pytest.raises(FileNotFoundError, match=r"has no champion to serve: streets/1: .* has not the SHA-256"):
        models(registry)


def test_a_model_that_never_had_a_champion_does_not_start(tmp_path: Path, made: Made) -> None:
    registry = Registry(str(tmp_path / MODELS))
    registry.pack(NAME, made.candidate())
    with pytest.raises(FileNotFoundError, match="none was promoted"):
        models(registry)


def test_a_model_must_be_named_where_there_are_several(registry: Registry, made: Made) -> None:
    registry.pack("roads", made.candidate())
    with pytest.raises(ValueError, match="has roads, streets: say which"):
        models(registry)
    assert models(registry, model=NAME).name == NAME


def test_an_empty_registry_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has none: python jobs/promote\.py"):
        models(Registry(str(tmp_path / MODELS)))


def test_a_version_asked_for_by_number_must_prove_itself_too(registry: Registry, other: Made) -> None:
    version = registry.pack(NAME, other.candidate())
    assert [one.version.facts.version for one in models(registry, versions=[2, 1]).all()] == [1, 2]
    (Path(version.url) / EXAMPLE_MASK).unlink()
    with pytest.raises(RefusedError, match="streets/2"):
        models(registry, versions=[2])


def test_a_champion_that_is_named_too_is_loaded_once(registry: Registry, other: Made) -> None:
    served = models(registry, versions=[1])
    first = served.champion
    assert served.get(1) is first
    crown_another(registry, other)
    served.refresh()
    assert served.get(1) is first


def test_a_running_service_takes_up_a_champion_between_two_answers(registry: Registry, other: Made) -> None:
    service = serving(Path(registry.url).parent, refresh_s=0.05)
    with client_of(service) as client:
        assert answered_by(client) == "1"
        crown_another(registry, other)
        for _ in range(600):
            if answered_by(client) == "2":
                break
        assert answered_by(client) == "2"


def test_a_log_that_cannot_be_read_stops_nothing(
    registry: Registry, other: Made, caplog: pytest.LogCaptureFixture
) -> None:
    service = serving(Path(registry.url).parent, refresh_s=0.02)
    entry = Path(registry.url) / NAME / "champions" / "00000002.json"
    entry.write_text("{")
    with client_of(service) as client:
        for _ in range(500):
            if "cannot look for a new champion" in caplog.text:
                break
            time.sleep(0.01)
        assert "cannot look for a new champion" in caplog.text
        assert answered_by(client) == "1"
        entry.unlink()
        crown_another(registry, other)
        for _ in range(500):
            if answered_by(client) == "2":
                break
        assert answered_by(client) == "2"


def answered_by(client: TestClient) -> str:
    answer = client.post("/v1/segment", content=encoded(scene()))
    assert answer.status_code == 200
    return str(answer.headers["model-version"])
