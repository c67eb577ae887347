from pathlib import Path

import pytest

from fcn_core.registry.store import Registry
from tests.registry.made import Made, make
from tests.test_storage import _as_a_store_does, bucket  # noqa: F401


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("run"), 1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("run"), 2)


@pytest.fixture(params=["local", "s3"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "s3":
        return Registry(f"{request.getfixturevalue('bucket')}/{tmp_path.name}/models")
    return Registry(str(tmp_path / "models"))


@pytest.fixture
def local(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "models"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
