import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fcn_core import storage
from fcn_core.storage import cache
from tests.faulty import Fault, Proxy, faulty_s3


@pytest.fixture(scope="module")
def s3() -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as patch, faulty_s3(patch, deadline_s=60.0, patience_s=60.0) as proxy:
        yield proxy


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    return f"memory://{tmp_path.name}"


def publish(url: str, contents: bytes = b"contents") -> None:
    with storage.publishing(url) as folder:
        (folder / "file").write_bytes(contents)


def entries() -> list[Path]:
    return sorted(storage.cache_folder().glob("entries/*/*"))


def used(entry: Path, ago_s: float) -> None:
    os.utime(entry, (time.time() - ago_s,) * 2)


def look_again() -> None:
    os.utime(storage.cache_folder() / "looked", (0, 0))


FETCH = "import sys; from fcn_core import storage; print(storage.fetch(sys.argv[1]), storage.cached(sys.argv[2]))"


@pytest.mark.slow
def test_processes_at_once_share_one_download(s3: Proxy, tmp_path: Path) -> None:
    url = f"s3://lab/{tmp_path.name}"
    publish(f"{url}/folder", bytes(10**6))
    storage.write_bytes(f"{url}/single", b"single")
    s3.requests.clear()
    environment = os.environ | {"FCN_CACHE": str(tmp_path / "cache")}
    with s3.failing(Fault("slow", "GET .*(file|single)")):
        command = [sys.executable, "-c", FETCH, f"{url}/folder", f"{url}/single"]
        started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        found = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0] * 3
    assert len(found) == 1
    for name in ("folder/file", "single"):
        assert len([request for request in s3.requests if f"GET /lab/{tmp_path.name}/{name}" in request]) == 1


@pytest.mark.parametrize("damage", [b"", b"contents?", b"Contents"])
def test_a_copy_that_the_disk_damaged_is_fetched_again(
    root: str, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    publish(f"{root}/folder")
    ways: list[Callable[[], Path]] = [
        lambda: storage.fetch(f"{root}/folder") / "file",
        lambda: storage.cached(f"{root}/folder/file"),
    ]
    for fetch in ways:
        fetch().write_bytes(damage)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert fetch().read_bytes() == b"contents"
        assert "fetching again what this node's cache has lost" in caplog.text
        assert "is damaged: file has not the SHA-256" in caplog.text


def test_a_reader_asks_once_for_each_file(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, copies = f"{root}/file", storage.Copies()
    storage.write_bytes(url, b"old")
    first = copies.path(url)
    storage.write_bytes(url, b"new")
    with monkeypatch.context() as patch:
        for request in ("info", "get_file"):
            patch.setattr(storage.calls.open_url(root).filesystem, request, None)
        used(first.parent, ago_s=1e6)
        assert copies.path(url).read_bytes() == b"old"
        assert time.time() - first.parent.stat().st_mtime < 1e5, "else it would be the first to be removed"
    assert storage.Copies().path(url).read_bytes() == b"new"
    first.write_bytes(b"damaged")
    assert copies.path(url).read_bytes() == b"new"


def test_a_reader_of_local_files_reads_them_as_they_are(tmp_path: Path) -> None:
    copies = storage.Copies()
    for contents in (b"old", b"new"):
        (tmp_path / "file").write_bytes(contents)
        os.utime(tmp_path, (1, 1))
        assert copies.path(f"{tmp_path}/file") == tmp_path / "file"
        assert tmp_path.stat().st_mtime == 1, "it may belong to others"
    with pytest.raises(FileNotFoundError):
        copies.path(f"{tmp_path}/none")


def test_an_entry_without_its_files_is_fetched_again(root: str) -> None:
    publish(f"{root}/folder")
    for path in storage.fetch(f"{root}/folder").iterdir():
        path.unlink()
    assert (storage.fetch(f"{root}/folder") / "file").read_bytes() == b"contents"


def test_a_cache_that_has_grown_loses_what_was_used_longest_ago(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE_GIB", str(2.5 * 10**6 / 2**30))
    copies = []
    for number in range(4):
        publish(f"{root}/{number}", bytes(10**6) + bytes([number]))
        copies.append(storage.fetch(f"{root}/{number}"))
    assert entries() == sorted(copies), "none of them is old"
    for age, copy in enumerate(copies, start=2):
        used(copy, age * 3600)
    storage.fetch(f"{root}/3")
    publish(f"{root}/small")
    look_again()
    small = storage.fetch(f"{root}/small")
    assert entries() == sorted([copies[0], copies[3], small])


def test_an_entry_that_may_be_in_use_stays_however_large_the_cache_is(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCN_CACHE_GIB", "0.000001")
    publish(f"{root}/large", bytes(10**6))
    copy = storage.fetch(f"{root}/large")
    publish(f"{root}/small")
    look_again()
    storage.fetch(f"{root}/small")
    assert copy in entries()


def test_what_a_killed_process_left_goes_after_a_day(root: str) -> None:
    publish(f"{root}/0")
    copy = storage.fetch(f"{root}/0")
    left = [copy.with_name(f"{storage.PARTIAL}{number}") for number in range(2)]
    for folder in left:
        folder.mkdir()
        (folder / "file").write_bytes(b"half")
    used(left[0], 2 * cache.STALE_S)
    look_again()
    publish(f"{root}/1")
    storage.fetch(f"{root}/1")
    assert not left[0].exists()
    assert left[1].exists()
    assert copy.exists()
