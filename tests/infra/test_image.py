"""infra/image: what is in the image, without an engine that could build it."""

import re
import subprocess
from pathlib import Path

import yaml
from ray.scripts.scripts import cli as ray_cli

from tests.infra.conftest import ROOT, Program

FOLDER = ROOT / "infra" / "image"
TEXT = (FOLDER / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say(program: Program) -> None:
    check = [program("hadolint"), str(FOLDER / "Dockerfile")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_is_not_root_and_its_health_is_asked() -> None:
    assert re.findall(r"^USER (.+)$", TEXT, re.MULTILINE) == ["1000"]
    assert "useradd --uid 1000" in TEXT
    assert "RAY_AUTH_MODE=token" in TEXT
    assert re.search(r"^HEALTHCHECK ", TEXT, re.MULTILINE)
    start = re.findall(r"^CMD (\[.+\])$", TEXT, re.MULTILINE)[0]
    program, verb, *options = yaml.safe_load(start)
    assert program == "ray"
    with ray_cli.commands[verb].make_context(verb, options) as context:
        assert context.params["head"]


def test_the_context_is_small_and_has_all_that_is_copied() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE) for name in line.split()[:-1]}
    assert copied == kept
    size = sum(path.stat().st_size for name in kept for path in _files(ROOT / name) if "__pycache__" not in path.parts)
    assert size < 2_000_000


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]


def test_python_is_one_that_the_project_supports() -> None:
    python = re.findall(r"^FROM python:(\d+\.\d+)", TEXT, re.MULTILINE)
    supported = re.findall(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text())
    assert python == supported
