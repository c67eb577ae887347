"""Evaluations that are kept in the folder of a run."""

from pathlib import Path
from typing import NamedTuple

from fcn_core import storage
from fcn_core.evaluation import Evaluation, Report
from jobs._runs import Target

EVALUATION, SCORES = "evaluation.npz", "scores.json"


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
        there = storage.list_folder(storage.join(target.url, "evaluations"))
        known = f"there are {', '.join(there)}; " if there else ""
        raise FileNotFoundError(
            f"{target.url} has no evaluation {name!r}: {known}first python jobs/evaluate.py {target.url}"
        )
    return stored
