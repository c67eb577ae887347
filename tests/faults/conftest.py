from collections.abc import Iterator

import pytest

from tests.faults.running import started
from tests.jobs.conftest import environment, ray_folder  # noqa: F401 -- fixtures.


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """End what a test that failed has left."""
    yield
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
    started.clear()
