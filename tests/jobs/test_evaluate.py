"""Evaluation: the real command on a Ray of its own, and all that it decides without one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from matplotlib.figure import Figure
from PIL import Image
from ray.exceptions import ActorDiedError

from fcn_core import storage
from fcn_core.checkpoint import RunFolder, best_epoch
from fcn_core.data.catalogue import open_split
from fcn_core.evaluation import Checkpoint, Evaluation, Report, Subject, evaluate, image_iou, summarise
from fcn_core.metrics.rules import RULES, scores
from fcn_core.predict import Inference, Predictor
from fcn_core.settings import Classes
from fcn_core.stored import Stored, read_evaluation
from jobs._cli import RunFailedError
from jobs._console import Console
from jobs._evaluate import EvaluateCommand, evaluate_folds, evaluate_run, main
from jobs._ray import causes
from jobs._runs import find_run
from jobs._scores import show
from jobs._sheets import ranked
from tests.figures.looking import words
from tests.jobs.commands import (
    ROOT,
    Here,
    Refused,
    WithoutRay,
    evaluation_of,
    processes_of,
    s3_server,
    with_settings,
    write_images,
    write_run,
)
from tests.tiny import audit_of, changed, train

RUN = changed({"data.streets.num_val": 7})
NAMES = ("sky", "building", "road", "pavement")
BY_ONE_AND_THREE = """
import sys
from jobs._cli import Resources
from jobs._evaluate import main
from jobs._ray import cluster
_, *urls = sys.argv
with cluster(Resources(workers=3)):
    for url, workers in zip(urls, "13"):
        sys.argv = ["evaluate.py", url, "--workers", workers]
        main()
"""
FILES = {
    *("evaluation.npz", "scores.json", "manifest.json", "COMMIT"),
    *("confusion.png", "reliability.png", "precision_recall.png", "predictions.png"),
}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was trained without Ray."""
    folder = train(RUN, tmp_path_factory.mktemp("lab") / "runs" / RUN.run_id)
    return write_run(folder.url, RUN)


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was trained on files."""
    root = write_images(tmp_path_factory.mktemp("files") / "data", NAMES, {"train": 4, "val": 3})
    changes = {"data.kind": "folder", "data.path": str(root), "optim.epochs": 1}
    run = changed(changes)
    folder = train(run, tmp_path_factory.mktemp("lab") / "runs" / run.run_id)
    return write_run(folder.url, run)


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return copied(trained, tmp_path / "new")


@pytest.fixture
def evaluated_run(by_workers: dict[int, Path], tmp_path: Path) -> RunFolder:
    return copied(RunFolder(str(by_workers[1].parents[1])), tmp_path / "lab")


@pytest.fixture
def file_run(of_files: RunFolder, tmp_path: Path) -> RunFolder:
    return copied(of_files, tmp_path / "lab")


@pytest.fixture
def start() -> WithoutRay:
    return WithoutRay()


def copied(folder: RunFolder, storage_folder: Path) -> RunFolder:
    place = storage_folder / "runs" / Path(folder.url).name
    shutil.copytree(folder.url, place)
    return RunFolder(str(place))


def evaluated(folder: RunFolder, start: WithoutRay, **settings: Any) -> Stored:  # noqa: ANN401
    """Evaluate in this process."""
    with Console() as console:
        command = EvaluateCommand(run=folder.url, **settings)
        return evaluate_run(find_run(folder.url, command.storage), command, console, start)


def pngs(folder: Path) -> dict[str, tuple[int, int]]:
    sizes = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            sizes[path.name] = picture.size
    return sizes


def assert_same_evaluation(ours: Path, theirs: Path) -> None:
    assert (ours / "scores.json").read_text() == (theirs / "scores.json").read_text()
    with np.load(ours / "evaluation.npz") as one, np.load(theirs / "evaluation.npz") as other:
        assert sorted(one) == sorted(other)
        for name in one:
            assert one[name].dtype == other[name].dtype, name
            assert np.array_equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def by_workers(
    trained: RunFolder, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """The evaluation of a run by one to three workers, which have unequal shares; by one and three in the same Ray."""
    folders = {workers: copied(trained, tmp_path_factory.mktemp("lab")) for workers in (1, 2, 3)}
    alone = start_command(folders[2].url, environment, "--workers", 2)
    both = start_python("-c", BY_ONE_AND_THREE, folders[1].url, folders[3].url, environment=environment)
    for process, times in ((alone, 1), (both, 2)):
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        assert printed.count(f"evaluating step 9 of {RUN.run_id} on 7 images") == times
    return {workers: Path(folder.url) / "evaluations" / "val" for workers, folder in folders.items()}


def start_command(url: str, environment: Mapping[str, str], *more: object) -> subprocess.Popen[str]:
    return start_python("jobs/evaluate.py", url, *more, environment=environment)


def start_python(*arguments: object, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_any_number_of_workers_gives_the_bits_of_one_thread_without_ray(
    by_workers: dict[int, Path], trained: RunFolder, tmp_path: Path
) -> None:
    dataset = open_split(RUN.data, "val")
    whole = Evaluation.collect(dataset, [evaluate(Predictor.load(trained.url), dataset, range(7), Inference())])
    weights = sha256((Path(trained.checkpoint(9)) / "model.safetensors").read_bytes()).hexdigest()
    subject = Subject(
        checkpoints=(Checkpoint(run_id=RUN.run_id, step=9, weights=weights),),
        split="val",
        digest=audit_of(RUN).val.digest,
        num_images=7,
        classes=dataset.classes,
        inference=Inference(),
    )
    Stored("", whole, summarise(whole, subject)).write(tmp_path)
    for folder in by_workers.values():
        assert_same_evaluation(folder, tmp_path)


def test_an_evaluation_leaves_all_that_it_promises(by_workers: dict[int, Path]) -> None:
    for folder in by_workers.values():
        storage.verify(str(folder))
        assert {path.name for path in folder.iterdir()} == FILES
        assert all(min(size) > 300 for size in pngs(folder).values())
        assert Evaluation.read(folder / "evaluation.npz").names == tuple(f"val-{index:05d}" for index in range(7))
        assert [path.name for path in folder.parent.iterdir()] == ["val"]


def test_the_same_command_again_shows_what_is_kept(
    by_workers: dict[int, Path], here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (by_workers[2] / "scores.json").stat()
    here(main, by_workers[2].parents[1], "--workers", 3)
    printed = capsys.readouterr().out
    assert f"already evaluated: {by_workers[2]}" in printed
    mean_iou = json.loads((by_workers[2] / "scores.json").read_text())["scores"]["mean_iou"]
    assert f"mean IoU {100 * mean_iou:.1f} % on 7 images" in printed
    assert (by_workers[2] / "scores.json").stat() == before


def test_another_best_checkpoint_is_evaluated_anew(evaluated_run: RunFolder, start: WithoutRay) -> None:
    first = evaluated(evaluated_run, start)
    assert start.started == 0
    evaluated_run.write_epochs([epoch for epoch in evaluated_run.read_epochs() if epoch.step == 3])
    second = evaluated(evaluated_run, start)
    assert start.started == 1
    assert [one.report.subject.checkpoints[0].step for one in (first, second)] == [9, 3]
    assert (second.evaluation.confusion != first.evaluation.confusion).any()
    assert read_evaluation(first.url) is not None
    assert json.loads((Path(first.url) / "scores.json").read_text())["subject"]["checkpoints"][0]["step"] == 3


def test_other_data_of_the_same_name_are_evaluated_anew(file_run: RunFolder, start: WithoutRay, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", NAMES, {"train": 1, "val": 2})
    first = evaluated(file_run, start, data=str(data))
    Image.new("L", (48, 40), 1).save(data / "val" / "masks" / "val_0.png")
    second = evaluated(file_run, start, data=str(data))
    assert start.started == 2
    assert first.report.subject.digest != second.report.subject.digest


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "val"),
        ({"split": "train", "step": "last"}, "train-steplast"),
        ({"step": "6", "tile": 32}, "val-tile32-step6"),
        ({"split": "test", "tta": True}, "test-tta"),
        ({"split": "/data/camvid/val"}, "camvid-val"),
        ({"split": "s3://bucket/camvid/val/"}, "camvid-val"),
        ({"workers": 3, "device": "cpu", "worst": True}, "val"),
    ],
)
def test_each_way_of_evaluating_has_a_folder_of_its_own(settings: dict[str, Any], name: str) -> None:
    assert EvaluateCommand(run="run", **settings).folder == name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_changes_no_bit_on_s3_either(
    trained: RunFolder,
    environment: dict[str, str],
    ray_folder: Path,
    tmp_path: Path,
    start: WithoutRay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The images are larger than those of training, so that the evaluation outlives the blow."""
    larger = {"data.streets.num_val": 24, "data.streets.height": 160, "data.streets.width": 240}
    folder = with_settings(copied(trained, tmp_path), larger)
    with s3_server(monkeypatch, environment) as with_access:
        for path in (path for path in Path(folder.url).rglob("*") if path.is_file()):
            storage.write_bytes(f"s3://lab/here/runs/tiny/{path.relative_to(folder.url)}", path.read_bytes())
        more = ("--storage", "s3://lab/here", "--workers", 2, "--tta")
        with ended(start_command("tiny", with_access, *more)) as process:
            os.kill(worker_at_work(process, ray_folder), signal.SIGKILL)
            printed, _ = process.communicate()
        assert process.returncode == 0, printed
        assert "everything   s3://lab/here/runs/tiny/evaluations/val-tta" in printed
        (tmp_path / "far").mkdir()
        for name in FILES:
            contents = storage.read_bytes(f"s3://lab/here/runs/tiny/evaluations/val-tta/{name}")
            (tmp_path / "far" / name).write_bytes(contents)
    storage.verify(str(tmp_path / "far"))
    assert_same_evaluation(tmp_path / "far", Path(evaluated(folder, start, tta=True).url))


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Let nothing of a test that failed go on."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def worker_at_work(process: subprocess.Popen[str], ray_folder: Path) -> int:
    while True:
        at_work = [pid for pid, line in processes_of(ray_folder).items() if "ray::evaluate_images" in line]
        if at_work:
            return at_work[0]
        assert process.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_leaves_no_evaluation(
    trained: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    larger = {"data.streets.num_val": 100, "data.streets.height": 160, "data.streets.width": 240}
    folder = with_settings(copied(trained, tmp_path), larger)
    with ended(start_command(folder.url, environment)) as process:
        worker_at_work(process, ray_folder)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate()
    assert process.returncode == 130, printed
    assert printed.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in printed
    assert list((Path(folder.url) / "evaluations").iterdir()) == []


def test_workers_that_are_lost_too_often_end_the_command_with_a_line() -> None:
    with pytest.raises(RunFailedError, match="could not be replaced: The actor died"), causes("give --tile"):
        raise ActorDiedError


MATRICES = np.array(
    [
        [[8, 0], [0, 2], [0, 0]],  # Right: the second class has an IoU of 1.
        [[8, 0], [2, 0], [0, 0]],  # Two pixels of it are missed.
        [[5, 5], [0, 0], [0, 0]],  # It is imagined on five.
        [[9, 0], [0, 0], [1, 0]],  # It is in neither mask.
        [[8, 0], [1, 1], [0, 0]],  # Half of it is found.
    ]
)
TWO = Classes(names=("plain", "rare"), colours=((0, 0, 0), (255, 0, 0)))


def chosen(*ends: str, class_name: str | None = None, count: int = 5) -> dict[str, list[int]]:
    sheets = ranked(evaluation_of(MATRICES), TWO, ends, class_name, count)
    return {sheet.title(TWO): sheet.places for sheet in sheets}


def test_the_worst_and_the_best_images_are_chosen() -> None:
    assert image_iou(evaluation_of(MATRICES)).tolist() == pytest.approx([1, 0.4, 0.25, 1, (8 / 9 + 0.5) / 2])
    assert chosen("worst", count=3) == {"worst": [2, 1, 4]}
    assert chosen("best", count=4)["best"][2:] == [4, 1]
    assert set(chosen("best", count=2)["best"]) == {0, 3}
    assert list(chosen("worst", "best")) == ["worst", "best"]


def test_of_a_class_images_that_show_or_imagine_it_are_chosen_and_those_with_more_wrong_pixels_are_worse() -> None:
    assert chosen("worst", class_name="rare") == {"worst rare": [2, 1, 4, 0]}
    assert chosen("best", class_name="rare", count=3) == {"best rare": [0, 4, 1]}


def test_without_an_end_images_of_a_class_are_spread() -> None:
    assert chosen(class_name="rare") == {"class rare": [0, 1, 2, 4]}
    assert chosen(class_name="rare", count=2) == {"class rare": [0, 4]}
    assert chosen(class_name="rare", count=1) == {"class rare": [0]}


def test_a_class_that_no_image_shows_has_no_sheet() -> None:
    with pytest.raises(ValueError, match="no image shows the class 'rare'"):
        ranked(evaluation_of(MATRICES[3:4]), TWO, ["worst"], "rare", 5)


def test_sheets_show_the_images_that_were_chosen(
    evaluated_run: RunFolder, start: WithoutRay, saved: list[Figure]
) -> None:
    kept = evaluated(evaluated_run, start, worst=True, best=True, class_name="road", num_predictions=2)
    assert (start.started, len(saved)) == (1, 2)
    sheets = ranked(kept.evaluation, kept.report.subject.classes, ["worst", "best"], "road", 2)
    for figure, sheet in zip(saved, sheets, strict=True):
        shown = [line for line in words(figure).splitlines() if re.fullmatch(r"val-\d+", line)]
        assert sorted(shown) == sorted(kept.evaluation.names[place] for place in sheet.places)
        assert f"{RUN.run_id}, step 9: {sheet.name} road" in words(figure)
    assert {"worst-road.png", "best-road.png"} <= set(pngs(Path(kept.url)))
    assert read_evaluation(kept.url) is not None


def test_rules_need_neither_data_nor_ray(
    file_run: RunFolder, start: WithoutRay, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    matrices = evaluated(file_run, start).evaluation.confusion
    with_settings(file_run, {"data.path": "/nowhere"})
    shutil.rmtree(file_run.checkpoints)
    capsys.readouterr()
    here(main, file_run.url, "--rule", "all")
    printed = capsys.readouterr().out
    for name, rule in RULES.items():
        assert re.search(rf"{name} +{100 * (scores(matrices, rule).mean_iou or 0):.1f} ", printed), name
    here(main, file_run.url, "--rule=per_image")
    printed = capsys.readouterr().out
    found = scores(matrices, RULES["per_image"])
    assert f"mean IoU {100 * (found.mean_iou or 0):.1f} %" in printed
    assert re.search(rf"sky +{100 * (found.class_iou[0] or 0):.1f} ", printed)
    assert "mean over images" in printed
    here(main, file_run.url, "--rule=void_class")
    assert re.search(r"void +0.0", capsys.readouterr().out)


def test_the_temperature_is_that_of_validation_where_it_is_known(
    run: RunFolder, evaluated_run: RunFolder, start: WithoutRay, capsys: pytest.CaptureFixture[str]
) -> None:
    own = evaluated(run, start, split="train").report.calibration
    assert own.fitted_on == "train"
    of_val = evaluated(evaluated_run, start).report.calibration
    assert of_val.temperature != own.temperature
    with Console() as console:
        show(evaluated(evaluated_run, start, split="train").report, console)
    assert f"at temperature {of_val.temperature:.2f}, fitted on val" in capsys.readouterr().out


def test_the_temperature_of_another_checkpoint_is_not_taken(evaluated_run: RunFolder, start: WithoutRay) -> None:
    evaluated_run.write_epochs([epoch for epoch in evaluated_run.read_epochs() if epoch.step == 3])
    assert evaluated(evaluated_run, start, split="train").report.calibration.fitted_on == "train"


def test_a_split_elsewhere_needs_nothing_else_to_be_there(
    file_run: RunFolder, start: WithoutRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = write_images(tmp_path / "else where", NAMES, {"val": 2})
    there = evaluated(file_run, start, split=f"{elsewhere}/val")
    assert there.url.endswith("/evaluations/else where-val")
    assert there.report.subject.split == f"{elsewhere}/val"
    assert there.evaluation.names == ("val_0", "val_1")
    monkeypatch.chdir(tmp_path)
    assert evaluated(file_run, start, split="else where/val/").report == there.report
    assert start.started == 1


def test_data_that_moved_are_the_same_data(
    file_run: RunFolder, start: WithoutRay, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evaluated(file_run, start)
    shutil.copytree(find_run(file_run.url, "").run.data.path or "", tmp_path / "moved")
    with_settings(file_run, {"data.path": "/nowhere"})
    assert "there are no data in /nowhere: say with --data where they lie now" in refused(main, file_run.url)
    monkeypatch.chdir(tmp_path)
    assert evaluated(file_run, start, data="moved/").report == before.report
    assert start.started == 1


def test_images_of_any_size_and_a_single_class_are_evaluated(start: WithoutRay, tmp_path: Path) -> None:
    sizes = ((40, 48), (33, 64), (64, 32), (37, 41))
    data = write_images(tmp_path / "data", ["everything"], {"train": 4, "val": 1, "test": 3}, sizes)
    run = changed({"data.kind": "folder", "data.path": str(data), "optim.epochs": 1})
    folder = write_run(train(run, tmp_path / "run").url, run)
    one = evaluated(folder, start)
    assert (len(one.evaluation.names), one.report.scores.mean_iou) == (1, 1.0)
    assert len(pngs(Path(one.url))) == 4
    assert evaluated(folder, start, split="test").report.subject.num_images == 3


def test_names_of_classes_may_hold_anything(
    start: WithoutRay, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["sky [/red]", "../../up", ":car:", "$a^{b", "y" * 90, "."]
    data = write_images(tmp_path / "data, [1]", names, {"train": 4, "val": 3})
    run = changed({"data.kind": "folder", "data.path": str(data), "optim.epochs": 1, "name": "odd"})
    folder = write_run(train(run, tmp_path / "lab [x], y" / "runs" / run.run_id).url, run)
    before = sorted(tmp_path.rglob("*.png"))
    kept = evaluated(folder, start)
    for name in names[:4]:
        evaluated(folder, start, class_name=name, worst=True)
    assert {path.parent for path in tmp_path.rglob("*.png") if path not in before} == {Path(kept.url)}
    assert len(pngs(Path(kept.url))) == 8
    here(main, folder.url)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names[:4])
    here(main, folder.url, "--rule=per_image")
    assert "[/red]" in capsys.readouterr().out


def test_no_number_is_cut_off_beside_long_names(
    by_workers: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report.model_validate_json((by_workers[1] / "scores.json").read_text())
    long = report.model_copy(
        update={"classes": tuple(one.model_copy(update={"name": f"a {'long ' * 9}name"}) for one in report.classes)}
    )
    with Console() as console:
        show(long, console)
    assert "…" not in capsys.readouterr().out


def test_a_storage_that_cannot_be_written_to_is_found_before_the_work(
    run: RunFolder, start: WithoutRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(run.url) / "evaluations").write_text("in the way")
    monkeypatch.setattr("tests.jobs.commands.evaluate", None)
    with pytest.raises(OSError, match="evaluations"):
        evaluated(run, start)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A storage without folders, as S3 is."""
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    yield "memory://lab"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def uploaded(folder: RunFolder, url: str) -> RunFolder:
    for path in (path for path in Path(folder.url).rglob("*") if path.is_file()):
        storage.write_bytes(f"{url}/{path.relative_to(folder.url)}", path.read_bytes())
    return RunFolder(url)


def test_a_run_on_an_object_store_is_evaluated_there(trained: RunFolder, start: WithoutRay, memory: str) -> None:
    folder = uploaded(trained, f"{memory}/runs/tiny")
    with Console() as console:
        target = find_run("tiny", memory)
        assert target.url == folder.url
        kept = evaluate_run(target, EvaluateCommand(run=folder.url), console, start)
    assert kept.url == f"{folder.url}/evaluations/val"
    assert set(storage.list_folder(kept.url)) == FILES
    assert evaluated(folder, start).report == kept.report
    assert start.started == 1


def test_folds_are_found_beside_their_run_on_any_storage(
    trained: RunFolder, start: WithoutRay, memory: str, tmp_path: Path
) -> None:
    whole = changed({"data.folds": 2})
    folds = [changed({"data.folds": 2, "data.fold": fold, "name": f"fold{fold}"}) for fold in (0, 1)]
    for place in (memory, str(tmp_path)):
        for fold in folds:
            folder = write_run(uploaded(trained, f"{place}/runs/{fold.run_id}").url, fold)
            folder.write_epochs([epoch for epoch in folder.read_epochs() if epoch.step == 3])
        write_run(f"{place}/runs/{whole.run_id}", whole, {"folds": [fold.run_id for fold in folds]})
        assert find_run(whole.run_id, place).folds == tuple(f"{place}/runs/{fold.run_id}" for fold in folds)
    with Console() as console:
        target = find_run(whole.run_id, memory)
        made = evaluate_folds(target, EvaluateCommand(run=target.url), console, start)
    assert len(set(made.evaluation.names)) == made.report.subject.num_images == 17
    # Not the best: it was chosen by the images that are scored.
    assert [one.step for one in made.report.subject.checkpoints] == [9, 9]
    assert read_evaluation(f"{memory}/runs/{whole.run_id}/evaluations/val") is not None


def test_a_run_is_found_by_path_by_name_and_with_a_slash_at_its_end(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (run.url, f"{run.url}/", RUN.run_id, f"new/runs/{RUN.run_id}", f"./new/../new/runs/{RUN.run_id}/"):
        assert find_run(name, "new").url == run.url


def test_a_run_that_is_not_there_is_named_with_those_that_are(run: RunFolder, refused: Refused, tmp_path: Path) -> None:
    assert f"did you mean {run.url}?" in refused(main, RUN.run_id[:-2], "--storage", tmp_path / "new")
    assert f"did you mean {run.url}?" in refused(main, f"{run.url}0")
    assert f"are {RUN.run_id}" in refused(main, "zzz", "--storage", tmp_path / "new")
    assert f"no runs in {tmp_path}/runs" in refused(main, "zzz", "--storage", tmp_path)


def test_a_storage_that_does_not_answer_gets_one_line(refused: Refused) -> None:
    class NoCredentialsError(Exception):
        pass

    class Broken(MemoryFileSystem):
        protocol = "broken"

        def exists(self, path: str, **_: object) -> bool:
            raise NoCredentialsError(f"nobody may see {path}")

    fsspec.register_implementation("broken", Broken, clobber=True)
    assert "cannot use broken://lab/run: nobody may see" in refused(main, "broken://lab/run")
    assert "cannot use broken://lab/runs/run: nobody may see" in refused(main, "run", "--storage", "broken://lab")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", "run.json is damaged: "),
        ("{}", "run.json is of another version: "),
        ('{"settings": {"colour": 1}}', "run.json is of another version: no setting 'colour'"),
    ],
)
def test_a_run_json_that_is_not_understood_is_named(
    contents: str, message: str, run: RunFolder, refused: Refused
) -> None:
    (Path(run.url) / "run.json").write_text(contents)
    assert f"{run.url}/{message}" in refused(main, run.url)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--split tset", "the built-in street scenes have no split 'tset'; splits are train, val"),
        ("--split somewhere/val", "the run's data are drawn, not read: nothing in"),
        ("--data somewhere", "the run's data are drawn, not read: nothing in"),
        ("--step 5", "there are 3, 6, 9, best and last"),
        ("--step ²", "no checkpoint of step '²'"),
        ("--class rode", "no class 'rode'; classes are sky, building, road"),
        ("--rule all", "has no evaluation 'val': first python jobs/evaluate.py"),
        ("--rule all --split train", "has no evaluation 'train': first python jobs/evaluate.py"),
        ("--tile 33", "tile: Input should be a multiple of 32 (given: '33')"),
        ("--tile 0", "tile: Input should be greater than or equal to 32"),
        ("--workers 0", "workers: Input should be greater than or equal to 1"),
        ("--num-predictions 1000000", "num_predictions: Input should be less than or equal to 50"),
        ("--wrost", "no setting 'wrost'; did you mean worst"),
        ("another", "unrecognized arguments: another"),
    ],
)
def test_what_the_user_can_mend_gets_one_line_at_once(
    arguments: str, message: str, run: RunFolder, refused: Refused
) -> None:
    assert message in refused(main, run.url, *arguments.split())
    assert not (Path(run.url) / "evaluations").exists()


def test_a_rule_that_there_is_not_is_refused(by_workers: dict[int, Path], refused: Refused) -> None:
    url = by_workers[1].parents[1]
    assert "no rule 'pixels'; rules are all, set, void_false_positive" in refused(main, url, "--rule", "pixels")
    assert "has no evaluation 'train': there are val; first" in refused(main, url, "--rule=set", "--split=train")


def test_a_run_without_a_whole_checkpoint_is_refused(run: RunFolder, refused: Refused) -> None:
    for step in run.steps():
        (Path(run.checkpoint(step)) / "model.safetensors").write_bytes(b"torn")
    assert "no complete checkpoint" in refused(main, run.url)
    assert "00000009 is damaged: model.safetensors has not the SHA-256" in refused(main, run.url, "--step", "last")
    shutil.rmtree(run.checkpoints)
    assert "has no checkpoint yet: let the run finish an epoch" in refused(main, run.url)


def test_a_damaged_best_checkpoint_is_not_passed_over_in_silence(
    run: RunFolder, start: WithoutRay, capsys: pytest.CaptureFixture[str]
) -> None:
    best = best_epoch(run.read_epochs())
    assert best is not None
    assert best.step == 9
    (Path(run.checkpoint(9)) / "model.safetensors").write_bytes(b"torn")
    assert evaluated(run, start).report.subject.checkpoints[0].step == 6
    assert "the best checkpoint, of step 9, is not whole: step 6 is taken" in capsys.readouterr().out


def test_a_split_of_files_that_there_is_not_is_named_with_those_there_are(
    file_run: RunFolder, refused: Refused
) -> None:
    assert "splits there: train, val" in refused(main, file_run.url, "--split", "test")


def test_data_of_other_classes_are_refused(file_run: RunFolder, refused: Refused, tmp_path: Path) -> None:
    turned = write_images(tmp_path / "turned", NAMES[::-1], {"val": 1})
    message = refused(main, file_run.url, "--split", f"{turned}/val")
    assert "trained on other classes: sky, building, road, pavement; the data have pavement, road" in message


def test_an_image_without_a_mask_stops_the_evaluation_or_is_left_out(
    file_run: RunFolder, start: WithoutRay, here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data", NAMES, {"val": 3})
    (data / "val" / "masks" / "val_1.png").unlink()
    with pytest.raises(SystemExit) as left:
        here(main, file_run.url, "--split", f"{data}/val")
    assert left.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: the data have 1 error: ")
    assert "val_1.png lacks its partner" in second
    kept = evaluated(file_run, start, split=f"{data}/val", audit="leave_out")
    assert kept.evaluation.names == ("val_0", "val_2")
    here(main, file_run.url, "--split", f"{data}/val", "--data.audit=leave_out")
    assert "already evaluated" in capsys.readouterr().out


def test_what_a_killed_evaluation_left_is_no_evaluation(run: RunFolder, refused: Refused) -> None:
    left = Path(run.url) / "evaluations" / f"{storage.PARTIAL}x"
    left.mkdir(parents=True)
    assert storage.PARTIAL not in refused(main, run.url, "--rule", "all")


def test_settings_of_training_in_the_environment_do_no_harm(
    by_workers: dict[int, Path], here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FCN_OPTIM__LEARNING_RATE", "1")
    monkeypatch.setenv("FCN_DATA__PATH", "/nowhere")
    here(main, by_workers[1].parents[1])
    assert "already evaluated" in capsys.readouterr().out
