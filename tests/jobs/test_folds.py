"""k-fold runs: a real one, and what is refused before anything starts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fcn_core.data.catalogue import open_split
from fcn_core.evaluation import Evaluation, evaluate
from fcn_core.metrics.rules import scores
from fcn_core.predict import Inference, Predictor
from fcn_core.stored import Stored, read_evaluation
from jobs._evaluate import main
from jobs._runs import Target, find_run
from jobs._train import main as train
from tests.jobs.commands import ROOT, Here, Refused, write_images

SEQUENCES = r"^[a-z]+_(\d)"


pytestmark = pytest.mark.timeout(400)


def train_fcn8s() -> None:
    train(8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of six sequences, three of which have images in both splits."""
    root = tmp_path_factory.mktemp("files") / "data"
    return write_images(root, ["sky", "building", "road"], {"train": 6, "val": 3}, sequence=SEQUENCES)


@pytest.fixture(scope="module")
def trained(environment: dict[str, str], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Target:
    lab = tmp_path_factory.mktemp("lab")
    command = ["jobs/train_fcn8s.py", "folder", "--data", str(data), "--folds=2", "--storage", str(lab)]
    settings = ["--data.crop=32,40", "--model.trunk=vgg16_bn", "--model.width=0.06", "--model.fc_channels=8"]
    settings += ["--optim.epochs=2", "--optim.batch_size=2", "--optim.warmup_steps=0", "--data.zoom=1,1"]
    done = subprocess.run(
        [sys.executable, *command, *settings], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = re.search(r"^everything +(\S+)/evaluations/val$", done.stdout, re.MULTILINE)
    assert made is not None, done.stdout
    return find_run(made[1], "")


def evaluation_of(target: Target) -> Stored:
    kept = read_evaluation(f"{target.url}/evaluations/val")
    assert kept is not None
    return kept


@pytest.mark.slow
def test_the_run_names_its_folds_beside_it(trained: Target) -> None:
    facts = trained.folder.read_run()
    assert facts is not None
    assert [f"{Path(trained.url).parent}/{fold}" for fold in facts["folds"]] == list(trained.folds)
    runs = [find_run(url, "").run for url in trained.folds]
    assert [(run.data.folds, run.data.fold) for run in runs] == [(2, 0), (2, 1)]
    assert [run.name for run in runs] == ["folder-fcn8s-fold0", "folder-fcn8s-fold1"]


@pytest.mark.slow
def test_every_image_is_scored_once_and_no_sequence_is_on_both_sides(trained: Target, data: Path) -> None:
    kept = evaluation_of(trained)
    names = [open_split(find_run(url, "").run.data, "val").names for url in trained.folds]
    assert kept.evaluation.names == (*names[0], *names[1])
    assert len(kept.evaluation.names) == 9
    assert set(kept.evaluation.names) == {path.stem for path in data.glob("*/images/*")}
    first, second = ({re.findall(SEQUENCES, name)[0] for name in part} for part in names)
    assert len(first) + len(second) == 6
    assert not first & second


@pytest.mark.slow
def test_each_image_is_scored_by_the_last_network_of_the_fold_that_was_not_trained_on_it(trained: Target) -> None:
    """Not by the best, which was chosen by the images that are scored."""
    parts = []
    for target in (find_run(url, "") for url in trained.folds):
        dataset = open_split(target.run.data, "val")
        predictor = Predictor.load(target.folder.checkpoint(target.folder.steps()[-1]))
        part = evaluate(predictor, dataset, range(len(dataset.names)), Inference())
        parts.append(Evaluation.collect(dataset, [part]))
    kept = evaluation_of(trained)
    assert (kept.evaluation.confusion == Evaluation.merge(parts).confusion).all()
    assert kept.report.scores == scores(kept.evaluation.confusion)
    assert [one.run_id for one in kept.report.subject.checkpoints] == [Path(url).name for url in trained.folds]


@pytest.mark.slow
def test_evaluating_it_again_gives_the_same(
    trained: Target, here: Here, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    before = evaluation_of(trained).report
    here(main, trained.url)
    printed = capsys.readouterr().out
    assert printed.count("already evaluated") == 2
    assert "on 9 images" in printed
    assert evaluation_of(trained).report == before
    here(main, trained.url, "--rule=all")
    assert "of 9 images by rule" in capsys.readouterr().out
    for split in ("train", "/somewhere/val"):
        assert "leave out split" in refused(main, trained.url, "--split", split)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--folds 6 --data.streets.num_train=3 --data.streets.num_val=2",
            "6 folds ask for as many sequences, and there",
        ),
        ("--folds 1", "data.folds: Input should be greater than or equal to 2"),
        ("--folds 101", "data.folds: Input should be less than or equal to 100"),
        ("--data.fold 0", "fold 0 is none of the 0 folds: set folds, and fold below it"),
        ("--folds 2 --data.fold 2", "fold 2 is none of the 2 folds"),
        (f"--folds 2 --name {'x' * 60}", "xxx-fold0"),
    ],
)
def test_what_the_user_can_mend_gets_one_line_at_once(
    arguments: str, message: str, refused: Refused, tmp_path: Path
) -> None:
    assert message in refused(train_fcn8s, "streets", *arguments.split(), "--storage", tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_more_folds_than_sequences_are_refused_with_the_sequences(refused: Refused, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", ["one", "two"], {"train": 4, "val": 2}, sequence=SEQUENCES)
    said = refused(train_fcn8s, "folder", "--data", data, "--folds=5", "--storage", tmp_path / "lab")
    assert "5 folds ask for as many sequences, and there are 4: 0 (2 images), 1 (2 images), 2 (1 images)" in said
    assert not (tmp_path / "lab").exists()
