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
    looking = Files(str(tmp_path), 2.0, clock=lambda: now)
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

    looking = Files(str(tmp_path), 1.0)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    assert [looking.make(name, note, "1") for name in ("a", "b", "c", "c", "b", "a")] == [1] * 6
    assert made == [b"a", b"b", b"c", b"a"]
    assert looking.make("a", note, "2") == 1
    assert made[4:] == [b"a"]
    assert looking.make("gone", note, "1") is None
    assert looking.each(str.upper, ["x", "y"]) == ["X", "Y"]
    looking.close()
