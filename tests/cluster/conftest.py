from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.hosts import hosts
from tests.jobs.commands import s3_server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and two workers."""
    with ExitStack() as stack:
        # Both servers have the same buckets: the hosts reach the one, this process the other.
        stack.enter_context(s3_server(stack.enter_context(pytest.MonkeyPatch.context()), {}))
        started = Cluster(stack, stack.enter_context(hosts()), tmp_path_factory.mktemp("logs"))
        for _ in range(2):
            # One after the other: Ray gives a node 30 s to start, which are few on two busy cores.
            started.add_worker()
            started.wait_for_nodes()
        yield started
