from pathlib import Path

import pytest

from jobs._cli import parse
from services._settings import read_settings
from services.experiments import build
from services.lab.settings import Experiments


def test_nothing_needs_to_be_set() -> None:
    settings = read_settings(Experiments, {}, {})
    assert (settings.storage, settings.tokens, settings.cluster) == ("results", None, None)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_STORAGE", "s3://lab")
    monkeypatch.setenv("FCN_SERVE_TOKENS", "tokens.json")
    monkeypatch.setenv("FCN_EXPERIMENTS_CLUSTER", "http://head:8265")
    settings = read_settings(Experiments, {"refresh_s": 9})
    assert (settings.storage, settings.tokens, settings.refresh_s) == ("s3://lab", "tokens.json", 9)
    assert settings.cluster == "http://head:8265"
    assert read_settings(Experiments, {"storage": "here", "tokens": "mine"}).tokens == "mine"
    assert parse(["streets"], 8).run.model.stride == 8


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"storge": "here"}, {}, "storge"),
        ({"max_log_bytes": 1}, {}, "max_log_bytes"),
        ({}, {"FCN_EXPERIMENTS_CLUSTR": "x"}, "FCN_EXPERIMENTS_CLUSTR: FCN_EXPERIMENTS_CLUSTER"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    arguments: dict[str, object], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(Experiments, arguments, environment)


def test_the_deployment_takes_no_cpu_from_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deployment = build({"tokens": "tokens.json"})._bound_deployment
    (settings,) = deployment.init_args
    assert deployment.name == "Experiments"
    assert deployment.ray_actor_options == {"num_cpus": 0}
    assert (settings.storage, settings.tokens) == (str(tmp_path / "results"), str(tmp_path / "tokens.json"))
