"""Submitting a command as a job of a Ray cluster, and following it to its real end.

`ray job submit` follows the log. When that breaks off, as when the node of the driver dies, it takes the last status
for the final one and leaves with 0 while the job is lost. Here only a job that has succeeded gives 0.
"""

import asyncio
import hashlib
import json
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

from pydantic import Field

from jobs._cli import FAILED, INTERRUPTED, OF_SERVICES, Settings, exit_codes, fail, last_line, read
from jobs._ray import ROOT

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 1.0
DRAIN_S = 5.0
"""How long the rest of the log is waited for once a job has ended; that of a dead node never comes."""
PATIENCE_S = 60.0
"""How long a cluster that answered before may be silent."""
DEADLINE_S = 30.0
"""For one answer; a head that freezes behind a tunnel keeps its connections open and says nothing."""
CHATTY = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env")
"""Loggers that tell of each file that is not uploaded and each connection that is closed."""
DASHBOARD = "http://127.0.0.1:8265"


class SubmitCommand(Settings):
    """Submit a command to a Ray cluster and follow it: jobs/submit.py -- python jobs/train_fcn8s.py streets.

    Leaves with 0 only if it succeeded. The same line again attaches to the job while it runs, and makes the next
    attempt if the last one failed or was stopped. Ctrl-C detaches. Settings in the environment (FCN_OPTIM__EPOCHS=3)
    go along.
    """

    # Those of the command that is submitted, which checks them itself.
    of_others: ClassVar[bool] = True

    address: str = Field(
        "",
        description=f"of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, or {DASHBOARD}",
    )
    driver_cpus: int = Field(
        0, ge=0, description="CPUs of the command's own process: 0 keeps it on the head, else any node with so many"
    )
    again: bool = Field(False, description="run a command once more that has succeeded before")


class Task(NamedTuple):
    """What is submitted."""

    entrypoint: str
    settings: Mapping[str, str]
    """Settings in the environment."""

    @property
    def name(self) -> str:
        """Name of the jobs that carry it out, without the number of the attempt."""
        digest = hashlib.sha256(json.dumps([self.entrypoint, self.settings], sort_keys=True).encode()).hexdigest()
        return f"{_stem(self.entrypoint)}-{digest[:10]}"


def main() -> None:
    """Submit what the command line says; leaves as the job does, with 2 if it cannot be submitted, 130 if detached."""
    command, task = parse(sys.argv[1:])
    address = command.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DASHBOARD
    with exit_codes():
        client = connect(address)
        job = job_of(client, command, task)
    try:
        details = asyncio.run(follow(client, job, lambda text: print(text, end="", flush=True)))
    except KeyboardInterrupt:
        end = f"ray job stop --address {address} {job}"
        _say(f"detached from {job}, which goes on; the same command attaches again; to end it: {end}")
        raise SystemExit(INTERRUPTED) from None
    leave(job, details)


def parse(arguments: Sequence[str]) -> tuple[SubmitCommand, Task]:
    """Return the options before `--` and what comes after, or leave with one line and exit code 2."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    command = read(SubmitCommand, arguments[:place])
    entrypoint = arguments[place + 1 :]
    if not entrypoint:
        fail("say what to run after --, such as: jobs/submit.py -- python jobs/train_fcn8s.py streets")
    return command, Task(shlex.join(entrypoint), _settings(os.environ))


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in the environment that are those of jobs and hold on any machine."""
    stay = {"FCN_CACHE", "FCN_CACHE_GIB"} | {f"FCN_{name.upper()}" for name in SubmitCommand.model_fields}
    ours = {name: value for name, value in environment.items() if name.startswith("FCN_")}
    return {name: ours[name] for name in ours if not name.startswith(OF_SERVICES) and name not in stay}


def _stem(entrypoint: str) -> str:
    scripts = [Path(word).stem for word in shlex.split(entrypoint) if word.endswith(".py")]
    return scripts[0] if scripts else "command"


def connect(address: str) -> "JobSubmissionClient":
    """Return a client of a cluster.

    Raises:
        ValueError: it does not answer, or lets us not in.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class WithDeadline(JobSubmissionClient):  # type: ignore[misc] # mypy does not look at Ray.
        """Ray's client would wait for ever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:  # noqa: ANN401 -- as Ray has them.
            return super()._do_request(method, endpoint, timeout=DEADLINE_S, **options)

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return WithDeadline(address)
    except AuthenticationError as error:
        remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the cluster's"
        raise ValueError(f"the cluster at {address} wants its token: {remedy}") from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"no Ray cluster answers at {address}: {reason}; give --address, or start one") from error


def job_of(client: "JobSubmissionClient", command: SubmitCommand, task: Task) -> str:
    """Return the job that carries a task out: one that is there, or a new attempt.

    Raises:
        ValueError: the cluster does not take it.
    """
    attempts = _attempts(client, task)
    if attempts:
        last = attempts[max(attempts)]
        since = _time(last.start_time)
        if not last.status.is_terminal():
            _say(f"attached to {last.submission_id}, which is there since {since}")
            return str(last.submission_id)
        if _is(last, "SUCCEEDED") and not command.again:
            _say(f"{last.submission_id} of {since} has succeeded; --again runs it once more. Its log:")
            return str(last.submission_id)
    number = max(attempts, default=0) + 1
    job = f"{task.name}-{number}"
    try:
        client.submit_job(
            entrypoint=task.entrypoint,
            submission_id=job,
            runtime_env={"working_dir": str(ROOT), "env_vars": dict(task.settings)},
            entrypoint_num_cpus=command.driver_cpus or None,
        )
    except RuntimeError as error:
        # Ray takes a name once: of two who submit at the same time, both follow the one.
        if number not in _attempts(client, task):
            raise ValueError(f"the cluster does not take the job: {last_line(error)}") from error
    _say(f"submitted {job}")
    return job


def _attempts(client: "JobSubmissionClient", task: Task) -> "dict[int, JobDetails]":
    """Return the jobs that carried a task out, by the number of the attempt.

    Raises:
        ValueError: the cluster does not tell.
    """
    try:
        there = client.list_jobs()
    except RuntimeError as error:
        raise ValueError(f"the cluster does not tell of its jobs: {last_line(error)}") from error
    named = ((str(job.submission_id).rpartition("-"), job) for job in there)
    return {int(number): job for (name, _, number), job in named if name == task.name}


async def follow(client: "JobSubmissionClient", job: str, show: Callable[[str], None]) -> "JobDetails":
    """Show the log of a job until it has ended, and return how; a log that breaks off ends nothing.

    Raises:
        SystemExit: the cluster has been silent for too long.
    """
    log = asyncio.create_task(_show_log(client, job, show))
    told = ""
    try:
        while not (details := await _details(client, job)).status.is_terminal():
            if _is(details, "PENDING") and details.message != told:
                told = details.message
                _say(told)
            await asyncio.sleep(POLL_S)
        await asyncio.wait({log}, timeout=DRAIN_S)
        return details
    finally:
        log.cancel()


async def _details(client: "JobSubmissionClient", job: str) -> "JobDetails":
    """Ask what has become of a job, again and again while the cluster is silent or, come back, lets us not in."""
    from ray.exceptions import AuthenticationError

    since = time.monotonic()
    while True:
        try:
            return await _asked(client, job)
        except (OSError, RuntimeError, AuthenticationError) as error:
            if time.monotonic() - since > PATIENCE_S:
                silent = f"the cluster is silent for {PATIENCE_S:.0f} s ({last_line(error)})"
                unknown = f"whether {job} goes on is not known: the same command attaches again"
                print(f"error: {silent}; {unknown}", file=sys.stderr)
                raise SystemExit(FAILED) from error
        await asyncio.sleep(POLL_S)


async def _asked(client: "JobSubmissionClient", job: str) -> "JobDetails":
    """Ask what has become of a job, in a thread that nobody waits for: Ctrl-C ends the command at once."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[JobDetails] = loop.create_future()

    def settle(setter: Callable[[Any], None], found: object) -> None:
        if not answer.done():
            setter(found)

    def ask() -> None:
        setter: Callable[[Any], None]
        try:
            setter, found = answer.set_result, client.get_job_info(job)
        except Exception as error:
            setter, found = answer.set_exception, error
        # The loop may be closed by now.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, setter, found)

    threading.Thread(target=ask, daemon=True).start()
    return await answer


async def _show_log(client: "JobSubmissionClient", job: str, show: Callable[[str], None]) -> None:
    """Show a log to its end. Each connection begins with its first line: what was shown is passed over."""
    import aiohttp
    from ray.exceptions import AuthenticationError

    shown = 0
    while True:
        passed = 0
        try:
            async for text in client.tail_job_logs(job):
                new = text[max(shown - passed, 0) :]
                passed += len(text)
                shown = max(shown, passed)
                show(new)
            if (await _asked(client, job)).status.is_terminal():
                return
        except (OSError, RuntimeError, AuthenticationError, aiohttp.ClientError):
            # Whether the job still runs is for `follow` to find out.
            pass
        await asyncio.sleep(POLL_S)


def leave(job: str, details: "JobDetails") -> NoReturn:
    """Leave as a job did that has ended, and say why if it did not succeed."""
    if _is(details, "SUCCEEDED"):
        _say(f"{job} succeeded")
        raise SystemExit(0)
    code = details.driver_exit_code
    if code is not None and code > 0:
        # Its own last line has said why.
        _say(f"{job} ended with exit code {code}; the same command makes another attempt")
        raise SystemExit(code)
    how = "was stopped" if _is(details, "STOPPED") else "failed"
    why = f": {last_line(details.message)}" if details.message else ""
    print(f"error: {job} {how}{why}; the same command goes on from what is stored", file=sys.stderr)
    raise SystemExit(FAILED)


def _is(job: "JobDetails", *statuses: str) -> bool:
    return str(job.status) in statuses


def _time(milliseconds: Any) -> str:  # noqa: ANN401 -- Ray's objects have no types here.
    moment = datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
