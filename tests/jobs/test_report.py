"""What is said of a run that has ended."""

from pathlib import Path

import pytest

from jobs._cli import RunFailedError
from jobs._console import Console
from jobs._report import report
from tests.jobs.commands import write_run
from tests.tiny import TINY, audit_of


def test_a_run_that_left_nothing_has_failed(tmp_path: Path) -> None:
    """As on a cluster whose workers have disks of their own."""
    folder = write_run(str(tmp_path), TINY)
    with pytest.raises(RunFailedError, match=f"{tmp_path} has no epochs: its workers wrote elsewhere; give --storage"):
        report(folder.url, audit_of(TINY), TINY, Console())
