"""Staged training: which runs it consists of, and one real training."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from fcn_core.checkpoint import Epoch, RunFolder, best_epoch
from fcn_core.metrics.rules import scores
from fcn_core.settings import Run, override
from jobs._cli import Job, read_job
from jobs._runs import find_run
from jobs._staged import StagedCommand, _draw, _stages, main
from tests.figures.looking import words
from tests.jobs.commands import ROOT, Refused, write_run
from tests.tiny import numbers

SETTINGS = [
    "--data.streets.num_train=4",
    "--data.streets.num_val=2",
    "--data.streets.height=40",
    "--data.streets.width=48",
    "--model.width=0.06",
    "--model.fc_channels=8",
    "--optim.epochs=1",
    "--optim.batch_size=2",
    "--optim.warmup_steps=0",
    "--learning_rate_factor=0.5",
]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_staged.py"])


def stages(arguments: str, storage: str = "/lab") -> dict[str, Run]:
    command, job = read_job(StagedCommand, [*arguments.split(), "--storage", storage])
    return dict(_stages(job.run, job.launch, command))


def test_each_stage_starts_from_the_best_of_the_one_before() -> None:
    found = stages("streets")
    assert list(found) == ["FCN-32s", "FCN-16s from 32s", "FCN-8s from 16s", "FCN-8s at once"]
    assert [run.model.stride for run in found.values()] == [32, 16, 8, 8]
    coarse, middle, fine, at_once = found.values()
    assert coarse.model.start_from is None
    assert middle.model.start_from == f"/lab/runs/{coarse.run_id}"
    assert fine.model.start_from == f"/lab/runs/{middle.run_id}"
    assert at_once.model.start_from is None


def test_names_say_what_a_run_is() -> None:
    assert [run.name for run in stages("streets").values()] == [
        "streets-fcn32s",
        "streets-fcn16s-staged",
        "streets-fcn8s-staged",
        "streets-fcn8s-at-once",
    ]
    assert [run.name for run in stages("streets --name mine").values()][:2] == ["mine", "mine-fcn16s-staged"]


@pytest.mark.parametrize(("option", "factor"), [("", 1.0), ("--learning-rate-factor 0.5", 0.5)])
def test_the_learning_rate_falls_from_stage_to_stage(option: str, factor: float) -> None:
    rates = [run.optim.learning_rate for run in stages(f"streets --optim.learning_rate 0.3 {option}").values()]
    assert rates == pytest.approx([0.3, 0.3 * factor, 0.3 * factor**2, 0.3])


def test_at_once_is_trained_for_as_many_epochs_as_the_stages_together_with_scaled_skips() -> None:
    found = stages("streets --optim.epochs 7")
    assert [run.optim.epochs for run in found.values()] == [7, 7, 7, 21]
    assert [run.model.at_once for run in found.values()] == [False, False, False, True]
    assert list(stages("streets --no-at-once")) == list(found)[:3]


def test_nothing_else_differs_between_the_runs() -> None:
    found = list(stages("streets --seed 3 --no-data.flip --optim.momentum 0.5").values())
    neutral = {"name": "same", "model.stride": 8, "model.at_once": False, "model.start_from": None}
    same = {override(run, neutral | {"optim.learning_rate": 1.0, "optim.epochs": 1}).run_id for run in found}
    assert len(same) == 1
    assert found[2].seed == 3


def test_weights_go_into_the_first_stage_and_at_once_only() -> None:
    found = stages("streets --model.width 1 --model.weights imagenet")
    assert [run.model.weights for run in found.values()] == ["imagenet", None, None, "imagenet"]


def test_the_same_command_is_the_same_runs_wherever_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [run.run_id for run in stages("streets", f"{tmp_path}/lab").values()]
    for storage in ("lab", "lab/", "./lab", f"{tmp_path}/lab/"):
        assert [run.run_id for run in stages("streets", storage).values()] == ids
    assert stages("streets", "s3://lab/here/") == stages("streets", "s3://lab/here")
    assert stages("streets", "s3://lab/here")["FCN-16s from 32s"].model.start_from is not None


def test_stages_end_before_they_begin_where_settings_are_of_something_else(refused: Refused, tmp_path: Path) -> None:
    lab = ("--storage", tmp_path / "lab")
    assert "stages begin with stride 32, not 8" in refused(main, "streets", "--model.stride=8", *lab)
    assert "set data.fold beside data.folds" in refused(main, "streets", "--folds=2", *lab)
    assert "xxx-fcn16s-staged" in refused(main, "streets", "--name", "x" * 60, *lab)
    assert "learning_rate_factor: Input should be greater than 0" in refused(
        main, "streets", "--learning_rate_factor=0"
    )
    assert "no experiment 'streetz'" in refused(main, "streetz")
    assert not (tmp_path / "lab").exists()


def test_printed_settings_are_those_of_the_first_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_staged.py", "streets", "--seed=4", "--print-config"])
    main()
    config = tmp_path / "run.yaml"
    config.write_text(capsys.readouterr().out)
    _, job = read_job(StagedCommand, ["streets", "--config", str(config)])
    assert isinstance(job, Job)
    assert job.run.seed == 4
    assert job.run.model.stride == 32


def test_the_figure_has_a_curve_for_each_run(tmp_path: Path, saved: list[Figure]) -> None:
    found = scores([[[6, 2], [1, 5], [0, 0]]])
    trained = []
    for label, run in stages("streets", str(tmp_path)).items():
        folder = write_run(str(tmp_path / "runs" / run.run_id), run, {"rule": "the rule in words"})
        rest: dict[str, Any] = {"train_loss": 1, "learning_rate": 0.1, "images_per_s": 1, "seconds": 1}
        folder.write_epochs([Epoch(epoch=number, step=number, scores=found, **rest) for number in (1, 2)])
        trained.append((label, find_run(folder.url, "")))
    assert _draw(trained, str(tmp_path / "comparisons")) == f"{tmp_path}/comparisons/validation.png"
    assert (tmp_path / "comparisons" / "validation.png").exists()
    (figure,) = saved
    assert all(label in words(figure) for label, _ in trained)
    assert "the rule in words" in words(figure)


def staged(environment: dict[str, str], place: Path) -> str:
    command = [sys.executable, "jobs/train_staged.py", "streets", *SETTINGS, "--storage", str(place)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_runs_finish_and_typing_it_again_trains_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    printed = staged(environment, tmp_path)
    urls = re.findall(r"best mean IoU \S+ %  \((\S+)\)", printed)
    folders = [RunFolder(url) for url in urls]
    assert [len(folder.read_epochs()) for folder in folders] == [1, 1, 1, 3]
    assert all(best_epoch(folder.read_epochs()) for folder in folders)
    figure = re.search(r"^curves +(\S+)$", printed, re.MULTILINE)
    assert figure is not None
    with Image.open(figure[1]) as picture:
        assert min(picture.size) > 300
    assert find_run(urls[1], "").run.model.start_from == urls[0]
    before = [numbers(folder) for folder in folders]
    times = [Path(folder.url, "epochs.jsonl").stat().st_mtime_ns for folder in folders]
    again = staged(environment, tmp_path)
    assert [numbers(folder) for folder in folders] == before
    assert len(re.findall(r"resumed at step", again)) == 4
    assert not re.search(r"^epoch +\d", again, re.MULTILINE)
    assert times == [Path(folder.url, "epochs.jsonl").stat().st_mtime_ns for folder in folders]
