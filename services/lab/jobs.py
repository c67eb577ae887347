"""The jobs of a cluster, over Ray's Jobs API: our commands and nothing else.

A command is a file of jobs/, and its arguments are looked at by the command itself before anything is submitted. There
is no way to have the cluster run anything else, and jobs of others are neither shown nor stopped.
"""

import ast
import logging
import re
import shlex
import subprocess  # nosec B404
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from services._problems import Problem
from services.lab.schemas import LONGEST_ARGUMENT, Command, JobDetails, LogPart, Status

log = logging.getLogger(__name__)
_T = TypeVar("_T")
ROOT = Path(__file__).parents[2]
"""The folder of the code: a working tree, or where packages are installed."""
NOT_HERE = {"storage", "submit"}
"""What looks over or repairs any storage is for who holds its keys; submitting is what the service does itself."""
_OURS = re.compile(r"(?:-m jobs\.|\bjobs/)([a-z0-9][a-z0-9_]*)(?:\.py)?(?= |$)")
_RUN = re.compile(rb"^run ([a-z0-9][a-z0-9._-]*) in ", re.MULTILINE)
_SET_HERE = ("--storage", "--config", "--print-config", "--help", "-h")
"""Options that have no meaning in a request: where results are kept is set for all, files would be the server's own."""
ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
CHECK_S = 120


class Client(Protocol):
    """What is used of `ray.job_submission.JobSubmissionClient`, which keeps the cluster's token to itself."""

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str] | None) -> str:
        """Start a job and return its id."""

    def list_jobs(self) -> list[Any]:
        """Return `JobDetails` of all jobs that the head remembers."""

    def get_job_logs(self, job_id: str) -> str:
        """Return all that a job printed."""

    def stop_job(self, job_id: str) -> bool:
        """Ask a job to stop."""


Check = Callable[[str, Sequence[str]], str | None]
"""Says in a line what is wrong with the arguments of a command; None if nothing is."""


class Jobs:
    """Submits, follows and stops commands.

    Args:
        connect: returns a client; asked again after it failed.
        storage: where commands keep what they find.
        python: what starts them, as the cluster's machines have it.
        max_log_bytes: of a log, in one answer.
        check: looks at arguments.
    """

    def __init__(
        self, connect: Callable[[], Client], storage: str, python: str, max_log_bytes: int, check: Check
    ) -> None:
        self._connect, self._check = connect, check
        self._storage, self._python, self._max_log_bytes = storage, python, max_log_bytes
        self._client: Client | None = None
        self._runs: dict[str, str] = {}
        # One at a time: two that are the same must not both find that there is none yet, and checking takes a CPU.
        self._submitting = threading.Lock()

    def submit(self, command: str, arguments: Sequence[str], owner: str) -> JobDetails:
        """Start a command.

        Raises:
            Problem: there is no such command, or its arguments are wrong (422); it runs already (409); the cluster does
                not answer (502, 503).
        """
        known = [one.name for one in commands()]
        if command not in known:
            raise Problem(422, f"no command {command!r}; commands are {', '.join(known)}")
        _check_options(arguments)
        with self._submitting:
            if (wrong := self._check(command, arguments)) is not None:
                raise Problem(422, wrong)
            for job in self.all():
                if (job.command, job.arguments) == (command, [*arguments]) and job.status not in ENDED:
                    raise Problem(409, f"{job.job_id} does this already: stop it, or wait for its end")
            entrypoint = shlex.join([self._python, "-m", f"jobs.{command}", *arguments])
            environment = _environment(self._storage)
            job_id = self._ask(
                lambda client: client.submit_job(
                    entrypoint=entrypoint, runtime_env=environment, metadata={"fcn.owner": owner}
                )
            )
            log.info("%s submitted %s: %s", owner, job_id, shlex.join([command, *arguments]))
            return self.find(job_id)

    def all(self) -> list[JobDetails]:
        """Return the jobs that are commands of ours, newest first; also those that were submitted elsewhere.

        Raises:
            Problem: the cluster does not answer (502, 503).
        """
        found = [job for one in self._ask(lambda client: client.list_jobs()) if (job := _details(one, self._runs))]
        return sorted(
            found, key=lambda job: (job.started or datetime.max.replace(tzinfo=UTC), job.job_id), reverse=True
        )

    def find(self, job_id: str) -> JobDetails:
        """Return a job.

        Raises:
            Problem: there is none, or it is none of ours (404); the cluster does not answer (502, 503).
        """
        for job in self.all():
            if job.job_id == job_id:
                return job
        raise Problem(404, f"there is no job {job_id}")

    def log(self, job_id: str, offset: int) -> LogPart:
        """Return what a job printed from an offset in bytes on; of more than can be sent, the end.

        Raises:
            Problem: as `find`.
        """
        job = self.find(job_id)
        printed = self._ask(lambda client: client.get_job_logs(job_id)).encode(errors="replace")
        if job_id not in self._runs and (found := _RUN.search(printed)):
            self._runs[job_id] = found[1].decode()
            job = job.model_copy(update={"run_id": self._runs[job_id]})
        # A log that was begun anew is shorter than what was asked for.
        start = max(offset if offset <= len(printed) else 0, len(printed) - self._max_log_bytes)
        text = printed[start:].decode(errors="replace")
        return LogPart(text=text, offset=start, next=len(printed), job=job)

    def stop(self, job_id: str, owner: str) -> JobDetails:
        """Ask a job to stop.

        Raises:
            Problem: as `find`; it has ended (409).
        """
        job = self.find(job_id)
        if job.status in ENDED:
            raise Problem(409, f"{job_id} has ended: {job.status}")
        log.info("%s stops %s", owner, job_id)
        self._ask(lambda client: client.stop_job(job_id))
        return self.find(job_id)

    def _ask(self, question: Callable[[Client], _T]) -> _T:
        try:
            client = self._client = self._client or self._connect()
            return question(client)
        except Exception as error:
            # Ray's client and what it is made of have no base in common for what goes wrong.
            self._client = None
            log.exception("the cluster does not answer")
            if isinstance(error, OSError):
                raise Problem.try_again(503, "the cluster cannot be reached", 5) from error
            why = f"{type(error).__name__}; the service's log says more"
            raise Problem(502, f"the cluster does not answer as it should: {why}") from error


@cache
def commands() -> tuple[Command, ...]:
    """Return what can be submitted: the files of jobs/ that people start, with the first line of each."""
    files = sorted((ROOT / "jobs").glob("[!_]*.py"))
    return tuple(Command(name=file.stem, summary=_summary(file)) for file in files if file.stem not in NOT_HERE)


def look_at(command: str, arguments: Sequence[str]) -> str | None:
    """Say what a command itself finds wrong with its arguments, in a process of its own.

    Raises:
        Problem: it takes too long (504).
    """
    ours = [sys.executable, "-m", "jobs._check", command, *arguments]
    try:
        # No shell, and a command of ours.
        done = subprocess.run(  # noqa: S603  # nosec B603
            ours, cwd=ROOT, capture_output=True, text=True, timeout=CHECK_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Problem.try_again(504, f"the arguments could not be looked at within {CHECK_S} s", 5) from error
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"{command} left with {done.returncode}"]
    return lines[-1].removeprefix("error: ")[:LONGEST_ARGUMENT]


def _check_options(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if len(argument) > LONGEST_ARGUMENT or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", argument):
            raise Problem(422, f"arguments are lines of at most {LONGEST_ARGUMENT} characters")
        # Commands take options in any case.
        option = argument.partition("=")[0].replace("_", "-").lower()
        if option in _SET_HERE:
            raise Problem(422, f"{option} cannot be set here: the service knows where results are kept")


def _environment(storage: str) -> dict[str, Any]:
    # Not every command keeps something, and would take an option for it.
    settings = {"env_vars": {"FCN_STORAGE": storage}}
    # Installed packages are on all nodes; a working tree travels with the job.
    return settings | ({"working_dir": str(ROOT)} if (ROOT / "pyproject.toml").exists() else {})


def _summary(file: Path) -> str:
    """Return the first line of a command's docstring, without its usage."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return docstring.partition("\n")[0].partition(":")[0]


def _details(found: Any, runs: Mapping[str, str]) -> JobDetails | None:  # noqa: ANN401 -- of Ray, which mypy skips.
    ours = _OURS.search(found.entrypoint)
    if ours is None or ours[1] not in {one.name for one in commands()} or not found.submission_id:
        return None
    return JobDetails(
        job_id=found.submission_id,
        command=ours[1],
        arguments=_words(found.entrypoint[ours.end() :]),
        owner=(found.metadata or {}).get("fcn.owner"),
        status=cast("Status", str(getattr(found.status, "value", found.status))),
        message=" ".join((found.message or "").split())[:300],
        started=_time(found.start_time),
        ended=_time(found.end_time),
        run_id=runs.get(found.submission_id),
    )


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        # Submitted elsewhere, and no shell would take it.
        return line.split()


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
