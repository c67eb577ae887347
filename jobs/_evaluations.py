"""Evaluations that are kept in the folder of a run."""

import re
import shlex
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fcn_core import storage
from fcn_core.evaluation import Evaluation, Report
from jobs._runs import Target

_LONGEST_NAME = 200
EVALUATION, SCORES = "evaluation.npz", "scores.json"


def file_name(text: str) -> str:
    """Return what people wrote, such as the name of a class, as the name of a file, without its ending."""
    name = re.sub(r"[^\w.-]+", "-", text)
    return name if len(name.encode()) <= _LONGEST_NAME else f"{name[:30]}-{sha256(text.encode()).hexdigest()[:10]}"


class Stored(NamedTuple):
    """An evaluation and where it is kept."""

    url: str
    evaluation: Evaluation
    report: Report

    def write(self, folder: Path) -> None:
        """Write both into a local folder, to be published."""
        self.evaluation.write(folder / EVALUATION)
        (folder / SCORES).write_text(self.report.model_dump_json(indent=1) + "\n")


def read_evaluation(url: str) -> Stored | None:
    """Return what is kept at `url`; None where there is nothing whole."""
    try:
        folder = storage.fetch(url)
    except storage.TornError:
        return None
    report = Report.model_validate_json((folder / SCORES).read_text())
    return Stored(url, Evaluation.read(folder / EVALUATION), report)


def stored_evaluation(target: Target, name: str) -> Stored:
    """Return an evaluation that was made before.

    Raises:
        FileNotFoundError: it was not; the message says which were, and what to type.
    """
    stored = read_evaluation(storage.join(target.url, "evaluations", name))
    if stored is None:
        everything = storage.list_folder(storage.join(target.url, "evaluations"))
        there = [one for one in everything if not one.startswith(storage.PARTIAL)]
        known = f"there are {', '.join(there)}; " if there else ""
        options = "" if name == "val" else f"  (with the --split, --tta or --step that {name!r} stands for)"
        first = f"first python jobs/evaluate.py {shlex.quote(target.url)}{options}"
        raise FileNotFoundError(f"{target.url} has no evaluation {name!r}: {known}{first}")
    return stored
