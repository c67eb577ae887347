"""Two gloo workers, killed at each operation on files of a save and of a restore."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from tests.faults.forked import SAVE_EVERY, STEPS
from tests.jobs.commands import ROOT
from tests.tiny import assert_same_bits


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_killed_anywhere_in_a_save_or_a_restore_loses_no_bit_and_at_most_the_steps_since_the_last_save(
    tmp_path: Path,
) -> None:
    """Every third moment of some ninety; the script takes 1 for all of them."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.forked", str(tmp_path), "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results[0]["of"] > 60
    assert len(results) >= results[0]["of"] // 3
    whole = RunFolder(str(tmp_path / "whole"))
    for result in results:
        folder = RunFolder(str(tmp_path / result["folder"]))
        assert_same_bits(folder, whole)
        for step in folder.steps():
            storage.verify(folder.checkpoint(step))
        assert not [name for name in storage.list_folder(folder.checkpoints) if name.startswith(storage.PARTIAL)]
        assert result["taken"] - STEPS <= SAVE_EVERY * len(result["kills"]), result
