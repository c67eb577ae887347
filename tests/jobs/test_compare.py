"""Comparison of runs whose evaluations were made by hand."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.comparison import Comparison
from fcn_core.evaluation import Checkpoint, Subject, summarise
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.intervals import Interval, intervals, paired
from fcn_core.metrics.rules import RULES, Rule, scores
from fcn_core.predict import Inference
from fcn_core.settings import VOID, Classes
from fcn_core.stored import Stored
from jobs._compare import main
from tests.figures.looking import words
from tests.jobs.commands import Here, Refused, evaluation_of, write_run
from tests.tiny import changed

CLASSES = Classes(names=("sky", "road", "car"), colours=((0, 0, 255), (128, 128, 128), (255, 0, 0)))
SUBJECT = Subject(
    checkpoints=(), split="val", digest="1" * 64, num_images=12, classes=CLASSES, inference=Inference()
)  # fmt: skip
WITH_TTA: dict[str, Any] = {"name": "val-tta", "inference": Inference(tta=True)}
Counts = NDArray[np.int64]


def predicted(seed: int, errors: float, num_images: int = 12) -> Counts:
    """Return confusion matrices of the same truth, some of it void, and predictions with a share of errors."""
    truth = np.random.default_rng(0).choice([0, 1, 2, VOID], (num_images, 8, 8), p=[0.5, 0.3, 0.15, 0.05])
    rng = np.random.default_rng(seed + 1)
    wrong = rng.random(truth.shape) < errors
    guesses = np.where(wrong | (truth == VOID), rng.integers(3, size=truth.shape), truth)
    found: Counts = confusion(torch.from_numpy(guesses), torch.from_numpy(truth), 3).numpy()
    return found


class Lab:
    """Runs and their evaluations, written into a storage."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def run(
        self,
        changes: Mapping[str, Any],
        matrices: Counts | None,
        sequences: Sequence[str] | None = None,
        name: str = "val",
        **subject: Any,  # noqa: ANN401
    ) -> RunFolder:
        run = changed(changes)
        folder = write_run(str(self.place / "runs" / run.run_id), run)
        if matrices is None:
            return folder
        folder.write_epochs([self._epoch(1, matrices * 0), self._epoch(2, matrices)])
        checkpoint = Checkpoint(run_id=run.run_id, step=2, weights="0" * 64)
        about = SUBJECT.model_copy(update={"checkpoints": (checkpoint,), **subject})
        evaluation = evaluation_of(matrices, sequences)
        kept = Stored(f"{folder.url}/evaluations/{name}", evaluation, summarise(evaluation, about))
        with storage.publishing(kept.url) as local:
            kept.write(local)
        return folder

    def _epoch(self, number: int, matrices: Counts) -> Epoch:
        found = scores(matrices)
        rest: dict[str, Any] = {"train_loss": 1 / number, "learning_rate": 0.1, "images_per_s": 1, "seconds": 1}
        return Epoch(epoch=number, step=number, scores=found, **rest)

    def comparison(self) -> tuple[Comparison, Path]:
        (folder,) = (self.place / "comparisons").iterdir()
        return Comparison.model_validate_json((folder / "comparison.json").read_text()), folder


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


def assert_png(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()
        assert min(picture.size) > 300


def test_the_difference_is_the_paired_one_in_the_order_given(lab: Lab, here: Here) -> None:
    ours, theirs = predicted(0, 0.2), predicted(1, 0.5)
    first, second = lab.run({"name": "poor"}, theirs), lab.run({"name": "good"}, ours)
    here(main, first.url, second.url, "--storage", lab.place)
    comparison, folder = lab.comparison()
    expected = paired([ours], [theirs], Rule())
    (difference,) = comparison.differences
    assert difference.label == "good - poor"
    assert difference.mean_iou == expected.mean_iou
    assert difference.class_iou == expected.class_iou
    assert difference.mean_iou.excludes_zero
    assert (difference.mean_iou.value or 0) > 0.1
    assert difference.mean_iou_over_sequences is None
    assert [arm.label for arm in comparison.arms] == ["poor", "good"]
    assert comparison.arms[1].mean_iou == intervals([ours], Rule()).mean_iou
    assert comparison.arms[1].standard_deviation is None
    assert (comparison.classes, comparison.num_images) == (CLASSES.names, 12)
    assert comparison.digest == SUBJECT.digest
    assert folder.name == "poor-vs-good"
    storage.verify(str(folder))
    for name in ("differences", "validation"):
        assert_png(folder / f"{name}.png")


def test_what_is_shown_is_what_is_kept(lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    for name, errors in (("one", 0.5), ("two", 0.2)):
        lab.run({"name": name}, predicted(0, errors))
    names = [path.name for path in sorted((lab.place / "runs").iterdir())]
    here(main, *names, "--storage", lab.place)
    printed = capsys.readouterr().out
    comparison, folder = lab.comparison()
    for name, one in zip((*CLASSES.names, "mean IoU"), _all(comparison), strict=True):
        value, low, high = (f"{100 * (part or 0):+.1f}" for part in (one.value, one.low, one.high))
        assert re.search(rf"{name} +{re.escape(value)} +{re.escape(low)} to {re.escape(high)}", printed), name
    assert f"everything   {folder}" in printed
    assert "12 images, paired; 3 classes, void excluded" in printed


def _all(comparison: Comparison) -> list[Interval]:
    (difference,) = comparison.differences
    return [*difference.class_iou, difference.mean_iou]


def test_runs_that_differ_in_seed_alone_are_pooled(
    lab: Lab, here: Here, capsys: pytest.CaptureFixture[str], saved: list[Figure]
) -> None:
    base = lab.run({"name": "base"}, predicted(9, 0.5))
    seeds = [predicted(seed, 0.1 + 0.1 * seed) for seed in range(3)]
    repeats = [lab.run({"name": "new", "seed": seed}, found) for seed, found in enumerate(seeds)]
    here(main, base.url, *(folder.url for folder in repeats), "--storage", lab.place)
    comparison, _ = lab.comparison()
    values = [scores(found).mean_iou or 0 for found in seeds]
    arm = comparison.arms[1]
    assert len(comparison.arms) == 2
    assert arm.mean_iou_of_runs == pytest.approx(values)
    assert arm.mean_iou.value == pytest.approx(mean(values))
    assert arm.standard_deviation == pytest.approx(stdev(values))
    assert comparison.differences[0].mean_iou == paired(seeds, [predicted(9, 0.5)], Rule()).mean_iou
    printed = capsys.readouterr().out
    assert f"new: mean IoU {100 * mean(values):.1f} ± {100 * stdev(values):.1f} over 3 seeds" in printed
    assert "Repeats are drawn as the mean" in "\n".join(map(words, saved))


def test_stages_that_began_from_runs_of_other_seeds_are_pooled(lab: Lab, here: Here) -> None:
    base = lab.run({"name": "base"}, predicted(9, 0.5))
    starts = [changed({"name": "coarse", "seed": seed}).run_id for seed in (0, 1)]
    stages = [
        lab.run({"name": "fine", "seed": seed, "model.start_from": f"/lab/runs/{start}"}, predicted(seed, 0.2))
        for seed, start in enumerate(starts)
    ]
    here(main, base.url, *(folder.url for folder in stages), "--storage", lab.place)
    assert [len(arm.runs) for arm in lab.comparison()[0].arms] == [1, 2]


def test_a_run_given_twice_or_copied_is_no_second_seed(lab: Lab, here: Here, tmp_path: Path) -> None:
    base, other = lab.run({"name": "base"}, predicted(0, 0.5)), lab.run({"name": "other"}, predicted(1, 0.2))
    copy = Lab(tmp_path / "copy").run({"name": "other"}, predicted(1, 0.2))
    again = (Path(other.url).name, f"{other.url}/", copy.url)
    here(main, base.url, other.url, *again, "--storage", lab.place)
    assert [len(arm.runs) for arm in lab.comparison()[0].arms] == [1, 1]


def test_runs_of_one_name_are_labelled_by_what_differs(lab: Lab, here: Here) -> None:
    folders = [
        lab.run({}, predicted(0, 0.5)),
        lab.run({"optim.learning_rate": 0.5, "seed": 3}, predicted(1, 0.4)),
        lab.run({"optim.learning_rate": 0.5, "loss.dice": 1}, predicted(2, 0.3)),
        lab.run({"name": "other", "model.stride": 16}, predicted(2, 0.3)),
    ]
    here(main, *(folder.url for folder in folders), "--storage", lab.place)
    comparison, folder = lab.comparison()
    assert [arm.label for arm in comparison.arms] == [
        "tiny (dice 0.0, learning_rate 0.05)",
        "tiny (dice 0.0, learning_rate 0.5)",
        "tiny (dice 1.0, learning_rate 0.5)",
        "other",
    ]
    assert [found.label for found in comparison.differences] == [
        f"{arm.label} - {comparison.arms[0].label}" for arm in comparison.arms[1:]
    ]
    for name in ("differences1", "differences2", "differences3", "validation"):
        assert_png(folder / f"{name}.png")


def test_labels_with_paths_make_no_folders(lab: Lab, here: Here) -> None:
    paths = [f"/data/{'very' * 10}/{number}" for number in range(5)]
    folders = [
        lab.run({"data.kind": "folder", "data.path": path}, predicted(number, 0.3)) for number, path in enumerate(paths)
    ]
    here(main, *(one.url for one in folders[:4]), "--storage", lab.place)
    comparison, _ = lab.comparison()
    assert paths[1] in comparison.arms[1].label
    here(main, *(one.url for one in folders[1:]), "--storage", lab.place)
    names = [folder.name for folder in (lab.place / "comparisons").iterdir()]
    assert len(names) == 2
    assert all(len(name) < 255 for name in names)


def test_another_rule_and_another_evaluation_can_be_compared(
    lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {}
    for name, errors in (("one", 0.5), ("two", 0.2)):
        made[name] = predicted(0, errors)
        lab.run({"name": name}, made[name] // 2)
        lab.run({"name": name}, made[name], **WITH_TTA)
    runs = [path.name for path in sorted((lab.place / "runs").iterdir())]
    here(main, *runs, "--storage", lab.place, "--evaluation=val-tta", "--rule=void_class")
    comparison, _ = lab.comparison()
    rule = RULES["void_class"]
    assert comparison.classes == (*CLASSES.names, "void")
    assert comparison.differences[0].class_iou == paired([made["two"]], [made["one"]], rule).class_iou
    assert "test-time augmentation (zoom" in comparison.rule
    assert "void as one more class" in comparison.rule
    assert "void" in capsys.readouterr().out


def test_curves_are_not_said_to_be_of_another_way_of_predicting(lab: Lab, here: Here, saved: list[Figure]) -> None:
    folders = [lab.run({"seed": 0, "optim.epochs": epochs}, predicted(0, 0.3), **WITH_TTA) for epochs in (1, 2)]
    here(main, *(folder.url for folder in folders), "--storage", lab.place, "--evaluation=val-tta")
    curves, differences = (" ".join(words(figure).split()) for figure in saved)
    assert "no test-time augmentation" in curves
    assert "no test-time augmentation" not in differences


def test_sequences_have_an_interval_of_their_own(lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    sequences = [f"{number // 4}" for number in range(12)]
    ours, theirs = predicted(0, 0.2), predicted(1, 0.5)
    folders = [lab.run({"name": "b"}, theirs, sequences), lab.run({"name": "a"}, ours, sequences)]
    here(main, *(folder.url for folder in folders), "--storage", lab.place)
    found = lab.comparison()[0].differences[0].mean_iou_over_sequences
    assert found == paired([ours], [theirs], Rule(), sequences).mean_iou
    assert "over sequences instead of images" in capsys.readouterr().out


def test_k_fold_runs_are_compared_too(lab: Lab, here: Here) -> None:
    both = tuple(Checkpoint(run_id=f"fold{fold}", step=2, weights="0" * 64) for fold in (0, 1))
    digest = hashlib.sha256(b"folds").hexdigest()
    folders = []
    for name in ("one", "two"):
        folder = lab.run({"name": name, "data.folds": 2}, predicted(0, 0.3), checkpoints=both, digest=digest)
        write_run(folder.url, changed({"name": name, "data.folds": 2}), {"folds": ["fold0", "fold1"]})
        (Path(folder.url) / "epochs.jsonl").unlink()
        folders.append(folder)
    here(main, *(folder.url for folder in folders), "--storage", lab.place)
    comparison, place = lab.comparison()
    assert comparison.differences[0].mean_iou.value == 0
    assert not comparison.differences[0].mean_iou.excludes_zero
    assert_png(place / "validation.png")


def test_a_single_image_and_a_single_class_can_be_compared(lab: Lab, here: Here) -> None:
    one = Classes(names=("all",), colours=((1, 2, 3),))
    matrices = np.array([[[60], [4]]])
    folders = [lab.run({"name": name}, matrices, num_images=1, classes=one) for name in ("a", "b")]
    here(main, *(folder.url for folder in folders), "--storage", lab.place)
    assert lab.comparison()[0].differences[0].mean_iou == Interval(value=0, low=0, high=0)


def test_names_of_classes_may_hold_anything(lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    odd = Classes(names=("[/b]", ":car:", "a/../b$^{"), colours=CLASSES.colours)
    folders = [lab.run({"name": name}, predicted(0, 0.3), classes=odd) for name in ("a", "b")]
    here(main, *(folder.url for folder in folders), "--storage", lab.place)
    printed = capsys.readouterr().out
    assert all(name in printed for name in odd.names)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ({"digest": "2" * 64}, f"their data (SHA-256) differ: {'1' * 64} and {'2' * 64}"),
        ({"inference": Inference(tta=True)}, "their way of predicting differ: no test-time augmentation and test-time"),
        ({"classes": Classes(names=("sky", "car", "road"), colours=CLASSES.colours)}, "their classes differ: "),
        ({"num_images": 11}, "their number of images differ: 12 and 11"),
    ],
)
def test_unlike_evaluations_are_refused(subject: dict[str, Any], message: str, lab: Lab, refused: Refused) -> None:
    first = lab.run({"name": "first"}, predicted(0, 0.3))
    second = lab.run({"name": "second"}, predicted(0, 0.3, subject.get("num_images", 12)), **subject)
    said = refused(main, first.url, second.url, "--storage", lab.place)
    assert message in said
    assert f"{Path(first.url).name} and {Path(second.url).name} cannot be compared" in said
    assert not (lab.place / "comparisons").exists()


def test_unlike_repeats_are_refused_too(lab: Lab, refused: Refused) -> None:
    first = lab.run({"name": "first"}, predicted(0, 0.3))
    repeats = [lab.run({"seed": seed}, predicted(0, 0.3), digest=f"{seed + 1}" * 64) for seed in (0, 1)]
    said = refused(main, first.url, *(folder.url for folder in repeats), "--storage", lab.place)
    assert "cannot be compared: their data (SHA-256) differ" in said


def test_one_run_alone_is_refused(lab: Lab, refused: Refused) -> None:
    runs = [lab.run({"seed": seed}, predicted(seed, 0.3)).url for seed in (0, 1)]
    message = "nothing to compare: give at least two runs that differ in more than their seed"
    assert message in refused(main, runs[0], "--storage", lab.place)
    assert message in refused(main, runs[0], runs[0], "--storage", lab.place)
    assert message in refused(main, *runs, "--storage", lab.place)


def test_what_was_not_evaluated_is_named_with_what_to_type(lab: Lab, refused: Refused) -> None:
    first = lab.run({"name": "first"}, predicted(0, 0.3))
    second = lab.run({"name": "second"}, None)
    said = refused(main, first.url, second.url, "--storage", lab.place)
    assert f"{second.url} has no evaluation 'val': first python jobs/evaluate.py {second.url}" in said
    said = refused(main, first.url, second.url, "--storage", lab.place, "--evaluation=test")
    assert f"{first.url} has no evaluation 'test': there are val; first python jobs/evaluate.py" in said


def test_a_damaged_evaluation_is_not_compared(lab: Lab, refused: Refused) -> None:
    folders = [lab.run({"name": name}, predicted(0, 0.3)) for name in ("a", "b")]
    (Path(folders[1].url) / "evaluations" / "val" / "evaluation.npz").write_bytes(b"torn")
    assert "has no evaluation 'val'" in refused(main, *(one.url for one in folders), "--storage", lab.place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rule per_batch", "no rule 'per_batch' for comparisons; rules are set, void_false_positive"),
        ("--rule pixels", "no rule 'pixels' for comparisons"),
        ("--evalution val", "no setting 'evalution'; did you mean evaluation"),
    ],
)
def test_what_the_user_can_mend_gets_one_line(arguments: str, message: str, lab: Lab, refused: Refused) -> None:
    runs = [lab.run({"name": name}, predicted(0, 0.3)).url for name in ("a", "b")]
    assert message in refused(main, *runs, "--storage", lab.place, *arguments.split())


def test_a_run_that_is_not_there_is_named_with_those_that_are(lab: Lab, refused: Refused) -> None:
    url = lab.run({"name": "there"}, predicted(0, 0.3)).url
    assert f"are {Path(url).name}" in refused(main, url, "ther", "--storage", lab.place)
    assert f"did you mean {url}?" in refused(main, url, f"{url}x", "--storage", lab.place)


def test_a_storage_that_cannot_be_written_to_is_named(lab: Lab, refused: Refused) -> None:
    runs = [lab.run({"name": name}, predicted(0, 0.3)).url for name in ("a", "b")]
    (lab.place / "comparisons").write_text("in the way")
    assert "comparisons" in refused(main, *runs, "--storage", lab.place)


def test_paths_may_hold_spaces(here: Here, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "my lab")
    runs = [lab.run({"name": name}, predicted(0, 0.3)).url for name in ("a", "b")]
    here(main, *runs, "--storage", lab.place)
    assert lab.comparison()[1].name == "a-vs-b"
