"""The real command, on a Ray of its own: two workers, faults, S3, a submitted job."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.data.streets import StreetScenes
from fcn_core.predict import Predictor
from fcn_core.settings import Streets
from jobs._restarts import read_restarts
from jobs._storage_check import look_over
from tests.faulty import Fault, Kind, faulty_s3
from tests.jobs.commands import ROOT, left_of, processes_of, ray_head, s3_server
from tests.tiny import assert_same_bits

JOB = ["jobs/train_fcn8s.py", "streets"]
# Workers live on for two or three seconds when their driver is killed: the run must last longer.
SETTINGS = [
    "--data.streets.num_train=36",
    "--data.streets.num_val=4",
    "--model.width=0.06",
    "--model.fc_channels=8",
    "--optim.epochs=16",
    "--optim.batch_size=12",
]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def two_workers(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run never stopped."""
    return finish(tmp_path_factory.mktemp("two"), environment, "--workers", "2")


def start(place: Path | str, environment: Mapping[str, str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, *JOB, *SETTINGS, "--storage", str(place), *more]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(place: Path | str, environment: Mapping[str, str], *more: str) -> RunFolder:
    process = start(place, environment, *more)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return folder_in(printed)


def folder_in(printed: str) -> RunFolder:
    found = re.search(r"^run \S+ in (\S+)$", printed, re.MULTILINE)
    assert found, printed
    return RunFolder(found[1])


def run_until_the_first_epoch_is_saved(process: subprocess.Popen[str]) -> str:
    """Return what was printed; what the storage holds is newer than the console, which workers do not wait for."""
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if line.startswith("run "):
            break
    folder = folder_in(printed)
    deadline = time.monotonic() + 120
    while not folder.read_epochs():
        assert time.monotonic() < deadline
        assert process.poll() is None, printed
        time.sleep(0.05)
    return printed


def assert_nothing_left(ray_folder: Path) -> None:
    deadline = time.monotonic() + 30
    while left := left_of(ray_folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_a_run_leaves_all_that_it_promises(two_workers: RunFolder, ray_folder: Path) -> None:
    facts = two_workers.read_run()
    assert facts is not None
    assert facts["settings"]["optim"]["batch_size"] == 12
    assert "void excluded" in facts["rule"]
    assert len(facts["audit"]["train"]["kept"]) == 36
    assert [epoch.epoch for epoch in two_workers.read_epochs()] == list(range(1, 17))
    assert len(two_workers.steps()) <= 3
    assert Predictor.load(two_workers.url).classes.names[0] == "sky"
    for figure in ("validation", "predictions"):
        with Image.open(Path(two_workers.url) / "figures" / f"{figure}.png") as picture:
            assert min(picture.size) > 500
    assert_nothing_left(ray_folder)


def test_one_worker_gives_the_losses_of_two(
    two_workers: RunFolder, environment: dict[str, str], tmp_path: Path
) -> None:
    """In the first epochs: from there on, training itself makes differences in the last bits grow."""
    one = finish(tmp_path, environment, "--workers", "1")
    for ours, theirs in zip(one.read_epochs()[:4], two_workers.read_epochs()[:4], strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)


def test_a_driver_that_is_killed_and_started_again_ends_as_if_never_stopped(
    two_workers: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, environment, "--workers", "2")
    folder = folder_in(run_until_the_first_epoch_is_saved(process))
    process.kill()
    process.communicate()
    assert_nothing_left(ray_folder)
    saved = folder.steps()[-1]
    assert saved < 48, "the run was over too soon"
    process = start(tmp_path, environment, "--workers", "2")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    # Nothing is done again but what came after the last save.
    assert f"resumed at step {saved} of 48" in printed, printed
    (restart,) = read_restarts(folder)
    assert (restart.cause, restart.resumed_at) == ("the command was started again", saved)
    assert_same_bits(folder, two_workers)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_run_ends_as_if_it_had_not_been_on_s3_too(
    two_workers: RunFolder,
    environment: dict[str, str],
    ray_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with s3_server(monkeypatch, environment) as with_access:
        process = start("s3://lab/here", with_access, "--workers", "2", "--save-every", "2")
        printed = run_until_the_first_epoch_is_saved(process)
        workers = [pid for pid, line in processes_of(ray_folder).items() if "RayTrainWorker" in line]
        assert len(workers) == 2
        os.kill(workers[-1], signal.SIGKILL)
        printed += process.communicate()[0]
        assert process.returncode == 0, printed
        assert re.search(r"resumed at step \d+ of 48", printed), printed
        folder = folder_in(printed)
        assert folder.url.startswith("s3://lab/here/runs/")
        assert_same_bits(folder, two_workers)
        for step in folder.steps():
            storage.verify(folder.checkpoint(step))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("403", (2, "error: s3://lab/403/runs/.* refuses put_file: ")),
        ("503", (1, "error: training failed for good, last: worker 0 failed: .*put_file failed .* in 5 s")),
    ],
)
def test_a_storage_that_fails_a_save_ends_the_command_in_one_line_and_the_same_command_goes_on(
    kind: Kind,
    expected: tuple[int, str],
    two_workers: RunFolder,
    environment: dict[str, str],
    ray_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The server keeps what it has for as long as this process lives.
    place = f"s3://lab/{kind}"
    with faulty_s3(monkeypatch, deadline_s=5, patience_s=5) as proxy:
        access = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "FCN_STORAGE_"))}
        fault = Fault(kind, r"PUT .*/checkpoints/\d+/COMMIT")
        with proxy.failing(fault):
            process = start(place, environment | access, "--workers", "2", "--max-failures", "1")
            printed, _ = process.communicate()
        assert fault.met, (printed, proxy.requests[-20:])
        assert process.returncode == expected[0], printed
        assert re.match(expected[1], printed.splitlines()[-1]), printed
        assert_nothing_left(ray_folder)
        folder = folder_in(printed)
        assert folder.latest("", print) is None
        assert_same_bits(finish(place, environment | access, "--workers", "2"), two_workers)
        assert look_over(folder.url, quick=False, progress=lambda *_: None).findings == ()


def test_ctrl_c_ends_a_run_that_goes_on_later(environment: dict[str, str], ray_folder: Path, tmp_path: Path) -> None:
    process = start(tmp_path, environment, "--workers", "2")
    run_until_the_first_epoch_is_saved(process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate()
    assert process.returncode == 130, printed
    assert "the same command goes on" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert_nothing_left(ray_folder)


def test_a_broken_image_that_was_left_out_does_not_come_back_in_the_figures(
    environment: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    scenes = StreetScenes(Streets(height=32, width=48), "train")
    (root).mkdir()
    (root / "classes.json").write_text(json.dumps({"names": scenes.classes.names}))
    for split, numbers in (("train", range(4)), ("val", range(4, 7))):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in numbers:
            sample = scenes.read(number)
            Image.fromarray(sample.image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(sample.mask).save(root / split / "masks" / f"{number}.png")
    (root / "val" / "images" / "4.png").write_bytes(b"broken")
    command = [
        sys.executable,
        "jobs/train_fcn32s.py",
        "folder",
        "--data",
        str(root),
        "--storage",
        str(tmp_path / "lab"),
    ]
    settings = ["--data.audit=leave_out", "--data.crop=32,48", "--model.width=0.06", "--optim.epochs=1"]
    done = subprocess.run(
        [*command, *settings, "--optim.batch_size=2"],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4.png" in done.stdout
    assert storage.exists(f"{folder_in(done.stdout).url}/figures/predictions.png")


def test_a_loss_that_diverges_ends_the_run_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    process = start(tmp_path, environment, "--workers", "2", "--optim.learning_rate", "1e30", "--optim.method", "sgd")
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "not finite at step" in printed.splitlines()[-1]
    assert printed.count("starting 2 workers") == 1
    assert "Traceback" not in printed


def test_bad_data_are_all_named_before_anything_starts(environment: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (20, 10), (len(split), 9, ord(name))).save(root / split / "images" / f"{name}.png")
            Image.new("L", (20, 10), 1).save(root / split / "masks" / f"{name}.png")
    (root / "classes.json").write_text(json.dumps({"names": ["one", "two"]}))
    (root / "train" / "masks" / "a.png").unlink()
    (root / "train" / "images" / "b.png").write_bytes(b"")
    command = [sys.executable, "jobs/train_fcn8s.py", "folder", "--data", str(root), "--storage", str(tmp_path / "lab")]
    done = subprocess.run(
        [*command, "--optim.batch_size=1"], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert "a.png" in done.stderr
    assert "b.png" in done.stderr
    assert not (tmp_path / "lab").exists()


def test_changed_data_are_not_mixed_into_a_run(
    two_workers: RunFolder, environment: dict[str, str], tmp_path: Path
) -> None:
    facts = two_workers.read_run()
    assert facts is not None
    facts["audit"]["train"]["digest"] = "another"
    run_id = facts["run_id"]
    RunFolder(str(tmp_path / "runs" / run_id)).write_run(facts)
    process = start(tmp_path, environment, "--workers", "2")
    printed, _ = process.communicate()
    assert process.returncode == 2
    assert "the data changed since run" in printed.splitlines()[-1]


@pytest.mark.slow
def test_a_submitted_job_is_the_same_run(
    two_workers: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    with ray_head(environment) as head:
        done = head.submit(*JOB, *SETTINGS, "--workers", "2", "--storage", str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same_bits(folder_in(done.stdout), two_workers)
        done = head.submit(*JOB, *SETTINGS, "--workers", "3", "--storage", str(tmp_path), "--wait-for-nodes-s", "2")
    assert done.returncode == 1
    lack = "error: 3 workers ask for 1 CPU each; after 2 s Ray has 2 CPU on 1 node: lower workers or cpus_per_worker"
    assert lack in done.stdout
    assert_nothing_left(ray_folder)


@pytest.mark.parametrize(
    ("more", "variables", "message"),
    [
        (["--storage=s3://nowhere/lab"], {}, "cannot use s3://nowhere/lab: Unable to locate credentials"),
        (["--workers=5"], {}, "batch_size 12 does not divide over 5 workers"),
        (["--device=cuda"], {"CUDA_VISIBLE_DEVICES": ""}, "1 workers ask for 1 CPU and 1 GPU each; Ray has"),
        ([], {"RAY_ADDRESS": "127.0.0.1:1"}, "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1"),
        (["--model.start_from=nowhere"], {}, "neither a checkpoint nor a run"),
        (["--model.width=1", "--model.weights=nowhere.pth"], {}, "nowhere.pth"),
    ],
)
def test_what_the_user_can_mend_gets_one_line_at_once(
    more: list[str], variables: dict[str, str], message: str, environment: dict[str, str], tmp_path: Path
) -> None:
    process = start(tmp_path, environment | {"AWS_EC2_METADATA_DISABLED": "true"} | variables, *more)
    printed, _ = process.communicate()
    assert process.returncode == 2, printed
    assert message in printed.splitlines()[-1]
    assert printed.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in printed
