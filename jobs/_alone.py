"""One driver at a time for a run or a sweep.

In a local folder a file lock, which ends with its process. On other storages leases, `lock/1`, `lock/2` and so on, of
which the newest counts: a number is created once, so that of several drivers one gets it, and whoever holds it writes
to it every few seconds until it marks it as over. One that stands still belongs to a driver that was killed.
"""

import fcntl
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from fcn_core import storage
from fcn_core.settings import Value
from jobs._cli import FAILED

LOCK = "lock"
BEAT_S = 5.0
"""Time between the signs of life of a driver."""
LOOKS, LOOK_EVERY_S = 20, 1.0
"""So often a lease must be found as it was until its driver is taken for dead; in seconds several beats."""
END_S = 10.0
"""How long the end waits for a storage that does not answer."""


class Holder(Value):
    """Who works on a run or a sweep."""

    host: str = Field(default_factory=socket.gethostname)
    process: int = Field(default_factory=os.getpid)
    since: str = Field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Makes the contents of each lease its driver's alone."""
    beats: int = 0
    over: bool = False

    def __str__(self) -> str:
        return f"goes on in process {self.process} on {self.host} since {self.since}"


@contextmanager
def alone(url: str, what: str, say: Callable[[str], None], patience_s: float = 0.0) -> Iterator[None]:
    """Let no other driver work on the run or sweep at `url` while the block runs.

    Args:
        url: its folder.
        what: what messages call it.
        say: told of why it takes some time.
        patience_s: how long another driver is waited for, which may be about to end.

    Raises:
        ValueError: another driver does; the message says which.
    """
    deadline = time.monotonic() + patience_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(
                    _locked(Path(url), what) if storage.is_local(url) else _leased(storage.join(url, LOCK), what, say)
                )
                break
            except ValueError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(LOOK_EVERY_S)
        yield


@contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(_taken(what, _holder(file.read()))) from None
        file.truncate(0)
        file.write(Holder().model_dump_json())
        file.flush()
        yield


@contextmanager
def _leased(folder: str, what: str, say: Callable[[str], None]) -> Iterator[None]:
    holder = Holder()
    number = _take(folder, holder, what, say)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(folder, number, holder, what, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(END_S)


def _take(folder: str, holder: Holder, what: str, say: Callable[[str], None]) -> int:
    """Create the next lease once the newest is over or stands still, and return its number."""
    while True:
        numbers = _numbers(folder)
        newest = max(numbers, default=0)
        if newest:
            _wait(_place(folder, newest), what, say)
        try:
            storage.create_bytes(_place(folder, newest + 1), holder.model_dump_json().encode())
        except FileExistsError:
            continue
        for number in numbers:
            storage.remove_folder(_place(folder, number))
        return newest + 1


def _wait(url: str, what: str, say: Callable[[str], None]) -> None:
    """Wait until a lease is over, gone, or has stood still for long enough.

    Raises:
        ValueError: its driver lives.
    """
    first = _read(url)
    for look in range(LOOKS):
        found = first if look == 0 else _read(url)
        if found is None or found.over:
            return
        if found != first:
            raise ValueError(_taken(what, found))
        if look == 0:
            say(f"{what} {found}: looking for {LOOKS * LOOK_EVERY_S:.0f} s whether that still lives")
        time.sleep(LOOK_EVERY_S)


def _beat(folder: str, number: int, holder: Holder, what: str, ended: threading.Event) -> None:
    """Write signs of life, and at the end that the lease is over."""
    over = False
    while not over:
        over = ended.wait(BEAT_S)
        holder = holder.model_copy(update={"beats": holder.beats + 1, "over": over})
        # Patience would make signs of life as rare as those of the dead. A listing has ten times as long. What does not
        # succeed is tried with the next beat; a storage that is away holds up whoever else wants the lease, too.
        with suppress(OSError), storage.waiting(storage.Limits(BEAT_S / 10, BEAT_S)):
            if max(_numbers(folder), default=number) > number:
                _lost(what)
        with suppress(OSError), storage.waiting(storage.Limits(BEAT_S, BEAT_S)):
            storage.write_bytes(_place(folder, number), holder.model_dump_json().encode())


def _lost(what: str) -> None:
    """End at once, as SIGKILL would: whoever took this driver for dead is at work."""
    print(f"error: {what} was taken over by another process, which had not heard of this one", file=sys.stderr)
    os._exit(FAILED)


def _taken(what: str, holder: Holder | None) -> str:
    return f"{what} {holder or 'goes on in another process'}: the same command goes on once that has ended"


def _numbers(folder: str) -> list[int]:
    return [int(name) for name in storage.list_folder(folder) if name.isdigit()]


def _place(folder: str, number: int) -> str:
    return storage.join(folder, str(number))


def _read(url: str) -> Holder | None:
    try:
        return _holder(storage.read_bytes(url).decode())
    except FileNotFoundError:
        return None


def _holder(text: str) -> Holder | None:
    """Return who wrote something, if it is whole."""
    try:
        return Holder.model_validate_json(text)
    except ValidationError:
        return None
