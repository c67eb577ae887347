"""What is said of a run that has ended."""

from pathlib import Path

import pytest

from jobs._cli import RunFailedError
from jobs._console import Console
from jobs._report import report
from tests.jobs.commands import write_run
from tests.test_checkpoint import epochs
from tests.tiny import TINY, audit_of


@pytest.mark.parametrize("left", [0, 1])
def test_a_run_that_left_no_end_has_failed(tmp_path: Path, left: int) -> None:
    """As on a cluster whose workers have disks of their own, or one of which came later and has."""
    folder = write_run(str(tmp_path), TINY)
    assert TINY.optim.last_epoch > left
    folder.write_epochs(epochs(*((step, 0.5) for step in range(1, left + 1))))
    with pytest.raises(RunFailedError, match=f"{tmp_path} lacks its last epoch: its workers wrote elsewhere; give"):
        report(folder.url, audit_of(TINY), TINY, Console())
