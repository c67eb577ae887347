"""What a sweep knows of its trials, without Ray: runs are written by the test, and the sweep is cut off anywhere."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.metrics.rules import Scores
from fcn_core.settings import Classes, Run, override
from jobs._metric import Metric, metric_of
from jobs._space import Choice, Point, Range, Space
from jobs._study import STAGES, Key, Member, Outcome, Place, Status, Study, Sweep
from tests.tiny import TINY

SWEEP = Sweep(
    run=TINY,
    space=Space(
        dimensions={
            "optim.learning_rate": Range(low=1e-4, high=1e-1, log=True),
            "model.upsampling": Choice(values=("fixed", "learned")),
        }
    ),
    method="even",
    scheduler="none",
    grace_epochs=1,
    seeds=1,
    staged=False,
)
STAGED = SWEEP.model_copy(update={"staged": True})
EPOCHS = TINY.optim.epochs
ROOT = "memory://lab"


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    yield
    empty()


def empty() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def study_of(sweep: Sweep, trials: int, name: str = "one") -> Study:
    return Study(sweep, Place(f"{ROOT}/sweeps/{name}"), f"{ROOT}/runs", trials, Metric(last=sweep.by_last_epoch))


def with_settings(changes: Mapping[str, Any]) -> Sweep:
    return SWEEP.model_copy(update={"run": override(TINY, changes)})


def mean_iou(run: Run, epoch: int) -> float:
    """Return a score that depends on the settings and is best in the middle of training."""
    return round((0.1 + run.optim.learning_rate) * (1 + run.seed) / (1 + abs(epoch - 2)), 6)


def write(member: Member, epochs: int | None = None, score: Callable[[Run, int], float] = mean_iou) -> None:
    """Leave what training would, to the end unless told otherwise."""
    # One that goes on from another: generations of one epoch.
    first = 1 if member.run.optim.continue_from is None else member.run.optim.last_epoch
    RunFolder(f"{ROOT}/runs/{member.run.run_id}").write_epochs(
        [
            Epoch(
                epoch=epoch,
                step=3 * epoch,
                train_loss=1.0,
                learning_rate=0.1,
                scores=Scores(
                    pixel_accuracy=0.5,
                    mean_accuracy=0.5,
                    mean_iou=score(member.run, epoch),
                    frequency_weighted_iou=0.5,
                    mean_dice=0.5,
                    class_accuracy=(0.5,),
                    class_iou=(0.5,),
                    class_dice=(0.5,),
                    labelled_pixels=1,
                ),
                images_per_s=1.0,
                seconds=1.0,
            )
            for epoch in range(first, (epochs or member.run.optim.last_epoch) + 1)
        ]
    )


def take(study: Study) -> Member:
    member = study.next()
    assert isinstance(member, Member)
    return member


def finish(study: Study, member: Member, status: Status | None = None, epochs: int | None = None) -> None:
    if not member.ended:
        write(member, epochs)
    study.ended(member, status, status or "")


class Cluster:
    """Hands out and ends runs in some order, until it is cut off."""

    def __init__(self, seed: int, slots: int) -> None:
        self.chance = np.random.default_rng(seed)
        self.slots = slots
        self.taken: Counter[Key] = Counter()

    def carry_out(self, study: Study, steps: int | None = None) -> int:
        """Return how many steps were taken: handing out, training and noting are three."""
        running: list[Member] = []
        trained: list[Member] = []
        taken: Counter[Key] = Counter()
        step = 0
        while steps is None or step < steps:
            step += 1
            if len(running) + len(trained) < self.slots and isinstance(member := study.next(), Member):
                assert not member.ended
                taken[member.key] += 1
                running.append(member)
            elif trained and (not running or self.chance.random() < 0.5):
                study.ended(trained.pop(0), None, "")
            elif running:
                member = running.pop(self.chance.integers(len(running)))
                write(member)
                trained.append(member)
            else:
                assert study.next() is None
                break
        assert all(times == 1 for times in taken.values()), "a run was handed out twice"
        self.taken += taken
        return step


def results(study: Study) -> tuple[dict[int, Point], dict[Key, Outcome]]:
    return study.points, study.outcomes


def test_a_sweep_tries_its_points_once_each() -> None:
    study = study_of(SWEEP, 5)
    Cluster(0, 2).carry_out(study)
    assert [study.points[number] for number in range(5)] == [SWEEP.space.halton(number, 0) for number in range(5)]
    assert sorted(study.outcomes) == [Key(number) for number in range(5)]
    assert {outcome.status for outcome in study.outcomes.values()} == {"finished"}
    assert study.remaining == 0


def test_a_point_is_kept_before_its_first_run_is_handed_out() -> None:
    study = study_of(SWEEP, 2)
    assert Place(f"{ROOT}/sweeps/one").points() == {}
    member = take(study)
    assert Place(f"{ROOT}/sweeps/one").points() == {0: study.points[0]}
    assert member.run == override(TINY, {**study.points[0], "name": "tiny-t000"})


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "tpe"}, {"seeds": 2, "run": override(TINY, {"data.folds": 3})}, {"staged": True, "seeds": 2}],
)
@given(seed=st.integers(0, 2**31 - 1), cuts=st.lists(st.integers(0, 30), max_size=6), data=st.data())
@settings(deadline=None, max_examples=12)
def test_however_often_a_sweep_is_cut_off_it_ends_as_if_never_interrupted(
    changes: dict[str, Any], seed: int, cuts: list[int], data: st.DataObject
) -> None:
    """Where points depend on scores, one run at a time: else they depend on which run ends first."""
    sweep = SWEEP.model_copy(update=changes)
    slots = 1 if sweep.method == "tpe" else data.draw(st.integers(1, 4))
    empty()
    whole = study_of(sweep, 4)
    Cluster(seed, slots).carry_out(whole)
    empty()
    cluster = Cluster(seed + 1, slots)
    for steps in cuts:
        ended_before = dict(study_of(sweep, 4).outcomes)
        cluster.taken.clear()
        cluster.carry_out(study_of(sweep, 4), steps)
        assert not ended_before.keys() & cluster.taken.keys(), "a run that had ended was run again"
    study = study_of(sweep, 4)
    cluster.carry_out(study)
    assert results(study) == results(whole)
    assert results(study_of(sweep, 4)) == results(whole)


def test_cut_off_after_any_step_no_run_is_lost_or_run_twice() -> None:
    whole = study_of(SWEEP, 3)
    steps = Cluster(0, 2).carry_out(whole)
    for cut in range(steps + 1):
        empty()
        Cluster(0, 2).carry_out(study_of(SWEEP, 3), cut)
        noted = study_of(SWEEP, 3).outcomes
        rest = Cluster(0, 2)
        study = study_of(SWEEP, 3)
        rest.carry_out(study)
        assert results(study) == results(whole)
        assert {*noted, *rest.taken} == {Key(number) for number in range(3)}
        assert not {*noted} & {*rest.taken}


def test_more_trials_extend_a_sweep_and_fewer_end_what_was_begun() -> None:
    Cluster(0, 2).carry_out(study_of(SWEEP, 3))
    study = study_of(SWEEP, 5)
    assert study.remaining == 2
    cluster = Cluster(0, 2)
    cluster.carry_out(study)
    assert sorted(cluster.taken) == [Key(3), Key(4)]
    take(study_of(SWEEP, 6))
    fewer = study_of(SWEEP, 1)
    assert fewer.remaining == 1
    assert take(fewer).key == Key(5)
    assert fewer.next() is None


def test_seeds_and_folds_are_runs_of_their_own() -> None:
    sweep = with_settings({"data.folds": 2, "seed": 5}).model_copy(update={"seeds": 2})
    study = study_of(sweep, 1)
    members = [take(study) for _ in range(4)]
    assert study.next() is None
    assert [(member.run.seed, member.run.data.fold) for member in members] == [(5, 0), (5, 1), (6, 0), (6, 1)]
    assert len({member.run.run_id for member in members}) == 4
    assert {member.run.name for member in members} == {"tiny-t000"}


def test_stages_start_from_the_32s_of_their_own_trial_and_seed() -> None:
    sweep = STAGED.model_copy(update={"seeds": 2, "run": override(TINY, {"model.width": 1, "model.weights": "a.pth"})})
    study = study_of(sweep, 2)
    members = [take(study) for _ in range(2)]
    assert [member.key.stage for member in members] == ["32s", "at_once"]
    finish(study, members[0])
    members += [take(study) for _ in range(2)]
    runs = {member.key.stage: member.run for member in members}
    assert [members[index].key[:2] for index in range(4)] == [(0, 0)] * 4
    assert [runs[stage].model.stride for stage in STAGES] == [32, 16, 8, 8]
    for stage in ("16s", "8s"):
        assert runs[stage].model.start_from == f"{ROOT}/runs/{runs['32s'].run_id}"
        assert runs[stage].model.weights is None
    assert (runs["32s"].model.start_from, runs["32s"].model.weights) == (None, "a.pth")
    assert runs["at_once"].model.at_once
    assert not runs["8s"].model.at_once
    assert runs["at_once"].optim.epochs == runs["32s"].optim.epochs + runs["8s"].optim.epochs
    assert len({run.name for run in runs.values()}) == 4
    other_seed = take(study)
    assert (other_seed.key.repeat, other_seed.key.stage, other_seed.run.seed) == (1, "32s", TINY.seed + 1)


def test_what_needs_the_32s_waits_for_it_while_others_go_on() -> None:
    study = study_of(STAGED, 2)
    handed = [take(study) for _ in range(4)]
    assert [(member.key.number, member.key.stage) for member in handed] == [
        *((0, "32s"), (0, "at_once")),
        *((1, "32s"), (1, "at_once")),
    ]
    assert study.next() == "wait"
    finish(study, handed[2])
    assert [(take(study).key.number, take(study).key.stage)] == [(1, "8s")]
    assert study.next() == "wait"
    finish(study, handed[0])
    assert [take(study).key.stage for _ in range(2)] == ["16s", "8s"]
    assert study.next() is None


def test_a_32s_that_had_ended_before_is_not_waited_for() -> None:
    finish(study := study_of(STAGED, 1), take(study))
    again = study_of(STAGED, 1)
    assert [take(again).key.stage for _ in range(3)] == ["16s", "8s", "at_once"]


def test_a_32s_that_diverged_leaves_nothing_to_start_from() -> None:
    study = study_of(STAGED, 1)
    first, at_once = take(study), take(study)
    write(first, epochs=1)
    study.ended(first, "diverged", "the loss is inf")
    assert study.next() is None
    finish(study, at_once)
    for stage in ("16s", "8s"):
        outcome = study.outcomes[Key(0, stage=stage)]
        assert (outcome.status, outcome.epochs, outcome.score) == ("diverged", 0, None)
        assert outcome.reason == f"{first.run.run_id}, from which it starts, diverged"
    assert study.remaining == 0
    assert study.scores(0, "16s") == [0.0]
    again = study_of(STAGED, 1)
    assert again.next() is None
    assert results(again) == results(study)


def test_a_32s_that_failed_is_tried_again_with_all_that_starts_from_it() -> None:
    study = study_of(STAGED, 1)
    finish(study, take(study), "failed", epochs=1)
    finish(study, take(study))
    assert study.next() is None
    assert study.outcomes[Key(0, stage="8s")].status == "failed"
    assert study.remaining == 3
    again = study_of(STAGED, 1)
    assert again.outcomes.keys() == {Key(0, stage="at_once")}
    finish(again, take(again))
    assert [take(again).key.stage for _ in range(2)] == ["16s", "8s"]


def test_a_run_that_failed_is_tried_again_only_by_the_next_command() -> None:
    study = study_of(SWEEP, 1)
    finish(study, take(study), "failed", epochs=1)
    assert study.next() is None
    assert (study.score(0), study.remaining) == (None, 1)
    again = study_of(SWEEP, 1)
    assert again.outcomes == {}
    finish(again, take(again))
    assert again.remaining == 0


def test_a_run_that_ends_before_its_last_epoch_without_a_scheduler_has_failed() -> None:
    study = study_of(SWEEP, 1)
    finish(study, take(study), epochs=EPOCHS - 1)
    outcome = study.outcomes[Key(0)]
    assert (outcome.status, outcome.reason) == ("failed", "it ended before its last epoch")
    assert study_of(SWEEP, 1).outcomes == {}


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_with_a_scheduler_what_has_ended_reports_again_and_is_not_noted_again(
    scheduler: Literal["asha", "median"],
) -> None:
    sweep = SWEEP.model_copy(update={"scheduler": scheduler})
    study = study_of(sweep, 3)
    finish(study, take(study))
    finish(study, take(study), epochs=1)
    take(study)
    assert [outcome.status for outcome in study.outcomes.values()] == ["finished", "stopped"]
    before = dict(MemoryFileSystem.store)
    again = study_of(sweep, 4)
    members = [take(again) for _ in range(4)]
    assert [(member.key.number, member.ended) for member in members] == [(0, True), (1, True), (2, False), (3, False)]
    for member in members[:2]:
        write(member, epochs=2)
        again.ended(member, None, "")
        again.ended(member, "failed", "lost")
    assert again.outcomes == study.outcomes
    noted = [name for name in before if "outcomes" in name]
    assert len(noted) == 2
    assert all(MemoryFileSystem.store[name] is before[name] for name in noted)


def test_what_diverged_before_its_first_epoch_has_nothing_to_report_again() -> None:
    sweep = SWEEP.model_copy(update={"scheduler": "median"})
    study = study_of(sweep, 1)
    study.ended(take(study), "diverged", "the loss is inf")
    again = study_of(sweep, 1)
    assert again.next() is None
    assert again.remaining == 0


def test_a_run_that_diverged_counts_nothing_however_good_it_was_before() -> None:
    sweep = SWEEP.model_copy(update={"seeds": 2})
    study = study_of(sweep, 1)
    finish(study, take(study))
    finish(study, take(study), "diverged", epochs=2)
    finished, diverged = study.outcomes.values()
    assert diverged.score == 0
    assert diverged.epochs == 2
    assert study.scores(0) == [finished.score, 0.0]


def test_a_trial_is_judged_by_the_mean_over_seeds_of_their_best_epochs() -> None:
    study = study_of(SWEEP.model_copy(update={"seeds": 2}), 1)
    members = [take(study) for _ in range(2)]
    finish(study, members[0])
    assert study.score(0) is None
    assert study.spread(0, "") is None
    finish(study, members[1])
    best = [mean_iou(member.run, 2) for member in members]
    assert [study.outcomes[member.key].score for member in members] == best
    assert study.score(0) == pytest.approx(sum(best) / 2)
    assert study.spread(0, "") == pytest.approx(abs(best[0] - best[1]) / 2**0.5)


def test_a_fold_is_judged_by_its_last_epoch() -> None:
    """The best one is chosen on the images that the fold is scored on."""
    study = study_of(with_settings({"data.folds": 2}), 1)
    members = [take(study) for _ in range(2)]
    for member in members:
        finish(study, member)
    last = [mean_iou(member.run, EPOCHS) for member in members]
    assert last[0] < mean_iou(members[0].run, 2)
    assert study.score(0) == pytest.approx(sum(last) / 2)


def test_a_staged_trial_is_judged_by_its_best_stage() -> None:
    study = study_of(STAGED, 1)
    values = {"32s": 0.3, "16s": 0.5, "8s": 0.4, "at_once": 0.2}
    while isinstance(member := study.next(), Member):
        value = values[member.key.stage]
        write(member, score=lambda run, _, value=value: value + run.seed)  # type: ignore[misc]
        study.ended(member, None, "")
    assert {stage: study.scores(0, stage) for stage in STAGES} == {stage: [value] for stage, value in values.items()}
    assert study.score(0) == 0.5
    assert study.spread(0, "16s") is None


def test_tpe_is_told_what_was_known_before_it_was_interrupted() -> None:
    sweep = SWEEP.model_copy(update={"method": "tpe"})
    told = study_of(sweep, 12)
    for _ in range(11):
        finish(told, take(told))
    resumed = study_of(sweep, 12)
    untold = study_of(sweep, 12, "another")
    for _ in range(11):
        take(untold)
    assert take(resumed).run == take(told).run
    assert take(untold).run != told.member(Key(11)).run


def test_what_was_half_written_is_passed_over() -> None:
    study = study_of(SWEEP, 3)
    finish(study, take(study))
    take(study)
    for kind in ("trials", "outcomes"):
        for name in (".partial-0007.json.x1", ".partial-0007.json", "0008.json.tmp", "notes.txt", "notes.json"):
            storage.write_bytes(f"{ROOT}/sweeps/one/{kind}/{name}", b'{"optim.lea')
    again = study_of(SWEEP, 3)
    assert results(again) == results(study)
    assert take(again).key == Key(1)
    assert take(again).key == Key(2)


def test_a_point_that_was_lost_is_drawn_again() -> None:
    study = study_of(SWEEP, 3)
    for _ in range(3):
        finish(study, take(study))
    del MemoryFileSystem.store["/lab/sweeps/one/trials/0001.json"]
    again = study_of(SWEEP, 3)
    assert again.next() is None
    assert results(again) == results(study)


def test_two_processes_cannot_begin_the_same_trial() -> None:
    sweep = SWEEP.model_copy(update={"method": "tpe"})
    begun = study_of(sweep, 12)
    for _ in range(9):
        take(begun)
    ours, theirs = study_of(sweep, 12), study_of(sweep, 12)
    for _ in range(9):
        take(theirs)
        finish(ours, take(ours))
    finish(ours, take(ours))
    with pytest.raises(ValueError, match="trial 9 was begun by another process: this sweep goes on elsewhere"):
        theirs.next()


def test_every_setting_that_decides_the_trials_makes_another_sweep() -> None:
    changes: list[dict[str, Any]] = [
        {"run": override(TINY, {"optim.epochs": 4})},
        {"space": Space(dimensions={"loss.dice": Choice(values=(0.0,))})},
        {"method": "tpe"},
        {"scheduler": "asha"},
        {"grace_epochs": 2},
        {"seeds": 2},
        {"staged": True},
    ]
    ids = [SWEEP.sweep_id, *(SWEEP.model_copy(update=change).sweep_id for change in changes)]
    assert len(set(ids)) == len(ids)
    assert Sweep.model_validate_json(SWEEP.model_dump_json()).sweep_id == SWEEP.sweep_id


def test_names_of_files_tell_the_run() -> None:
    assert Key(3).name == "0003-0-0"
    assert Key(3, 1, 2, "at_once").name == "0003-1-2-at_once"
    study = study_of(STAGED, 1)
    finish(study, take(study))
    assert storage.list_folder(f"{ROOT}/sweeps/one/outcomes") == ["0000-0-0-32s.json"]
    kept = json.loads(storage.read_bytes(f"{ROOT}/sweeps/one/outcomes/0000-0-0-32s.json"))
    assert Outcome.model_validate(kept) == study.outcomes[Key(0, stage="32s")]


POPULATION = SWEEP.model_copy(
    update={
        "method": "pbt",
        "population": 4,
        "generation_epochs": 1,
        "space": Space(dimensions={"optim.learning_rate": Range(low=1e-4, high=1e-1, log=True)}),
    }
)


def members_of(study: Study, stage: str) -> list[Member]:
    return [study.member(Key(number, stage=stage)) for number in range(4)]


def test_a_generation_starts_when_the_one_before_has_ended() -> None:
    study = study_of(POPULATION, 4)
    first = [take(study) for _ in range(4)]
    assert [member.key for member in first] == [Key(number, stage="e001") for number in range(4)]
    for member in first[:3]:
        finish(study, member)
        assert study.next() == "wait"
    finish(study, first[3])
    second = [take(study) for _ in range(4)]
    assert [member.key for member in second] == [Key(number, stage="e002") for number in range(4)]
    assert study.next() == "wait"
    assert [member.run.optim.stop_epoch for member in (first[0], second[0])] == [1, 2]


def test_the_worst_member_goes_on_from_the_best_and_the_others_from_themselves() -> None:
    study = study_of(POPULATION, 4)
    first = [take(study) for _ in range(4)]
    for member in first:
        finish(study, member)
    ranked = sorted(first, key=lambda member: member.run.optim.learning_rate)
    worst, best = ranked[0].key.number, ranked[-1].key.number
    for member in (take(study) for _ in range(4)):
        parent = best if member.key.number == worst else member.key.number
        assert member.run.optim.continue_from == f"{ROOT}/runs/{first[parent].run.run_id}"
        assert (member.run.optim.learning_rate == first[parent].run.optim.learning_rate) == (member.key.number != worst)


def test_a_population_that_is_cut_off_anywhere_ends_as_if_never_interrupted() -> None:
    whole = study_of(POPULATION, 4, "whole")
    Cluster(0, 2).carry_out(whole)
    assert whole.remaining == 0
    assert len(whole.generations) == EPOCHS
    empty()
    for steps in (1, 4, 9, 2, 7, 3, 8, 5, 6):
        Cluster(steps, 2).carry_out(study_of(POPULATION, 4), steps)
    Cluster(1, 3).carry_out(study_of(POPULATION, 4))
    study = study_of(POPULATION, 4)
    assert (study.outcomes, study.points, study.generations) == (whole.outcomes, whole.points, whole.generations)


def test_a_population_is_judged_by_its_last_epoch() -> None:
    study = study_of(POPULATION, 4)
    Cluster(0, 2).carry_out(study)
    for number in range(4):
        (last,) = [outcome for key, outcome in study.outcomes.items() if key == Key(number, stage="e003")]
        assert study.score(number) == last.score == mean_iou(study.member(last.key).run, EPOCHS)
        assert study.point(number)["optim.learning_rate"] == study.member(last.key).run.optim.learning_rate


def test_a_member_that_diverged_goes_on_from_a_good_one_and_all_that_diverged_end_the_sweep() -> None:
    study = study_of(POPULATION, 4)
    first = [take(study) for _ in range(4)]
    good = max(first, key=lambda member: member.run.optim.learning_rate)
    for member in first:
        finish(study, member, None if member == good else "diverged")
    assert {take(study).run.optim.continue_from for _ in range(4)} == {f"{ROOT}/runs/{good.run.run_id}"}
    empty()
    study = study_of(POPULATION, 4)
    for member in [take(study) for _ in range(4)]:
        finish(study, member, "diverged")
    assert study.next() is None
    assert study.remaining == 0
    assert {outcome.status for outcome in study.outcomes.values()} == {"diverged"}


def test_a_member_that_failed_holds_up_its_population_until_the_sweep_goes_on() -> None:
    study = study_of(POPULATION, 4)
    first = [take(study) for _ in range(4)]
    for member in first:
        finish(study, member, "failed" if member.key.number == 2 else None)
    assert study.next() is None
    assert study.remaining == 4 * EPOCHS - 3
    again = study_of(POPULATION, 4)
    member = take(again)
    assert member.key == Key(2, stage="e001")
    finish(again, member)
    Cluster(0, 2).carry_out(again)
    assert again.remaining == 0


def test_the_score_of_a_class_is_that_of_the_epoch_with_the_best_mean() -> None:
    def scored(mean: float, one: float) -> Scores:
        rest = {name: 0.5 for name in Scores.model_fields if name not in ("mean_iou", "labelled_pixels")}
        classes = {"class_accuracy": (0.1,), "class_dice": (0.1,), "class_iou": (0.2, one)}
        return Scores.model_validate(rest | classes | {"mean_iou": mean, "labelled_pixels": 1})

    classes = Classes(names=("road", "car"), colours=((0, 0, 0), (1, 1, 1)))
    epochs = [scored(0.1, 0.9), scored(0.6, 0.3), scored(0.5, 0.4)]
    assert metric_of("iou.car", classes, last=False).of(epochs) == 0.3
    assert metric_of("iou.car", classes, last=True).of(epochs) == 0.4
    assert metric_of("mean_iou", classes, last=False).of(epochs) == 0.6
    assert metric_of("mean_iou", classes, last=False).of([]) is None
    for unknown in ("iou.bus", "miou"):
        with pytest.raises(ValueError, match=rf"no metric '{unknown}': there are mean_iou, iou.road, iou.car"):
            metric_of(unknown, classes, last=False)
