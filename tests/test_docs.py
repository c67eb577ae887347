import re
import shlex
import subprocess
from pathlib import Path

import pytest

from fcn_core.experiments import EXPERIMENTS
from fcn_core.settings import Stride
from jobs import _check
from jobs._cli import parse, read
from jobs._storage import StorageCommand

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
COMMANDS = re.findall(
    r"^(?:(?:ray job submit|python jobs/submit\.py) .*-- )?python jobs/(\w+)\.py ([^#\n]+)", README, re.MULTILINE
)
OTHERS = _check.OTHERS | {"storage": StorageCommand}
STRIDES: dict[str, Stride] = {"train_fcn32s": 32, "train_fcn16s": 16, "train_fcn8s": 8}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_every_job_is_in_the_readme() -> None:
    shown = {job for job, _ in COMMANDS} | set(re.findall(r"^python jobs/(submit)\.py .*-- ", README, re.MULTILINE))
    assert shown == {job.stem for job in (ROOT / "jobs").glob("[!_]*.py")} == {*STRIDES, *OTHERS, "submit"}


@pytest.mark.parametrize(("job", "arguments"), COMMANDS)
def test_commands_of_the_readme_are_understood(job: str, arguments: str) -> None:
    if job in OTHERS:
        read(OTHERS[job], shlex.split(arguments))
    else:
        assert parse(arguments.split(), STRIDES[job]).run.model.stride == STRIDES[job]


def test_every_experiment_is_in_the_readme() -> None:
    table = re.findall(r"^\| (`.+?`) \|", README, re.MULTILINE)
    shown = {name for row in table for name in re.findall(r"`(\w+)`", row)}
    assert set(EXPERIMENTS) <= shown


def test_every_verb_of_the_makefile_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split()
    assert verbs
    for verb in verbs:
        assert re.search(rf"^{verb}:.*## \w", makefile, re.MULTILINE), verb


def test_jobs_can_be_executed() -> None:
    for job in (ROOT / "jobs").glob("[!_]*.py"):
        assert job.stat().st_mode & 0o111
        assert job.read_text().startswith("#!/usr/bin/env python\n")


def test_neither_data_nor_weights_nor_index_addresses_are_kept() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if path.is_file():
            assert path.stat().st_size < 1_000_000, name
            assert path.suffix not in {".pth", ".pt", ".safetensors", ".npz", ".whl"}, name
    assert "://" not in (ROOT / "constraints.txt").read_text()
