"""Runs on a real MLflow server, which stops answering and dies."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.metrics.rules import Scores
from fcn_core.settings import Run, override, setting_names
from jobs import _tracking
from jobs._tracking import DEFAULTS, Ended, _Copy, _Follower, _metric_names, bring, check_tracking, tracking
from jobs._train import main, run_facts
from tests.jobs.commands import ROOT, Refused
from tests.jobs.test_train import folder_in, run_until_the_first_epoch_is_saved, start
from tests.tiny import TINY


class Server:
    """`mlflow server` in a session of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers=1", "--host=127.0.0.1", f"--port={self._port}"]
        places = [f"--backend-store-uri=sqlite:///{self._folder}/mlflow.db", f"--artifacts-destination={self._folder}"]
        # By default there are thirteen processes more.
        few = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *places], env=os.environ | few, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 150
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()  # noqa: S310
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                assert self._process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Accept connections and do not answer while the block runs."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("mlflow")) as started:
        yield started


@pytest.fixture
def tracked(server: Server, variables: None, monkeypatch: pytest.MonkeyPatch) -> Server:  # noqa: ARG001
    """A server that is patiently waited for, however busy the machine is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(_tracking, "END_S", 60.0)
    return server


@pytest.fixture(autouse=True)
def no_thread_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: ARG001
    """A thread that was not waited for ends before its variables are taken away: it would go on without them."""
    yield
    for thread in threading.enumerate():
        if thread.name == "mlflow":
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are set where they are not are taken away again."""
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    """One for each test: they share a server."""
    return override(TINY, {"name": re.sub(r"[^a-z0-9]", "-", request.node.name.lower())[:60].strip("-")})


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> RunFolder:
    folder = RunFolder(str(tmp_path / run.run_id))
    audited = {"train": {"digest": "1" * 64}, "val": {"digest": "2" * 64}, "findings": []}
    folder.write_run(run_facts(run) | {"rule": "10 classes, void excluded", "audit": audited})
    return folder


def an_epoch(number: int, mean_iou: float | None = 0.5, seconds: float = 1.5) -> Epoch:
    """Of the ten classes of street scenes; the second is absent."""
    ious = (0.1, None, *(0.2 + number / 1024,) * 8)
    scores = Scores(
        pixel_accuracy=0.9,
        mean_accuracy=0.7,
        mean_iou=mean_iou,
        frequency_weighted_iou=0.6,
        mean_dice=0.55,
        class_accuracy=ious,
        class_iou=ious,
        class_dice=ious,
        labelled_pixels=100,
    )
    return Epoch(
        epoch=number,
        step=3 * number,
        train_loss=2.0 / number,
        learning_rate=0.01,
        scores=scores,
        images_per_s=30.0,
        seconds=seconds,
    )


def epochs(count: int, seconds: float = 1.5) -> list[Epoch]:
    return [an_epoch(number, seconds=seconds) for number in range(1, count + 1)]


def log(run: Run, folder: RunFolder, upto: int, seconds: float = 1.5) -> list[str]:
    """Log a run as its driver does, each call in no time, and return what was said."""
    said: list[str] = []
    longest_s = 0.0
    with tracking(run, folder.url, said.append) as new_epoch:
        for count in range(len(folder.read_epochs()) + 1, upto + 1):
            folder.write_epochs(epochs(count, seconds))
            began = time.monotonic()
            new_epoch()
            longest_s = max(longest_s, time.monotonic() - began)
            time.sleep(0.02)
    # A request that is not answered takes a second or more.
    assert longest_s < 0.5
    return said


def client(server: Server) -> Any:  # noqa: ANN401 -- MLflow's types are skipped.
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.url)


def all_found(server: Server, run: Run) -> list[Any]:
    there = client(server)
    experiment = there.get_experiment_by_name("fcn-lab")
    ours = f"tags.`fcn.run_id` = '{run.run_id}'"
    return list(there.search_runs([experiment.experiment_id], ours)) if experiment else []


def found(server: Server, run: Run) -> Any:  # noqa: ANN401
    """Return the one MLflow run that is ours."""
    (ours,) = all_found(server, run)
    return ours


def has_epochs(server: Server, run: Run) -> bool:
    return any("train_loss" in ours.data.metrics for ours in all_found(server, run))


def points(server: Server, run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of everything that MLflow has of each metric, in order."""
    there, ours = client(server), found(server, run)
    histories = {name: there.get_metric_history(ours.info.run_id, name) for name in ours.data.metrics}
    return {name: sorted((point.step, point.value) for point in points) for name, points in histories.items()}


def test_all_settings_and_epochs_arrive(tracked: Server, run: Run, folder: RunFolder) -> None:
    said = log(run, folder, 3)
    ours = found(tracked, run)
    assert (ours.info.run_name, ours.info.status) == (run.name, "FINISHED")
    assert set(ours.data.params) == set(setting_names(run))
    assert ours.data.params["optim.learning_rate"] == "0.05"
    assert ours.data.params["data.crop"] == "[32, 40]"
    assert ours.data.params["data.kind"] == "streets"
    assert ours.data.params["data.path"] == "null"
    for name, value in {
        "run_id": run.run_id,
        "folder": folder.url,
        "checkpoint": folder.checkpoint(3),
        "rule": "10 classes, void excluded",
        "data.train": "1" * 64,
        "data.val": "2" * 64,
        "version": "0.1.0",
    }.items():
        assert ours.data.tags[f"fcn.{name}"] == value
    numbers = points(tracked, run)
    assert numbers["train_loss"] == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
    times = [point.timestamp for point in client(tracked).get_metric_history(ours.info.run_id, "train_loss")]
    assert times == [ours.info.start_time + 1500 * number for number in (1, 2, 3)]
    assert numbers["iou/sky"] == [(1, 0.1), (2, 0.1), (3, 0.1)]
    assert numbers["iou/fence"] == [(number, 0.2 + number / 1024) for number in (1, 2, 3)]
    assert {name for name in numbers if not name.startswith("iou/")} == {
        "train_loss",
        "learning_rate",
        "images_per_s",
    } | {*("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_dice")}
    assert "iou/building" not in numbers
    assert said == [f"MLflow {tracked.url}/#/experiments/{ours.info.experiment_id}/runs/{ours.info.run_id}"]


def test_a_run_that_goes_on_does_so_in_the_same_mlflow_run(tracked: Server, run: Run, folder: RunFolder) -> None:
    folder.write_epochs(epochs(3))
    with pytest.raises(RuntimeError, match="lost"), tracking(run, folder.url, print):
        raise RuntimeError("lost")
    first = found(tracked, run)
    assert first.info.status == "FAILED"
    # A crash can cost epochs, which are done again and take another time.
    folder.write_epochs(epochs(2))
    log(run, folder, 5, seconds=2.0)
    again = found(tracked, run)
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "FINISHED")
    assert again.info.end_time == again.info.start_time + 10_000
    numbers = points(tracked, run)
    assert numbers["train_loss"] == [(number, 2.0 / number) for number in range(1, 6)]
    assert {name: len(numbers[name]) for name in numbers} == dict.fromkeys(numbers, 5)


def test_epochs_that_are_done_again_while_the_driver_lives_come_once(
    tracked: Server, run: Run, folder: RunFolder
) -> None:
    """As when a worker was lost, here in a run that was taken up again."""
    log(run, folder, 0)
    with tracking(run, folder.url, print) as new_epoch:
        folder.write_epochs(epochs(3))
        new_epoch()
        wait_until(lambda: has_epochs(tracked, run))
        assert found(tracked, run).info.status == "RUNNING"
        folder.write_epochs([])
        new_epoch()
        folder.write_epochs(epochs(4, seconds=2.0))
    assert {len(found) for found in points(tracked, run).values()} == {4}


def test_a_run_that_is_over_is_brought_whole(tracked: Server, run: Run, folder: RunFolder) -> None:
    """As when a command is typed again; in more than one request, since MLflow takes a thousand metrics in each."""
    folder.write_epochs(epochs(150))
    log(run, folder, 150)
    log(run, folder, 150)
    numbers = points(tracked, run)
    assert {len(numbers[name]) for name in numbers} == {150}
    assert found(tracked, run).data.tags["fcn.checkpoint"] == folder.checkpoint(3)


def test_a_run_that_was_begun_and_no_more_gets_its_settings(tracked: Server, run: Run, folder: RunFolder) -> None:
    """As when the server dies between two requests."""
    log(run, folder, 0)
    there, first = client(tracked), found(tracked, run)
    there.delete_run(first.info.run_id)
    begun = there.create_run(first.info.experiment_id, tags={"fcn.run_id": run.run_id})
    # MLflow refuses another value of a param, so what is there stays.
    there.log_param(begun.info.run_id, "optim.learning_rate", "5e-2")
    log(run, folder, 1)
    assert found(tracked, run).data.params == first.data.params | {"optim.learning_rate": "5e-2"}
    assert has_epochs(tracked, run)


def test_ctrl_c_is_told(tracked: Server, run: Run, folder: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt), tracking(run, folder.url, print):
        raise KeyboardInterrupt
    assert found(tracked, run).info.status == "KILLED"


def test_an_epoch_without_a_score_has_a_point_of_the_others(tracked: Server, run: Run, folder: RunFolder) -> None:
    folder.write_epochs([an_epoch(1, mean_iou=None)])
    log(run, folder, 1)
    assert "mean_iou" not in points(tracked, run)
    assert "train_loss" in points(tracked, run)


def test_more_tags_and_another_experiment(
    tracked: Server, run: Run, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    with tracking(run, folder.url, print, {"fcn.sweep": "widths"}):
        pass
    there = client(tracked)
    (ours,) = there.search_runs([there.get_experiment_by_name("elsewhere").experiment_id])
    assert ours.data.tags["fcn.sweep"] == "widths"


def test_a_trial_that_was_stopped_is_brought_by_the_sweep(
    tracked: Server, run: Run, folder: RunFolder, tmp_path: Path
) -> None:
    """Its own process ended before it could tell."""
    folder.write_epochs(epochs(2))
    with pytest.raises(RuntimeError), tracking(run, folder.url, print):
        raise RuntimeError
    folder.write_epochs(epochs(3))
    said: list[str] = []
    never_began = Ended(str(tmp_path / "nowhere"), "FINISHED", {})
    bring([never_began, Ended(folder.url, "KILLED", {"fcn.sweep": "rates", "fcn.trial": "0003-0-0"})], said.append)
    ours = found(tracked, run)
    assert (ours.info.status, ours.data.tags["fcn.sweep"], ours.data.tags["fcn.trial"]) == (
        *("KILLED", "rates", "0003-0-0"),
    )
    assert [step for step, _ in points(tracked, run)["train_loss"]] == [1, 2, 3]
    assert said == []


def test_a_server_that_is_away_holds_up_the_end_of_a_sweep_once(
    run: Run,
    folder: RunFolder,
    variables: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(_tracking, "END_S", 0.5)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        place = f"127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{place}")
        bring([Ended(folder.url, "FINISHED", {})] * 3, said.append)
    assert run.run_id in folder.url
    assert said == [f"MLflow at http://{place} lacks runs of this sweep: the same command again brings them there"]


def test_names_of_classes_are_made_legal(tracked: Server) -> None:
    from mlflow.entities import Metric

    names = _metric_names(["road", "car/truck", "Straße", "50 %", "50 &", "..", "", "x" * 300])
    assert names[:5] == ["iou/road", "iou/car_truck", "iou/Straße", "iou/50 __3", "iou/50 __4"]
    there = client(tracked)
    mlflow_run = there.create_run("0").info.run_id
    there.log_batch(mlflow_run, [Metric(name, 0.5, 0, 0) for name in names])
    assert set(there.get_run(mlflow_run).data.metrics) == set(names)


def test_a_server_that_does_not_answer_for_a_while_costs_nothing(
    tracked: Server, run: Run, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was asked meanwhile it does when it is back, and nothing comes twice."""
    log(run, folder, 3)
    with tracked.silent(), monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        began = time.monotonic()
        said = log(run, folder, 6)
        assert time.monotonic() - began < 6
    assert said == [
        f"MLflow at {tracked.url} does not answer: the run goes on without, and tries again now and then",
        f"MLflow at {tracked.url} lacks the rest of this run: the same command again brings it there",
    ]
    log(run, folder, 7)
    numbers = points(tracked, run)
    assert numbers["train_loss"] == [(number, 2.0 / number) for number in range(1, 8)]


def test_a_server_that_stops_answering_and_comes_back_within_a_run(
    tracked: Server, run: Run, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracking, "RETRY_S", 0.2)
    said: list[str] = []
    with tracking(run, folder.url, said.append) as new_epoch:
        wait_until(lambda: len(said) == 1 and len(found(tracked, run).data.params) > 0)
        with tracked.silent(), monkeypatch.context() as patch:
            patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
            folder.write_epochs(epochs(4))
            new_epoch()
            wait_until(lambda: len(said) == 2)
        wait_until(lambda: has_epochs(tracked, run))
    assert len(said) == 2
    assert {name: len(found) for name, found in points(tracked, run).items()} == dict.fromkeys(points(tracked, run), 4)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_was_never_there(
    run: Run,
    folder: RunFolder,
    variables: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{place}")
        began = time.monotonic()
        said = log(run, folder, 20)
    assert time.monotonic() - began < 3
    assert said == [
        f"MLflow at http://{place} does not answer: the run goes on without, and tries again now and then",
        f"MLflow at http://{place} lacks the rest of this run: the same command again brings it there",
    ]


def test_something_that_accepts_and_says_nothing(
    run: Run,
    folder: RunFolder,
    variables: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        said = log(run, folder, 10)
    assert time.monotonic() - began < 5
    assert ["does not answer" in said[0], "the same command again" in said[1], len(said)] == [True, True, 2]


def test_what_the_server_objects_to_is_said(
    tracked: Server, run: Run, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = client(tracked)
    there.delete_experiment(there.create_experiment("deleted"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deleted")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked.url.replace("//", "//me:secret@"))
    said = log(run, folder, 2)
    assert re.fullmatch(rf"MLflow at {tracked.url} cannot be used \(.*active.*\): the run goes on .*", said[0])
    assert len(said) == 2
    assert "secret" not in "".join(said)


def test_a_connection_that_was_closed_meanwhile_is_made_again_without_a_word() -> None:
    made: list[_Copy] = []

    class OnceAndNoMore(_Copy):
        def __init__(self) -> None:
            made.append(self)
            self.page = "experiments/1"
            self.brought = 0

        def bring(self) -> None:
            self.brought += 1
            if self.brought > 1:
                raise OSError

        def end(self, status: str) -> None:
            assert status == "FINISHED"

    said: list[str] = []
    follower = _Follower(OnceAndNoMore, "http://somewhere", said.append)
    wait_until(lambda: bool(made) and made[0].brought == 1)  # type: ignore[attr-defined]
    follower.end("FINISHED")
    assert len(made) == 2
    assert said == ["MLflow http://somewhere/#/experiments/1"]


def test_a_password_in_an_error_is_not_shown() -> None:
    def connect() -> _Copy:
        raise ValueError("API request to http://me:secret@here/api failed\nfor a reason")

    said: list[str] = []
    _Follower(connect, "http://me:secret@here", said.append).end("FINISHED")
    assert said[0].startswith(
        "MLflow at http://here cannot be used (API request to http://here/api failed for a reason):"
    )


def test_the_end_of_a_run_waits_for_so_long_only(
    run: Run,
    folder: RunFolder,
    variables: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setattr(_tracking, "END_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        said = log(run, folder, 2)
        assert time.monotonic() - began < 4
    assert "the same command again" in said[0]


def test_mlflow_is_told_to_be_quick_and_quiet_unless_the_user_wants_otherwise(
    variables: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in DEFAULTS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    check_tracking()
    assert {name: os.environ[name] for name in DEFAULTS} == DEFAULTS | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}


def test_without_the_variable_mlflow_is_not_imported(tmp_path: Path) -> None:
    code = """
import sys
from jobs._train import check_tracking, tracking
from fcn_core.settings import Run
check_tracking()
with tracking(Run(), sys.argv[1], print) as new_epoch:
    new_epoch()
sys.exit("mlflow" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_missing_client_is_told_before_anything_starts(
    refused: Refused,
    variables: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    message = refused(lambda: main(8), "streets", "--storage", tmp_path / "lab")
    assert "MLFLOW_TRACKING_URI is set, but MLflow cannot be imported" in message
    assert message.endswith("pip install '.[mlflow]', or unset the variable")
    assert not (tmp_path / "lab").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_is_killed_costs_a_training_command_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    """Two runs of two workers, and two starts of the server."""
    (tmp_path / "mlflow").mkdir()
    with running(tmp_path / "mlflow") as server:
        variables = environment | {"MLFLOW_TRACKING_URI": server.url}
        process = start(tmp_path, variables, "--workers", "2")
        printed = run_until_the_first_epoch_is_saved(process)
        folder = folder_in(printed)
        facts = folder.read_run()
        assert facts is not None
        run = Run.model_validate(facts["settings"])
        wait_until(lambda: has_epochs(server, run))
        assert process.poll() is None
        server.kill()
        killed_at = len(folder.read_epochs())
        printed += process.communicate()[0]
        assert process.returncode == 0, printed
        assert killed_at < len(folder.read_epochs()) == 16
        assert [line.count(server.url) for line in printed.splitlines() if "MLflow at" in line] == [1, 1], printed
        assert "the same command again brings it there" in printed
        assert "Traceback" not in printed
        server.start()
        printed, _ = start(tmp_path, variables, "--workers", "2").communicate()
        assert "MLflow at" not in printed, printed
        assert "View run" not in printed
        numbers = points(server, run)
        assert numbers["train_loss"] == [(epoch.epoch, epoch.train_loss) for epoch in folder.read_epochs()]
        assert {len(numbers[name]) for name in ("mean_iou", "learning_rate", "images_per_s")} == {16}
        assert found(server, run).info.status == "FINISHED"
