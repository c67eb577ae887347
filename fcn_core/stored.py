"""Evaluations that are kept in the folder of a run."""

from pathlib import Path
from typing import NamedTuple

from fcn_core import storage
from fcn_core.evaluation import Evaluation, Report

EVALUATIONS = "evaluations"
"""The folder of a run that holds a folder for each of them."""
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
