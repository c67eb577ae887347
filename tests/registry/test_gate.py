import shutil
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from fcn_core import storage
from fcn_core.evaluation import Evaluation, Subject
from fcn_core.predict import Inference, Predictor
from fcn_core.registry.gate import GateFailedError, promote, read_gate, rollback
from fcn_core.registry.store import ChampionMovedError, Entry, Registry
from fcn_core.settings import Classes
from tests.registry.made import (
    NAME,
    SCENES,
    Made,
    assert_a_chain,
    believe,
    champions,
    comparison,
    made_champion,
    quiet,
)


# 40 images: where all move alike, the interval is narrow; where one of four moves, nothing is sure.
@pytest.mark.parametrize(
    ("champion", "hits", "passes"),
    [
        ([50] * 40, [50] * 40, True),
        ([50] * 40, [60] * 40, True),
        ([50] * 40, [49] * 40, False),
        ([50] * 40, [52, 47] * 20, True),
        ([50, 50, 50, 50], [50, 52, 50, 0], False),
        ([50, 50, 50, 50], [50, 100, 50, 10], True),
    ],
    ids=["equal", "better", "surely worse", "perhaps worse", "much worse on few", "perhaps better"],
)
def test_a_version_that_is_worse_than_the_champion_does_not_pass(
    local: Registry, made: Made, champion: list[int], hits: list[int], passes: bool
) -> None:
    made_champion(local, made.scored(*champion))
    version = local.pack(NAME, made.scored(*hits))
    if passes:
        promote(local, version, believe(version), None, quiet)
        assert champions(local) == [1, 2]
        return
    with pytest.raises(GateFailedError, match=r"streets/2 does not become champion: not worse: mean IoU -\d") as failed:
        promote(local, version, believe(version), None, quiet)
    assert [check.name for check in failed.value.failed] == ["not worse"]
    assert champions(local) == [1]
    gate = read_gate(version.url)
    assert gate is not None
    assert gate.sound
    assert not gate.checks[-1].passed
    entry = promote(local, version, believe(version), "the new camera needs it", quiet)
    assert (entry.version, entry.forced, entry.reason) == (2, True, "the new camera needs it")


def test_classes_that_are_surely_lost_are_named_even_where_the_version_passes(local: Registry, made: Made) -> None:
    made_champion(local, made.scored(*[50] * 20))
    candidate = made.scored(*[50] * 20)
    candidate.evaluation.confusion[:, 2, 2] = 100
    candidate.evaluation.confusion[:, 1, [0, 1]] = 20, 80
    check = comparison(local, candidate)
    assert check.passed
    assert check.found.endswith("against streets/1; surely lower: sky, building")


def test_force_is_not_recorded_where_it_was_not_needed(local: Registry, made: Made) -> None:
    made_champion(local, made.scored(50))
    entry = made_champion(local, made.scored(60), force="because")
    assert (entry.forced, entry.reason) == (False, "the gate passed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "2" * 64}, "the data differ"),
        ({"inference": Inference(tta=True)}, "the rules differ"),
        ({"classes": Classes(names=tuple("abcdefghij"), colours=SCENES.classes.colours)}, "the classes differ"),
        ({"digest": "2" * 64, "inference": Inference(tta=True)}, "the rules differ and the data differ"),
    ],
)
def test_what_was_evaluated_otherwise_is_not_compared(
    local: Registry, made: Made, changes: Mapping[str, object], message: str
) -> None:
    made_champion(local, made.scored(50, 50))
    check = comparison(local, made.scored(60, 60, **changes))
    assert not check.passed
    assert check.found == f"cannot be compared with streets/1: {message}: evaluate on the same"


def test_tiles_change_no_rule(local: Registry, made: Made) -> None:
    made_champion(local, made.scored(50, 50))
    assert comparison(local, made.scored(60, 60, inference=Inference(tile=64))).passed


def test_without_labelled_pixels_there_is_nothing_to_compare(local: Registry, made: Made) -> None:
    nothing = made.scored(50)
    nothing.evaluation.confusion[:] = 0
    made_champion(local, made.scored(50))
    check = comparison(local, nothing)
    assert (check.passed, check.found) == (False, "there are no labelled pixels to compare")


def test_a_champion_that_is_damaged_is_no_measure_but_can_be_replaced_with_a_reason(
    registry: Registry, made: Made
) -> None:
    made_champion(registry, made.scored(50))
    storage.write_bytes(storage.join(registry.place(NAME, 1), "model.json"), b"{}")
    shutil.rmtree(storage.cache_folder(), ignore_errors=True)
    version = registry.pack(NAME, made.scored(60))
    with pytest.raises(GateFailedError, match=r"not worse: .*/1 is damaged: model.json has not the SHA-256"):
        promote(registry, version, believe(version), None, quiet)
    promote(registry, version, believe(version), "the champion's disk broke", quiet)
    assert champions(registry) == [1, 2]


def changed_by_one(evaluation: Evaluation) -> Evaluation:
    confusion = evaluation.confusion.copy()
    confusion[2, 0, 0] += 1
    return evaluation._replace(confusion=confusion)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda subject, again: (subject, changed_by_one(again)), r"1 of 4 images differ .*, most of all val-00002"),
        (lambda subject, again: (subject, again._replace(names=again.names[::-1])), "the data changed since val"),
        (
            lambda subject, again: (subject.model_copy(update={"digest": "2" * 64}), again),
            r"the data changed since val was evaluated \(SHA-256 1111111111\)",
        ),
        (lambda subject, again: (subject.model_copy(update={"split": "test"}), again), "another checkpoint, split or"),
    ],
)
def test_an_evaluation_that_does_not_come_out_again_stops_a_version_whatever_the_force(
    local: Registry, made: Made, change: Callable[[Subject, Evaluation], tuple[Subject, Evaluation]], message: str
) -> None:
    version = local.pack(NAME, made.candidate())
    with pytest.raises(GateFailedError, match=f"streets/1 does not become champion: reproduced: .*{message}"):
        promote(local, version, lambda: change(*believe(version)()), "for no reason", quiet)
    assert local.champion(NAME) is None
    gate = read_gate(version.url)
    assert gate is not None
    assert not gate.sound


def test_a_mistake_of_the_user_while_evaluating_again_is_no_finding_of_the_gate(local: Registry, made: Made) -> None:
    def fail() -> tuple[Subject, Evaluation]:
        raise FileNotFoundError("there are no data in /nowhere")

    version = local.pack(NAME, made.candidate())
    with pytest.raises(FileNotFoundError, match="no data in"):
        promote(local, version, fail, None, quiet)
    assert read_gate(version.url) is None


def test_a_champion_that_moved_in_the_meantime_is_compared_with(
    registry: Registry, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (registry.pack(NAME, made.scored(hits)) for hits in (50, 70, 60))
    promote(registry, first, believe(first), None, quiet)
    said: list[str] = []
    crown = registry.crown

    def another_is_faster(*args: Any, **kwargs: Any) -> Entry:  # noqa: ANN401
        monkeypatch.setattr(registry, "crown", crown)
        promote(registry, second, believe(second), None, quiet)
        return crown(*args, **kwargs)

    monkeypatch.setattr(registry, "crown", another_is_faster)
    with pytest.raises(GateFailedError, match=r"not worse: .* against streets/2"):
        promote(registry, third, believe(third), None, said.append)
    assert "the champion of streets moved in the meantime: comparing again" in said
    assert champions(registry) == [1, 2]


def test_who_always_comes_second_is_told(local: Registry, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def come_second(*_: object, **__: object) -> Entry:
        raise ChampionMovedError("too late")

    version = local.pack(NAME, made.candidate())
    monkeypatch.setattr(local, "crown", come_second)
    with pytest.raises(ChampionMovedError, match="moves all the time: try again later"):
        promote(local, version, believe(version), None, quiet)


def test_the_same_version_twice_is_one_entry(local: Registry, made: Made) -> None:
    version = local.pack(NAME, made.candidate())
    first = promote(local, version, believe(version), None, quiet)
    assert promote(local, version, believe(version), None, quiet) == first
    assert champions(local) == [1]


def test_going_back_twice_does_not_lead_forward(local: Registry, made: Made) -> None:
    for _ in range(3):
        made_champion(local, made.candidate())
    first = rollback(local, NAME, reason="pedestrians are missed")
    assert (first.version, first.previous, first.reason, first.forced) == (2, 3, "pedestrians are missed", False)
    assert rollback(local, NAME).version == 1
    with pytest.raises(ValueError, match="no version was champion before streets/1"):
        rollback(local, NAME)
    assert rollback(local, NAME, 3).version == 3
    assert rollback(local, NAME).version == 2
    assert_a_chain(local.history(NAME))


def test_one_goes_back_only_to_what_was_champion(local: Registry, made: Made) -> None:
    with pytest.raises(ValueError, match="streets has no champion to go back from"):
        rollback(local, NAME)
    made_champion(local, made.scored(50))
    made_champion(local, made.scored(60))
    local.pack(NAME, made.scored(10))
    for number, message in ((2, "streets/2 is the champion"), (3, "streets/3 never was champion, versions 1, 2 were")):
        with pytest.raises(ValueError, match=message):
            rollback(local, NAME, number)
    assert champions(local) == [1, 2]


def test_one_does_not_go_back_to_what_fails_its_own_check(
    local: Registry, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        made_champion(local, made.candidate())
    monkeypatch.setattr(Predictor, "labels", lambda *_: torch.zeros(40, 48, dtype=torch.uint8))
    with pytest.raises(GateFailedError, match="streets/1 does not become champion: example: "):
        rollback(local, NAME)
    assert champions(local) == [1, 2]
