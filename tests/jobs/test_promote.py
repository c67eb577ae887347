"""Promotion: the real command on a Ray of its own, and all that it decides without one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file, save_file

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.registry.gate import read_gate
from fcn_core.registry.store import Entry, Registry
from fcn_core.stored import Stored
from jobs import _evaluate, _models, _promote
from jobs._cli import RunFailedError
from jobs._compare import CompareCommand, compare_runs
from jobs._console import Console
from jobs._evaluate import EvaluateCommand, evaluate_folds, evaluate_run
from jobs._promote import PromoteCommand, promote_run
from jobs._runs import find_checkpoint, find_run
from tests.jobs.commands import ROOT, Here, Refused, WithoutRay, write_images, write_run
from tests.tiny import changed, train

RUNS = [changed({"data.streets.num_val": 7, "seed": seed}) for seed in (0, 1)]
NAMES = ("sky", "building", "road", "pavement")

pytestmark = pytest.mark.timeout(240)


class Lab:
    """A storage with two runs, the second of which is worse."""

    def __init__(self, place: str, better: str, worse: str) -> None:
        self.place = place
        self.better = storage.join(place, "runs", better)
        self.worse = storage.join(place, "runs", worse)
        self.start = WithoutRay()

    @property
    def registry(self) -> Registry:
        return Registry(storage.join(self.place, "models"))

    @property
    def champions(self) -> list[int]:
        return [entry.version for entry in self.registry.history("streets")]

    def promote(self, run: str, **settings: Any) -> Entry:  # noqa: ANN401
        with Console() as console:
            command = PromoteCommand(run=run, storage=self.place, **({"model": "streets"} | settings))
            return promote_run(command, console, self.start)

    def evaluate(self, run: str, **settings: Any) -> Stored:  # noqa: ANN401
        with Console() as console:
            command = EvaluateCommand(run=run, storage=self.place, **settings)
            target = find_run(run, self.place)
            return (evaluate_folds if target.folds else evaluate_run)(target, command, console, self.start)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    place = tmp_path_factory.mktemp("lab")
    for run in RUNS:
        write_run(train(run, place / "runs" / run.run_id).url, run)
    lab = Lab(str(place), *(run.run_id for run in RUNS))
    scored = {Path(run).name: lab.evaluate(run).report.scores.mean_iou or 0 for run in (lab.better, lab.worse)}
    ranked = sorted(scored, key=lambda run: -scored[run])
    assert scored[ranked[0]] > scored[ranked[1]] + 0.02
    return Lab(str(place), *ranked)


@pytest.fixture
def lab(trained: Lab, tmp_path: Path) -> Lab:
    shutil.copytree(trained.place, tmp_path / "lab")
    return Lab(str(tmp_path / "lab"), Path(trained.better).name, Path(trained.worse).name)


@pytest.fixture(scope="module")
def promoted(trained: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """For tests that change nothing."""
    place = tmp_path_factory.mktemp("promoted") / "lab"
    shutil.copytree(trained.place, place)
    lab = Lab(str(place), Path(trained.better).name, Path(trained.worse).name)
    lab.promote(lab.better)
    return lab


def test_the_command_packs_evaluates_and_makes_champion(
    lab: Lab, environment: dict[str, str], here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "jobs/promote.py", lab.better, "--model=streets", "--storage", lab.place, "--workers=2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        rf"packed step \d of {Path(lab.better).name} as streets/1 in {lab.place}/models/streets/1",
        "whole: 7 files have the SHA-256 of the manifest",
        "reproduced: the confusion matrices of 7 images are those of the stored evaluation",
        "not worse: there is no champion yet",
        "champion     streets/1: the gate passed",
    ):
        assert re.search(f"^{line}$", done.stdout, re.MULTILINE), done.stdout
    assert lab.champions == [1]
    here(_promote.main, lab.better, "--model", "streets", "--storage", lab.place)
    printed = capsys.readouterr().out
    assert "already packed as streets/1" in printed
    assert "champion     streets/1: the gate passed" in printed
    assert lab.champions == [1]


def test_a_better_run_takes_over_and_a_worse_one_does_not(
    lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.promote(lab.worse)
    entry = lab.promote(lab.better)
    assert (entry.version, entry.previous, lab.champions) == (2, 1, [1, 2])
    with pytest.raises(SystemExit) as left:
        here(_models.main, "rollback", "streets", "--storage", lab.place, "--to", 2)
    assert left.value.code == 2
    here(_models.main, "rollback", "streets", "--storage", lab.place, "--reason", "poles are missed")
    assert "champion     streets/1 after streets/2: poles are missed" in capsys.readouterr().out
    assert lab.promote(lab.better).version == 2
    with pytest.raises(RunFailedError, match="streets/1 does not become champion: not worse: mean IoU -"):
        lab.promote(lab.worse)
    assert lab.champions == [1, 2, 1, 2]
    assert lab.start.started == 2


def test_a_gate_that_fails_has_an_exit_code_of_its_own_and_says_what_to_type(
    lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.promote(lab.better)
    with pytest.raises(RunFailedError):
        lab.promote(lab.worse)
    arguments = (lab.worse, "--model", "streets", "--storage", lab.place)
    with pytest.raises(SystemExit) as left:
        here(_promote.main, *arguments)
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "error: streets/2 does not become champion: not worse: mean IoU -" in said
    assert "to promote it nevertheless, say why: python jobs/promote.py" in said
    assert lab.champions == [1]
    here(_promote.main, *arguments, "--force", "a trial")
    printed = capsys.readouterr().out
    assert "already packed as streets/2" in printed
    assert "champion     streets/2 after streets/1: a trial" in printed
    assert lab.registry.history("streets")[-1].forced


def test_a_version_that_was_poisoned_is_neither_promoted_nor_taken_again(lab: Lab) -> None:
    lab.promote(lab.better)
    with pytest.raises(RunFailedError):
        lab.promote(lab.worse)
    version = lab.registry.read("streets", 2)
    weights = version.folder / "model.safetensors"
    with storage.publishing(version.url) as folder:
        for path in version.folder.iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        save_file({name: values * 0 for name, values in load_file(weights).items()}, folder / "model.safetensors")
    assert lab.promote(lab.worse, force="in a hurry").version == 3
    assert lab.champions == [1, 3]


def test_what_was_found_unsound_is_packed_anew(lab: Lab) -> None:
    """As when it was packed on another kind of machine."""
    labels = lab.registry.place("streets", 1)
    lab.promote(lab.worse)
    gate = read_gate(labels)
    assert gate is not None
    failed = gate.checks[1].model_copy(update={"passed": False})
    unsound = gate.model_copy(update={"checks": (gate.checks[0], failed, *gate.checks[2:])})
    storage.write_bytes(storage.join(labels, "gate.json"), unsound.model_dump_json().encode())
    assert lab.promote(lab.worse).version == 2


def test_images_that_changed_since_the_evaluation_stop_the_gate(tmp_path: Path) -> None:
    lab, data = of_files(tmp_path)
    shutil.copy(data / "val" / "images" / "val_0.png", data / "val" / "images" / "val_1.png")
    with pytest.raises(RunFailedError, match=r"reproduced: the data changed since val .*; --force does not help"):
        lab.promote(lab.better, force="why not")
    assert lab.registry.champion("streets") is None
    (data / "val" / "images" / "val_0.png").unlink()
    (data / "val" / "masks" / "val_0.png").unlink()
    with pytest.raises(ValueError, match="val_0 was evaluated and is not in the data now: evaluate the run again"):
        lab.promote(lab.better, model="other")


def test_data_that_moved_and_data_elsewhere_are_found(tmp_path: Path) -> None:
    lab, data = of_files(tmp_path)
    elsewhere = write_images(tmp_path / "else where", NAMES, {"val": 2})
    shutil.move(data, tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="data"):
        lab.promote(lab.better)
    assert lab.registry.models() == []
    lab.promote(lab.better, data=str(tmp_path / "moved"))
    lab.evaluate(lab.better, split=f"{elsewhere}/val")
    with pytest.raises(RunFailedError, match="cannot be compared with streets/1: the data differ"):
        lab.promote(lab.better, evaluation="else where-val")
    assert lab.promote(lab.better, evaluation="else where-val", force="the new benchmark").version == 2


def of_files(place: Path) -> tuple[Lab, Path]:
    data = write_images(place / "data", NAMES, {"train": 4, "val": 3})
    run = changed({"data.kind": "folder", "data.path": str(data), "optim.epochs": 1})
    write_run(train(run, place / "lab" / "runs" / run.run_id).url, run)
    lab = Lab(str(place / "lab"), run.run_id, run.run_id)
    lab.evaluate(lab.better)
    return lab, data


def test_other_ways_of_predicting_and_other_steps_are_promoted_as_they_were_evaluated(lab: Lab) -> None:
    lab.evaluate(lab.better, tta=True)
    lab.evaluate(lab.better, step="3")
    assert lab.promote(lab.better, evaluation="val-tta").version == 1
    assert storage.exists(f"{lab.place}/models/streets/1/evaluations/val-tta/scores.json")
    assert lab.promote(lab.better, evaluation="val-step3", model="early").version == 1
    assert lab.registry.read("early", 1).facts.checkpoint.step == 3
    with pytest.raises(RunFailedError, match="cannot be compared with streets/1: the rules differ"):
        lab.promote(lab.better)


def test_a_checkpoint_that_is_gone_or_another_cannot_be_promoted(lab: Lab) -> None:
    folder = RunFolder(lab.better)
    step = lab.evaluate(lab.better).report.subject.checkpoints[0].step
    other = next(one for one in folder.steps() if one != step)
    shutil.rmtree(folder.checkpoint(step))
    with pytest.raises(FileNotFoundError, match=f"no checkpoint of step '{step}'"):
        lab.promote(lab.better)
    shutil.copytree(folder.checkpoint(other), folder.checkpoint(step))
    with pytest.raises(ValueError, match="other weights than those that were evaluated: evaluate it again"):
        lab.promote(lab.better)
    assert lab.registry.models() == []


def test_folds_are_no_model(lab: Lab, trained: Lab) -> None:
    folds = [changed({"data.folds": 2, "data.fold": fold, "name": f"fold{fold}"}) for fold in (0, 1)]
    for fold in folds:
        shutil.copytree(trained.better, f"{lab.place}/runs/{fold.run_id}")
        write_run(f"{lab.place}/runs/{fold.run_id}", fold)
    whole = changed({"data.folds": 2})
    write_run(f"{lab.place}/runs/{whole.run_id}", whole, {"folds": [fold.run_id for fold in folds]})
    lab.evaluate(whole.run_id)
    with pytest.raises(ValueError, match="has a network for each of its folds: promote a run without folds"):
        lab.promote(whole.run_id)


@pytest.fixture
def memory(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lab]:
    """The same on a storage without folders, as S3 is."""
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    for path in (path for path in Path(lab.place).rglob("*") if path.is_file()):
        storage.write_bytes(f"memory://lab/{path.relative_to(lab.place)}", path.read_bytes())
    yield Lab("memory://lab", Path(lab.better).name, Path(lab.worse).name)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_promotion_on_an_object_store(memory: Lab, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    memory.promote(memory.worse)
    memory.promote(Path(memory.better).name)
    assert memory.champions == [1, 2]
    capsys.readouterr()
    here(_models.main, "show", "streets", "--storage", memory.place)
    assert "2 champion" in capsys.readouterr().out
    here(_models.main, "rollback", "streets", "--storage", memory.place)
    assert memory.champions == [1, 2, 1]


def test_a_version_is_evaluated_like_a_run_and_its_evaluations_are_kept_with_it(lab: Lab) -> None:
    lab.promote(lab.worse)
    lab.promote(lab.better)
    champion = lab.registry.place("streets", 2)
    for name in ("streets", "streets/2", champion, f"{champion}/"):
        assert find_run(name, lab.place).url == champion
    assert find_run("streets/1", lab.place).url == lab.registry.place("streets", 1)
    target = find_run("streets", lab.place)
    assert target.run == find_run(lab.better, lab.place).run
    url, card, identity = find_checkpoint(target, "best")
    assert (url, card.run_id) == (champion, Path(lab.better).name)
    assert identity == lab.registry.read("streets", 2).facts.checkpoint
    kept = lab.evaluate("streets", split="train")
    assert kept.url == f"{champion}/evaluations/train"
    assert kept.report.scores == lab.evaluate(lab.better, split="train").report.scores
    assert lab.registry.read("streets", 2).label == "streets/2"
    with Console() as console, pytest.raises(ValueError, match="differ in more than their seed"):
        compare_runs(CompareCommand(runs=["streets/1", "streets"], storage=lab.place), console)


def test_settings_of_training_in_the_environment_do_no_harm(
    lab: Lab, here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.promote(lab.better)
    monkeypatch.setenv("FCN_MODEL__TRUNK", "resnet18")
    monkeypatch.setenv("FCN_DATA__PATH", "/nowhere")
    here(_promote.main, lab.better, "--model", "streets", "--storage", lab.place)
    here(_models.main, "show", "streets", "--storage", lab.place)
    assert "1 champion" in capsys.readouterr().out


def test_what_is_no_version_is_not_evaluated(lab: Lab, refused: Refused) -> None:
    lab.promote(lab.better)
    assert "no run 'streets/2': it is neither" in refused(_evaluate.main, "streets/2", "--storage", lab.place)
    assert "no run 'other': it is neither" in refused(_evaluate.main, "other", "--storage", lab.place)
    step = refused(_evaluate.main, "streets/1", "--storage", lab.place, "--step", 3)
    assert "streets/1 is a version of a model and has one checkpoint: leave out step" in step
    (Path(lab.place) / "models" / "streets" / "1" / "model.safetensors").write_bytes(b"torn")
    assert "model.safetensors has not the SHA-256" in refused(_evaluate.main, "streets", "--storage", lab.place)


def test_models_are_listed_and_shown(lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    lab.promote(lab.better)
    with pytest.raises(RunFailedError):
        lab.promote(lab.worse)
    lab.promote(lab.worse, force="for [/fun]")
    lab.promote(lab.better, model="other")
    report = lab.registry.read("streets", 1).report
    mean_iou = f"{100 * (report.scores.mean_iou or 0):.1f}"

    def shown(*arguments: object) -> str:
        capsys.readouterr()
        here(_models.main, *arguments, "--storage", lab.place)
        return capsys.readouterr().out

    listed = shown("list")
    assert re.search(r"streets +2 +\d+\.\d +\d{4}-\d\d-\d\d \d\d:\d\d UTC +2 ", listed)
    assert re.search(rf"other +1 +{mean_iou} ", listed)
    history = shown("show", "streets")
    assert re.search(rf" 1 +{mean_iou} +\d+\.\d to \d+\.\d +val +\d +passed ", history)
    assert re.search(r" 2 champion .* not worse ", history)
    assert re.search(r"UTC  streets/1: the gate passed\n.*UTC  streets/2, forced: for \[/fun\]\n", history)
    version = shown("show", "streets/2")
    assert f"SHA-256 {lab.registry.read('streets', 2).weights}" in version
    assert report.rule in version
    assert "sky, building, road" in version
    assert "FAILED not worse: mean IoU -" in version
    champions = Path(lab.place) / "models" / "streets" / "champions"
    (champions / "00000002.json").write_text("")
    (Path(lab.registry.place("other", 1)) / "evaluation.json").write_text("{")
    listed = shown("list")
    assert re.search(r"streets +damaged", listed)
    assert re.search(r"other +1 +damaged", listed)
    assert re.search(r"1 champion +damaged", shown("show", "other"))


def test_a_model_that_was_never_champion_is_listed_without_one(
    lab: Lab, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.promote(lab.better)
    shutil.rmtree(Path(lab.place) / "models" / "streets" / "champions")
    (Path(lab.registry.place("streets", 1)) / "gate.json").unlink()
    here(_models.main, "list", "--storage", lab.place)
    assert re.search(r"streets +- +- +- +1", capsys.readouterr().out)
    here(_models.main, "show", "streets", "--storage", lab.place)
    assert re.search(r" 1 .* not asked ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("shw", "action: Input should be 'list', 'show' or 'rollback' (given: 'shw')"),
        ("", "the following arguments are required: ACTION"),
        ("show", "no model ''"),
        ("show strets", "no model 'strets' in {place}/models; models are streets"),
        ("show streets/7", "no version streets/7; versions of streets are 1"),
        ("show streets/x", "no version streets/x; versions of streets are 1"),
        ("rollback strets", "no model 'strets'"),
        ("rollback streets", "no version was champion before streets/1"),
        ("rollback streets --to 3", "streets/3 never was champion, versions 1 were: promote it"),
        ("rollback streets --to 0", "to: Input should be greater than or equal to 1"),
        ("rollback streets --raeson x", "no setting 'raeson'; did you mean reason"),
    ],
)
def test_what_the_user_can_mend_about_models_gets_one_line(
    arguments: str, message: str, promoted: Lab, refused: Refused
) -> None:
    said = refused(_models.main, *arguments.split(), "--storage", promoted.place)
    assert message.format(place=promoted.place) in said
    assert promoted.champions == [1]


def test_without_models_it_is_said_how_one_gets_some(refused: Refused, tmp_path: Path) -> None:
    said = refused(_models.main, "show", "streets", "--storage", tmp_path)
    assert f"no model 'streets' in {tmp_path}/models; there are none: python jobs/promote.py --help" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "model: Field required"),
        ("--model Streets", "model: String should match pattern"),
        ("--model ../runs", "model: String should match pattern"),
        ("--model streets --evaluation test", "has no evaluation 'test': there are val; first python jobs/evaluate.py"),
        ("--model streets --force=", "force: String should have at least 1 character"),
        ("--model streets --storage s4://nowhere", "cannot use s4://nowhere: Protocol not known: s4"),
        ("--model streets --workers 0", "workers: Input should be greater than or equal to 1"),
    ],
)
def test_what_the_user_can_mend_gets_one_line_at_once(arguments: str, message: str, lab: Lab, refused: Refused) -> None:
    assert message in refused(_promote.main, lab.better, "--storage", lab.place, *arguments.split())
    assert lab.registry.models() == []


def test_a_run_that_was_not_evaluated_is_to_be_evaluated_first(lab: Lab, refused: Refused) -> None:
    shutil.rmtree(Path(lab.better) / "evaluations")
    said = refused(_promote.main, lab.better, "--storage", lab.place, "--model", "streets")
    assert f"has no evaluation 'val': first python jobs/evaluate.py {lab.better}" in said
