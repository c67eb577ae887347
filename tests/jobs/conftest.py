import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.figures.conftest import saved  # noqa: F401 -- a fixture.
from tests.jobs.commands import Here, Main, Refused


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Sockets have paths of at most 107 bytes, too few for pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="fcn") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def environment(ray_folder: Path) -> dict[str, str]:
    return os.environ | {
        # As in an activated environment: Ray runs the `python` of a submitted job by name.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(ray_folder),
        "RAY_TMPDIR": str(ray_folder),
        "FCN_CACHE": str(ray_folder / "cache"),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Carries out a command in this process, where Ray must not start."""

    def no_ray(**_: object) -> None:
        raise AssertionError("Ray was started")

    def carry_out(main: Main, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["command.py", *map(str, arguments)])
        main()

    monkeypatch.setattr("ray.init", no_ray)
    return carry_out


@pytest.fixture
def refused(here: Here, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Carries out a command that the user must mend, and returns what it says: one line."""

    def carry_out(main: Main, *arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            here(main, *arguments)
        assert left.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        return message.strip()

    return carry_out
