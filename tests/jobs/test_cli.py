import sys
from pathlib import Path

import pytest

from fcn_core.experiments import EXPERIMENTS
from fcn_core.settings import Run, setting_names
from jobs._cli import Job, Launch, as_yaml, parse


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_fcn8s.py"])


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        parse(arguments.split(), 8)
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def job(arguments: str) -> Job:
    return parse(arguments.split(), 8)


def test_the_job_decides_the_stride_and_the_name() -> None:
    run = parse(["streets"], 32).run
    assert (run.name, run.model.stride) == ("streets-fcn32s", 32)


def test_the_same_command_is_the_same_run() -> None:
    assert job("streets --optim.epochs 3").run.run_id == job("streets --optim.epochs=3").run.run_id


def test_where_a_run_is_carried_out_does_not_change_it() -> None:
    assert job("streets").run == job("streets --workers 2 --storage s3://bucket/lab --loader-processes 3").run


def test_the_command_line_wins_over_the_environment_that_over_yaml_that_over_the_experiment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("optim: {learning_rate: 0.1, momentum: 0.1, weight_decay: 0.1}\n")
    monkeypatch.setenv("FCN_OPTIM__LEARNING_RATE", "0.2")
    monkeypatch.setenv("FCN_OPTIM__MOMENTUM", "0.2")
    optim = job(f"streets --config {config} --optim.learning_rate 0.3").run.optim
    assert (optim.learning_rate, optim.momentum, optim.weight_decay) == (0.3, 0.2, 0.1)
    assert optim.warmup_steps == EXPERIMENTS["streets"]().optim.warmup_steps


def test_data_is_short_for_its_path_and_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert job("camvid --data here").run == job(f"camvid --data.path={tmp_path}/here").run
    assert job("camvid --data s3://bucket/camvid").run.data.path == "s3://bucket/camvid"


def test_dashes_serve_for_underscores() -> None:
    assert job("streets --cpus-per-worker 3 --optim.learning-rate 0.5 --no-data.flip --print-config") == job(
        "streets --cpus_per_worker 3 --optim.learning_rate 0.5 --no-data.flip --print_config"
    )


def test_printed_settings_are_a_config_of_the_same_job(tmp_path: Path) -> None:
    first = job("camvid --data somewhere --workers 3 --model.stride 16 --data.crop 32,48")
    config = tmp_path / "run.yaml"
    config.write_text(as_yaml(first))
    assert job(f"camvid --config {config}") == first


def test_sizes_are_pairs() -> None:
    assert job("streets --data.crop 32,48").run.data.crop == (32, 48)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("cmavid", "no experiment 'cmavid'; experiments are streets, camvid"),
        ("--optim.lerning_rate 3", "no setting 'optim.lerning_rate'; did you mean optim.learning_rate"),
        ("--optim.learning_rate -3", "optim.learning_rate: Input should be greater than 0 (given: '-3')"),
        ("--model.trunk vgg", "model.trunk: Input should be 'vgg16', 'vgg16_bn', 'resnet18'"),
        ("--model.stride 9", "model.stride: Input should be 8, 16 or 32 (given: 9)"),
        ("--workers 0", "workers: Input should be greater than or equal to 1"),
        ("--data somewhere", "data: the data set 'streets' is drawn, not read"),
        ("streets --data.kind voc", "data: the data set 'voc' needs a path"),
        ("streets --config nowhere.yaml", "nowhere.yaml"),
        ("streets --optim.epochs many", "optim.epochs: Input should be a valid integer"),
        ("streets --loss.cross_entropy 0", "loss: cross_entropy and dice are both 0"),
    ],
)
def test_a_wrong_command_line_gets_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(arguments, capsys)


def test_a_wrong_variable_gets_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FCN_OPTIM__EPOCS", "3")
    assert "FCN_OPTIM__EPOCS; did you mean optim.epochs" in refused("streets", capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lerning_rate: 1}", "no setting 'optim.lerning_rate'; did you mean optim.learning_rate"),
        ("[1, 2]", "must hold settings by name"),
        ("model: resnet18", "model: Input should be"),
        ("model:", "model: Input should be"),
        ("optim: {", "is no YAML"),
    ],
)
def test_a_wrong_yaml_file_gets_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    assert message in refused(f"streets --config {config}", capsys)


def test_help_describes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["--help"], 8)
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in [*setting_names(Run()), *Launch.model_fields]:
        assert f"--{name} " in shown
    for name, field in Launch.model_fields.items():
        assert " ".join((field.description or "?").split())[:20] in shown, name


def test_results_of_a_submitted_job_do_not_go_where_they_are_removed_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unpacked = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)
    for arguments in ("streets", "streets --storage results", f"streets --storage {unpacked}/lab"):
        assert "storage: a submitted job runs in a folder that does not outlive it: give --storage" in refused(
            arguments, capsys
        )
    for place in ("s3://bucket/lab", str(tmp_path)):
        assert job(f"streets --storage {place}").launch.storage == place
