import pytest

from jobs._ray import environment_variables


def test_what_may_be_secret_is_no_setting_that_ray_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN", "FCN_CACHE"):
        monkeypatch.setenv(name, "value")
    assert {name for name, value in environment_variables().items() if value == "value"} == {"FCN_CACHE"}
