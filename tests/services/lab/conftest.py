from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.testclient import TestClient

from fcn_core.registry.store import MODELS, Registry
from tests.registry.made import Made, made_champion
from tests.services.conftest import made, other  # noqa: F401 -- fixtures.
from tests.services.lab.made import FakeCluster, add_run, add_sweep, client_of, lab_of
from tests.test_storage import _as_a_store_does, bucket  # noqa: F401 -- fixtures.


class Place(NamedTuple):
    """A storage to which nobody writes, and the ids of its runs."""

    folder: Path
    good: str
    poor: str
    unlike: str
    begun: str


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, made: Made, other: Made) -> Place:  # noqa: F811
    folder = tmp_path_factory.mktemp("lab")
    registry = Registry(str(folder / MODELS))
    made_champion(registry, made.candidate())
    made_champion(registry, other.candidate(), force="a test")
    add_sweep(folder, trials=3, ended=2)
    return Place(
        folder,
        good=add_run(folder, {"name": "good"}, errors=0.1),
        poor=add_run(folder, {"name": "poor", "optim.learning_rate": 0.001, "model.stride": 32}, errors=0.4),
        unlike=add_run(folder, {"name": "unlike"}, errors=0.2, digest="3" * 64),
        begun=add_run(folder, {"name": "begun", "seed": 7}, epochs=2, errors=None),
    )


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def client(place: Place, cluster: FakeCluster) -> Iterator[TestClient]:
    with client_of(lab_of(place.folder, cluster)) as client:
        yield client
