import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = {
    "promtool": "apt-get install prometheus",
    "terraform": "developer.hashicorp.com/terraform/install",
}
Program = Callable[[str], str]


@pytest.fixture(scope="session")
def program() -> Program:
    """Finds a validator: those of PyPI are there, others may be missing on a laptop.

    In CI what Debian has must be there, too. Debian has no terraform.
    """

    def find(name: str) -> str:
        beside = Path(sys.executable).with_name(name)
        path = str(beside) if beside.exists() else shutil.which(name)
        if path is None:
            assert name in INSTALL, f"{name} is missing: make clean, and make test again"
            assert name != "promtool" or "CI" not in os.environ, f"{name} is missing: {INSTALL[name]}"
            pytest.skip(f"{name} is not installed: {INSTALL[name]}")
        return path

    return find
