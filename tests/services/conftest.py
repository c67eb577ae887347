from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fcn_core.registry.store import MODELS, Registry
from services._service import Service
from tests.registry.made import NAME, Made, made_champion, make
from tests.services.serving import client_of, serving
from tests.test_storage import _as_a_store_does, bucket  # noqa: F401 -- fixtures.


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("run"), 1)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("run"), 2)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, made: Made, other: Made) -> Path:
    """A storage whose champion is the second of two versions. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("lab")
    registry = Registry(str(folder / MODELS))
    made_champion(registry, made.candidate())
    made_champion(registry, other.candidate(), force="a test")
    assert registry.versions(NAME) == [1, 2]
    return folder


@pytest.fixture(scope="module")
def service(lab: Path) -> Service:
    return serving(lab, versions=(1,))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with client_of(service) as client:
        yield client
