from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import services
from jobs._cli import parse
from services._settings import MOST_PIXELS, Serving, read_settings
from services.segmentation import Segmentation, _device, build


def test_nothing_needs_to_be_set() -> None:
    settings = read_settings(Serving, {}, {})
    assert (settings.storage, settings.model, settings.tokens) == ("results", None, None)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "FCN_STORAGE": "s3://lab",
        "FCN_SERVE_MODEL": "streets",
        "FCN_SERVE_VERSIONS": "[1, 2]",
    }.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(Serving, {"model": "roads", "max_waiting": "9"})
    assert (settings.storage, settings.model) == ("s3://lab", "roads")
    assert (settings.versions, settings.max_waiting) == ((1, 2), 9)
    assert read_settings(Serving, {"storage": "here"}).storage == "here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modle": "streets"}, "modle"),
        ({"model": "Streets!"}, "model"),
        ({"tile": 100}, "multiple of 32"),
        ({"max_images": 20}, "max_images 20 could never be admitted: max_waiting is 16"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"max_pixels": MOST_PIXELS + 1}, "max_pixels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(Serving, arguments, {})


def test_as_many_pixels_may_be_allowed_as_pillow_opens() -> None:
    assert Image.MAX_IMAGE_PIXELS == MOST_PIXELS


def test_a_misspelt_variable_is_named() -> None:
    with pytest.raises(ValueError, match="FCN_SERVE_TOKEN: FCN_SERVE_TOKENS"):
        read_settings(Serving, {}, {"FCN_SERVE_TOKEN": "tokens.json"})


def test_every_setting_is_in_the_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for name, field in Serving.model_fields.items():
        assert field.description
        variable = "FCN_STORAGE" if name == "storage" else f"FCN_SERVE_{name.upper()}"
        assert f"`{variable}`" in guide, variable


def test_the_deployment_asks_for_what_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    application = build({"device": "cuda", "tokens": "tokens.json"})
    deployment = application._bound_deployment
    (settings,) = deployment.init_args
    assert deployment.name == "Segmentation"
    assert deployment.ray_actor_options == {"num_cpus": 1, "num_gpus": 1}
    assert deployment.max_ongoing_requests == deployment.max_queued_requests == 1000
    assert (settings.storage, settings.tokens) == (str(tmp_path / "results"), str(tmp_path / "tokens.json"))
    assert build({"device": "cpu"})._bound_deployment.ray_actor_options["num_gpus"] == 0
    with pytest.raises(ValueError, match="modle"):
        build({"modle": "streets"})


@pytest.mark.parametrize("name", ["segmentation", "experiments"])
def test_configurations_leave_to_the_code_what_replicas_ask_for(name: str) -> None:
    # Ray would take options of a configuration in place of the code's, and the GPU would be lost.
    configuration = yaml.safe_load((Path(services.__path__[0]) / f"{name}.yaml").read_text())
    deployments = [one for application in configuration["applications"] for one in application["deployments"]]
    assert deployments
    assert not [one["name"] for one in deployments if "ray_actor_options" in one]


def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, found in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert _device(Serving(device="auto")) == found
        assert _device(Serving(device="cpu")) == "cpu"
    with pytest.raises(ValueError, match="this replica sees no GPU"):
        _device(Serving(device="cuda"))


def test_jobs_leave_the_settings_of_services_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_SERVE_MODEL", "streets")
    assert parse(["streets"], 8).run.model.stride == 8


def test_a_replica_computes_with_the_algorithms_of_evaluations(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.segmentation.host", lambda: "127.0.0.1")
    torch.use_deterministic_algorithms(mode=False)
    try:
        Segmentation(Serving.model_validate({"storage": str(lab)}))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(mode=False)
