"""Submitting without a cluster: what Ray's client would say is said by `Jobs`."""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from jobs import _submit
from jobs._submit import Task, follow, job_of, leave, parse
from tests.jobs.commands import free_port

COMMAND = ["--", "python", "jobs/train_fcn8s.py", "streets", "--name", "two words"]
Log = Sequence[str | Exception]


def job(name: str, status: JobStatus, **more: object) -> Any:  # noqa: ANN401 -- Ray's objects have no types here.
    facts = {"message": "", "driver_exit_code": None, "start_time": 1_700_000_000_000, **more}
    return SimpleNamespace(submission_id=name, status=status, **facts)


class Jobs:
    """A cluster that has some jobs. Of the one that is followed it tells `states` in turn, and each connection to its
    log gives the next of `logs`."""

    def __init__(self, *there: Any, states: Sequence[Any] = (), logs: Sequence[Log] = ()) -> None:  # noqa: ANN401
        self.there = list(there)
        self.states = list(states)
        self.logs = list(logs)
        self.submitted: list[dict[str, Any]] = []

    def list_jobs(self) -> list[Any]:
        return [job(None, JobStatus.RUNNING), *self.there]  # type: ignore[arg-type] # A driver that nobody submitted.

    def submit_job(self, **what: object) -> None:
        if any(one.submission_id == what["submission_id"] for one in self.list_jobs()):
            raise RuntimeError("Request failed with status code 500: a job with this submission_id already exists.")
        self.submitted.append(what)
        self.there.append(job(str(what["submission_id"]), JobStatus.PENDING))

    def get_job_info(self, _: str) -> Any:  # noqa: ANN401
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        for text in self.logs.pop(0) if self.logs else [TimeoutError()]:
            if isinstance(text, Exception):
                raise text
            yield text


def submitted(jobs: Jobs, *options: str) -> str:
    return job_of(jobs, *parse([*options, *COMMAND]))


def followed(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    monkeypatch.setattr(_submit, "POLL_S", 0.01)
    monkeypatch.setattr(_submit, "DRAIN_S", 0.2)
    shown: list[str] = []
    details = asyncio.run(follow(jobs, "job", shown.append))
    return "".join(shown), details


def code_of(ended: Callable[[], object]) -> object:
    with pytest.raises(SystemExit) as left:
        ended()
    return left.value.code


def test_the_name_of_a_job_is_that_of_its_command() -> None:
    (_, first), (_, again) = parse(["--driver-cpus", "1", *COMMAND]), parse(COMMAND)
    assert first == again == Task("python jobs/train_fcn8s.py streets --name 'two words'", {})
    assert first.name.startswith("train_fcn8s-")
    assert first.name != parse([*COMMAND, "--workers", "2"])[1].name


def test_settings_in_the_environment_go_along_and_make_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parse(COMMAND)[1]
    here_only = ("FCN_DRIVER_CPUS", "FCN_CACHE", "FCN_CACHE_GIB", "FCN_SERVE_TOKENS", "AWS_SECRET_ACCESS_KEY")
    there = ("FCN_OPTIM__EPOCHS", "FCN_TRIALS", "FCN_STORAGE_PATIENCE_S")
    for name in (*there, *here_only):
        monkeypatch.setenv(name, "3")
    jobs = Jobs()
    assert not submitted(jobs).startswith(before.name)
    assert jobs.submitted[0]["runtime_env"]["env_vars"] == dict.fromkeys(there, "3")
    assert jobs.submitted[0]["entrypoint_num_cpus"] == 3


def test_a_command_runs_once_at_a_time() -> None:
    jobs = Jobs()
    first = submitted(jobs)
    assert first.endswith("-1")
    assert submitted(jobs) == first
    assert len(jobs.submitted) == 1


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.STOPPED])
def test_after_a_failure_comes_the_next_attempt(status: JobStatus) -> None:
    name = parse(COMMAND)[1].name
    ended = [job(f"{name}-{number}", status) for number in range(1, 11)]
    assert submitted(Jobs(*ended)) == f"{name}-11"


def test_what_has_succeeded_runs_again_only_if_one_says_so() -> None:
    jobs = Jobs(job(f"{parse(COMMAND)[1].name}-1", JobStatus.SUCCEEDED))
    assert submitted(jobs).endswith("-1")
    assert not jobs.submitted
    assert submitted(jobs, "--again").endswith("-2")


def test_of_two_who_submit_at_once_both_follow_the_same_job(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs()
    submit_job = jobs.submit_job

    def after_another(**what: object) -> None:
        submit_job(**what)
        submit_job(**what)

    monkeypatch.setattr(jobs, "submit_job", after_another)
    assert submitted(jobs).endswith("-1")
    assert len(jobs.submitted) == 1


def test_a_job_that_is_not_taken_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Request failed with status code 500: disk full")

    jobs = Jobs()
    monkeypatch.setattr(jobs, "submit_job", refuse)
    with pytest.raises(ValueError, match=r"does not take the job: .* disk full"):
        submitted(jobs)


def test_a_log_that_breaks_off_is_shown_once_and_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    running, done = job("job", JobStatus.RUNNING), job("job", JobStatus.SUCCEEDED)
    logs: list[Log] = [
        ["one\n", "tw", RuntimeError("closed")],
        [ConnectionError()],
        ["one\ntwo\n"],
        ["one\n", "two\nthree\n"],
    ]
    shown, details = followed(Jobs(states=[running] * 6 + [done], logs=logs), monkeypatch)
    assert shown == "one\ntwo\nthree\n"
    assert code_of(lambda: leave("job", details)) == 0


def test_a_lost_driver_is_a_failure_although_its_log_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `ray job submit` takes for success."""
    running = job("job", JobStatus.RUNNING)
    lost = job("job", JobStatus.FAILED, message="first line\nThe node of the job has died.\n")
    shown, details = followed(Jobs(states=[running] * 4 + [lost], logs=[["epoch 1\n"]]), monkeypatch)
    assert shown == "epoch 1\n"
    assert code_of(lambda: leave("job", details)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: job failed: The node of the job has died.; the same command goes on from what is stored"


def test_silence_is_borne_for_a_while(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = job("job", JobStatus.SUCCEEDED)
    silent: list[Any] = [ConnectionError("refused")] * 3
    assert followed(Jobs(states=[*silent, done]), monkeypatch)[1] is done
    monkeypatch.setattr(_submit, "PATIENCE_S", 0.05)
    assert code_of(lambda: followed(Jobs(states=silent), monkeypatch)) == 1
    assert "whether job goes on is not known: the same command attaches again" in capsys.readouterr().err


def test_a_job_that_waits_says_for_what(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    waits = job("job", JobStatus.PENDING, message="waiting for CPUs")
    followed(Jobs(states=[waits, waits, job("job", JobStatus.SUCCEEDED)]), monkeypatch)
    assert capsys.readouterr().err == "waiting for CPUs\n"


@pytest.mark.parametrize(
    ("status", "exit_code", "ours", "line"),
    [
        (JobStatus.FAILED, 2, 2, "job ended with exit code 2; the same command makes another attempt"),
        (JobStatus.FAILED, -9, 1, "error: job failed: out of memory; the same command goes on from what is stored"),
        (JobStatus.FAILED, None, 1, "error: job failed: out of memory; the same command goes on from what is stored"),
        (JobStatus.STOPPED, None, 1, "error: job was stopped: out of memory; the same command goes on from"),
    ],
)
def test_we_leave_as_the_job_did(
    status: JobStatus, exit_code: int | None, ours: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    details = job("job", status, message="out of memory", driver_exit_code=exit_code)
    assert code_of(lambda: leave("job", details)) == ours
    assert line in capsys.readouterr().err


def test_mistakes_get_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (([], "say what to run after --"), (["--adress", "x", *COMMAND], "did you mean address?")):
        assert code_of(lambda wrong=wrong: parse(wrong)) == 2  # type: ignore[misc]
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_a_cluster_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_ray, ours = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", of_ray)
    for options, address in (([], of_ray), (["--address", ours], ours)):
        monkeypatch.setattr(sys, "argv", ["submit.py", *options, *COMMAND])
        assert code_of(_submit.main) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: no Ray cluster answers at {address}: ")
        assert said.count("\n") == 1


def test_a_head_that_accepts_and_says_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_submit, "DEADLINE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        address = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        monkeypatch.setattr(sys, "argv", ["submit.py", "--address", address, *COMMAND])
        assert code_of(_submit.main) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: no Ray cluster answers at {address}: ")
    assert "timed out" in said
    assert said.count("\n") == 1


def test_ctrl_c_detaches_at_once_from_a_head_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, released = threading.Event(), threading.Event()
    jobs, answered = Jobs(), list[bool]()

    def wait(_: str) -> None:
        asked.set()
        released.wait(60)
        answered.append(True)

    monkeypatch.setattr(jobs, "get_job_info", wait)

    def interrupt() -> None:
        asked.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(follow(jobs, "job", print))
    assert not answered
    released.set()
