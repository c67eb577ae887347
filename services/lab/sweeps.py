"""What is stored of sweeps."""

import json
import re
from collections.abc import Mapping
from statistics import mean
from typing import Any

from pydantic import BaseModel

from fcn_core.metrics.intervals import Interval
from services._problems import Problem
from services.lab.files import Files
from services.lab.runs import FIGURE
from services.lab.schemas import Headline, SweepDetails, SweepSummary, Trial

_SWEEP_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_TRIAL, _OUTCOME = re.compile(r"trials/[0-9]+\.json"), re.compile(r"outcomes/[0-9][\w-]*\.json")
REPORT = "sweep.json"


class SweepSettings(BaseModel):
    """What is used of a sweep's settings."""

    method: str
    metric: str


class OutcomeFile(BaseModel):
    """What a run of a trial came to."""

    number: int
    run_id: str
    status: str
    score: float | None


class Finalist(BaseModel):
    """A trial that was evaluated image by image."""

    score: Interval
    runs: tuple[str, ...]


class SweepFile(BaseModel):
    """What is used of sweep.json."""

    sweep: SweepSettings
    finalists: tuple[Finalist, ...]
    outcomes: tuple[OutcomeFile, ...]
    rule: str

    @property
    def best_run(self) -> str | None:
        """The run of the best trial that scored best."""
        scores = {outcome.run_id: outcome.score or 0.0 for outcome in self.outcomes}
        return max(self.finalists[0].runs, key=lambda run_id: scores[run_id]) if self.finalists else None

    @property
    def best(self) -> Headline | None:
        """The score of the best trial, over the images of validation."""
        if not self.finalists:
            return None
        found = self.finalists[0].score
        return Headline(value=found.value, low=found.low, high=found.high, rule=self.rule)


class Sweeps:
    """Reads sweeps below a URL.

    Args:
        url: of the folder of all sweeps.
        refresh_s: how old the list of what is stored may be.
        patience_s: longest to wait for the storage.
    """

    def __init__(self, url: str, refresh_s: float, patience_s: float) -> None:
        self._files = Files(url, refresh_s, patience_s)

    def close(self) -> None:
        """End all threads."""
        self._files.close()

    def all(self) -> list[SweepSummary]:
        """Return all sweeps."""
        folders = self._folders()
        return self._files.each(lambda sweep_id: self._summary(sweep_id, folders[sweep_id]), sorted(folders))

    def details(self, sweep_id: str) -> SweepDetails:
        """Return all that is stored of a sweep.

        Raises:
            Problem: there is no such sweep (404).
        """
        files = self._folder(sweep_id)
        report = self._files.make(f"{sweep_id}/{REPORT}", _dict, files[REPORT]) if REPORT in files else None
        return SweepDetails(
            **self._summary(sweep_id, files).model_dump(),
            table=self._table(sweep_id, files),
            report=report if isinstance(report, dict) else None,
            figures=sorted(file for file in files if FIGURE.fullmatch(file)),
        )

    def figure(self, sweep_id: str, figure: str) -> bytes:
        """Return a picture (PNG).

        Raises:
            Problem: there is none (404).
        """
        if not FIGURE.fullmatch(figure) or figure not in self._folder(sweep_id):
            raise Problem(404, f"{sweep_id} has no figure {figure}")
        return self._files.read(f"{sweep_id}/{figure}")

    def _folders(self) -> dict[str, dict[str, str]]:
        folders: dict[str, dict[str, str]] = {}
        for path, version in self._files.versions().items():
            sweep_id, _, file = path.partition("/")
            if _SWEEP_ID.fullmatch(sweep_id) and file:
                folders.setdefault(sweep_id, {})[file] = version
        return folders

    def _folder(self, sweep_id: str) -> dict[str, str]:
        files = self._folders().get(sweep_id)
        if files is None:
            raise Problem(404, f"there is no sweep {sweep_id}")
        return files

    def _summary(self, sweep_id: str, files: Mapping[str, str]) -> SweepSummary:
        found = self._files.make(f"{sweep_id}/{REPORT}", _report, files[REPORT]) if REPORT in files else None
        report = found if isinstance(found, SweepFile) else None
        return SweepSummary(
            sweep_id=sweep_id,
            trials=sum(bool(_TRIAL.fullmatch(file)) for file in files),
            ended=sum(bool(_OUTCOME.fullmatch(file)) for file in files),
            finished=report is not None,
            method=report.sweep.method if report else None,
            metric=report.sweep.metric if report else None,
            best_run=report.best_run if report else None,
            best=report.best if report else None,
        )

    def _table(self, sweep_id: str, files: Mapping[str, str]) -> list[Trial]:
        read = {
            file: self._files.make(f"{sweep_id}/{file}", _dict, version)
            for file, version in files.items()
            if _TRIAL.fullmatch(file) or _OUTCOME.fullmatch(file)
        }
        outcomes: dict[int, list[dict[str, Any]]] = {}
        for file, found in read.items():
            if _OUTCOME.fullmatch(file) and isinstance(found, dict):
                outcomes.setdefault(_number(file), []).append(found)
        trials = [
            Trial(number=_number(file), point=point, outcomes=each, score=_mean(each))
            for file, point in read.items()
            if _TRIAL.fullmatch(file) and isinstance(point, dict)
            for each in [outcomes.get(_number(file), [])]
        ]
        return sorted(trials, key=lambda one: (-1.0 if one.score is None else one.score, -one.number), reverse=True)


def _number(file: str) -> int:
    return int(re.split(r"[/.-]", file)[1])


def _mean(outcomes: list[dict[str, Any]]) -> float | None:
    scores = [one["score"] for one in outcomes if isinstance(one.get("score"), float)]
    return mean(scores) if scores else None


def _report(contents: bytes) -> SweepFile:
    return SweepFile.model_validate_json(contents)


def _dict(contents: bytes) -> dict[str, Any]:
    found = json.loads(contents)
    if not isinstance(found, dict):
        raise ValueError("it holds no settings by name")  # noqa: TRY004 -- as everything else that cannot be read.
    return found
