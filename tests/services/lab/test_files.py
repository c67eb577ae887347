import threading
from pathlib import Path

import pytest

from fcn_core import storage
from services.lab import files
from services.lab.files import Files


def test_a_folder_is_listed_every_so_often_and_a_fifth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, listed = 0.0, [0.0]
    takes_s = 0.1

    def find(_: str) -> dict[str, str]:
        nonlocal now
        now += takes_s
        listed.append(now)
        return {}

    monkeypatch.setattr(storage, "find_files", find)
    looking = Files(str(tmp_path), 2.0, 60.0, clock=lambda: now)
    for moment in (0.0, 1.0, 2.0, 2.2):
        now = max(now, moment)
        looking.versions()
    assert listed == pytest.approx([0.0, 0.1, 2.3])
    takes_s, now = 5.0, 100.0
    for moment in (100.0, 124.0, 125.0):
        now = max(now, moment)
        looking.versions()
    assert listed[3:] == pytest.approx([105.0, 130.0])
    looking.close()


def test_what_is_made_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "KEPT", 2)
    made: list[bytes] = []

    def note(contents: bytes) -> int:
        made.append(contents)
        return len(contents)

    looking = Files(str(tmp_path), 1.0, 60.0)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    assert [looking.make(name, note, "1") for name in ("a", "b", "c", "c", "b", "a")] == [1] * 6
    assert made == [b"a", b"b", b"c", b"a"]
    assert looking.make("a", note, "2") == 1
    assert made[4:] == [b"a"]
    assert looking.make("gone", note, "1") is None
    assert looking.each(str.upper, ["x", "y"]) == ["X", "Y"]
    looking.close()


def test_a_storage_that_is_silent_is_asked_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 0.0, 0
    away = True

    def read(_: str) -> bytes:
        nonlocal asked
        asked += 1
        if away:
            raise storage.UnavailableError("silent")
        with pytest.raises(storage.UnavailableError, match="a moment ago"):
            looking.read("another")
        return b"contents"

    monkeypatch.setattr(storage, "read_bytes", read)
    looking = Files(str(tmp_path), 2.0, 1.0, clock=lambda: now)
    for _ in range(3):
        with pytest.raises(storage.UnavailableError):
            looking.read("file")
    assert asked == 1
    now, away = 2.5, False
    assert looking.read("file") == b"contents"
    assert asked == 2
    looking.close()


def test_a_list_that_takes_long_is_the_one_before_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released, plain = threading.Event(), storage.find_files

    def find(url: str) -> dict[str, str]:
        assert released.wait(60)
        return plain(url)

    monkeypatch.setattr(storage, "find_files", find)
    looking = Files(str(tmp_path), 1e-6, 0.1)
    for _ in range(2):
        with pytest.raises(storage.UnavailableError, match="is not listed yet"):
            looking.versions()
    released.set()
    while not looking._listing or not looking._listing.done():
        released.wait(0.01)
    assert looking.versions() == {}
    released.clear()
    (tmp_path / "new").touch()
    assert looking.versions() == {}
    released.set()
    while not looking.versions():
        released.wait(0.01)
    looking.close()
