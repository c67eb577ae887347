"""Who may work on a run: two drivers at once, one after the other, one that was killed, one that was taken for dead."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcn_core import storage
from fcn_core.storage.calls import Place
from jobs import _alone
from jobs._alone import LOCK, Holder, alone
from tests.jobs.commands import s3_server

RUN = "run streets-1"
OTHER = rf"^{RUN} goes on in process {os.getpid()} on \S+ since [-\d]+ [:\d]+ UTC: the same command goes on once that"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch, {}):
        yield "s3://lab"


@pytest.fixture(params=["a folder", "S3"])
def url(request: pytest.FixtureRequest, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(_alone, "BEAT_S", 0.2)
    monkeypatch.setattr(_alone, "LOOK_EVERY_S", 0.1)
    return f"{bucket}/{tmp_path.name}" if request.param == "S3" else str(tmp_path)


def take(url: str) -> list[str]:
    """Take and leave a run, and return what was said."""
    said: list[str] = []
    with alone(url, RUN, said.append):
        pass
    return said


def test_a_second_driver_is_told_who_the_first_is(url: str) -> None:
    with alone(url, RUN, print):
        for _ in range(2):
            with pytest.raises(ValueError, match=OTHER):
                take(url)


def test_one_that_may_be_about_to_end_is_waited_for_if_asked(url: str) -> None:
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(url, RUN, print):
            held.set()
            released.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    threading.Timer(0.5, released.set).start()
    with alone(url, RUN, print, patience_s=60):
        assert released.is_set()
    thread.join()


def test_drivers_that_end_make_way_at_once_also_by_an_error(url: str) -> None:
    for _ in range(3):
        assert take(url) == []
    with pytest.raises(KeyboardInterrupt), alone(url, RUN, print):
        raise KeyboardInterrupt
    assert take(url) == []
    # Of what came before nothing is kept.
    assert len(storage.list_folder(url)) == 1


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    take(str(tmp_path))
    hold = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ValueError, match="goes on in process"):
            take(str(tmp_path))
        process.kill()
    assert take(str(tmp_path)) == []


def test_of_many_that_want_a_dead_drivers_run_one_gets_it(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_alone, "BEAT_S", 0.2)
    monkeypatch.setattr(_alone, "LOOK_EVERY_S", 0.1)
    url = f"{bucket}/{tmp_path.name}"
    storage.create_bytes(f"{url}/{LOCK}/7", Holder(process=1).model_dump_json().encode())
    said, refused, working, most = list[str](), list[str](), list[int](), list[int]()
    all_refused = threading.Event()

    def want() -> None:
        try:
            with alone(url, RUN, said.append):
                working.append(1)
                most.append(len(working))
                all_refused.wait(60)
                working.pop()
        except ValueError as error:
            refused.append(str(error))
            if len(refused) == 2:
                all_refused.set()

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert (most, len(refused)) == ([1], 2)
    assert any(f"{RUN} goes on in process 1 on" in line and "whether that still lives" in line for line in said)
    assert storage.list_folder(f"{url}/{LOCK}") == ["8"]


@pytest.mark.parametrize("writes", [True, False])
def test_one_that_was_taken_for_dead_ends(
    writes: bool, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, contents: bytes) -> None:
        raise storage.UnavailableError(f"{url} takes no {contents!r}")

    monkeypatch.setattr(_alone, "BEAT_S", 0.1)
    if not writes:
        monkeypatch.setattr(storage, "write_bytes", refuse)
    lost = threading.Event()
    monkeypatch.setattr(_alone, "_lost", lambda what: lost.set() if what == RUN else None)
    url = f"{bucket}/{tmp_path.name}"
    with alone(url, RUN, print):
        storage.create_bytes(f"{url}/{LOCK}/2", Holder(process=1).model_dump_json().encode())
        assert lost.wait(60)


def test_a_storage_that_is_away_for_a_while_costs_no_lease(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/{tmp_path.name}"
    monkeypatch.setattr(_alone, "BEAT_S", 0.1)
    write, failed = storage.write_bytes, list[str]()

    def away(url: str, contents: bytes) -> None:
        if len(failed) < 5:
            failed.append(url)
            raise storage.UnavailableError("no answer")
        write(url, contents)

    monkeypatch.setattr(storage, "write_bytes", away)
    with alone(url, RUN, print):
        deadline = time.monotonic() + 60
        while (held := _alone._read(f"{url}/{LOCK}/1")) is None or not held.beats:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert failed
    assert take(url) == []


def test_a_storage_that_hangs_for_a_moment_makes_no_driver_look_dead(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/{tmp_path.name}"
    monkeypatch.setattr(_alone, "BEAT_S", 0.3)
    call, hung = Place.call, list[float]()

    def hang(place: Place, method: str, *args: object, **kwargs: object) -> object:
        if method == "pipe_file" and place.url.endswith(f"{LOCK}/1") and not kwargs.get("mode"):
            hung.append(place.limits.patience_s)
            if len(hung) < 4:
                raise storage.UnavailableError("hangs")
        return call(place, method, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Place, "call", hang)
    with alone(url, RUN, print):
        deadline = time.monotonic() + 60
        while len(hung) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    # All signs of life wait no longer than the time between two.
    assert set(hung[:6]) == {0.3}
