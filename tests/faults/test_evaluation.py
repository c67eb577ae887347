"""An evaluation on a cluster that loses a node for good."""

import os
import signal
from pathlib import Path

import pytest

from fcn_core.checkpoint import RunFolder
from tests.faults.test_faults import cluster
from tests.jobs.commands import WithoutRay, processes_of, with_settings, write_run
from tests.jobs.test_evaluate import assert_same_evaluation, ended, evaluated, start_command
from tests.jobs.test_train import assert_nothing_left
from tests.tiny import changed, train

RUN = changed({"optim.epochs": 1})

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_what_a_lost_node_had_is_done_on_the_one_that_is_left(
    environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    folder = write_run(train(RUN, tmp_path / "lab" / "runs" / RUN.run_id).url, RUN)
    larger = {"data.streets.num_val": 48, "data.streets.height": 160, "data.streets.width": 240}
    folder = with_settings(RunFolder(folder.url), larger)
    here = Path(evaluated(folder, WithoutRay(), tta=True).url)
    here = here.rename(tmp_path / "here")
    with cluster(environment, tmp_path, nodes=2) as made:
        address = {"RAY_ADDRESS": f"127.0.0.1:{made.port}"}
        with ended(start_command(folder.url, made.environment | address, "--workers=4", "--tta")) as process:
            busy: list[str] = []
            while len(set(busy)) < 2:
                assert process.poll() is None
                tasks = [pid for pid, line in processes_of(ray_folder).items() if "ray::evaluate_images" in line]
                busy = [made.node_of(pid) for pid in tasks]
            os.kill(made.nodes()[busy[0]], signal.SIGKILL)
            printed, _ = process.communicate()
        assert process.returncode == 0, printed
        assert_same_evaluation(Path(folder.url) / "evaluations" / "val-tta", here)
        made.assert_nothing_left()
    assert_nothing_left(ray_folder)
