from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fcn_core.registry.store import MODELS, Registry
from services._fields import FOLDER
from services._service import Service
from tests.jobs.test_receptive_field import looked
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


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, lab: Path) -> Path:
    """A storage with the models of `lab` and what the job found of two units. Nobody writes to it."""
    place = tmp_path_factory.mktemp("place")
    (place / MODELS).symlink_to(lab / MODELS)
    looked(place, unit="4,5")
    (place / FOLDER / "resnet18-theory.png").write_bytes(b"of all layers, not of a look")
    (place / FOLDER / "torn").mkdir()
    (place / "secret.json").write_text("{}")
    return place


@pytest.fixture(scope="module")
def service(lab: Path) -> Service:
    return serving(lab, versions=(1,))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with client_of(service) as client:
        yield client
