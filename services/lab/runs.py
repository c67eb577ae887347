"""What is stored of runs."""

import json
import re
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder, best_epoch
from fcn_core.comparison import Comparison, Entrant, arms_of, compare
from fcn_core.evaluation import Report
from fcn_core.metrics.rules import Rule
from fcn_core.settings import Run, setting, setting_names
from fcn_core.stored import EVALUATIONS, SCORES, Stored, read_evaluation
from services._problems import Problem
from services.lab.files import Files
from services.lab.schemas import History, RunDetails, RunSummary, Score, SettingDifference, SettingDifferences

_RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
FIGURE = re.compile(r"(figures|evaluations/[^/]+)/[^/]+\.png")
"""Pictures below the folder of a run or a sweep."""
RESTARTS = "restarts.jsonl"


class RunFile(BaseModel):
    """What is used of run.json."""

    settings: Run
    started: str | None = None
    rule: str | None = None
    versions: dict[str, str] = {}
    folds: tuple[str, ...] = ()


class Trained(NamedTuple):
    """What a line of the leaderboard shows of epochs.jsonl."""

    epochs: int
    best: float | None


class Found(NamedTuple):
    """The runs of a storage."""

    runs: list[RunSummary]
    damaged: list[str]


class Runs:
    """Reads runs below a URL.

    Args:
        url: of the folder of all runs.
        refresh_s: how old the list of what is stored may be.
        patience_s: longest to wait for the storage.
    """

    def __init__(self, url: str, refresh_s: float, patience_s: float) -> None:
        self._files = Files(url, refresh_s, patience_s)
        self._grouped: tuple[Mapping[str, str], dict[str, dict[str, str]]] = ({}, {})
        self._compare, self._comparing = lru_cache(64)(self._compared), threading.Lock()

    def close(self) -> None:
        """End all threads."""
        self._files.close()

    def check(self) -> None:
        """List the storage.

        Raises:
            OSError: it does not answer.
        """
        self._files.versions()

    def all(self, evaluation: str) -> Found:
        """Return all runs, with the score of one of their evaluations."""
        folders = self._folders()
        names = [name for name in sorted(folders) if "run.json" in folders[name]]
        found = self._files.each(lambda name: self._summary(name, folders[name], evaluation), names)
        damaged = [name for name, one in zip(names, found, strict=True) if isinstance(one, ValueError)]
        return Found([one for one in found if isinstance(one, RunSummary)], damaged)

    def details(self, run_id: str) -> RunDetails:
        """Return all that is stored of a run, but what was packed of it.

        Raises:
            Problem: there is no such run (404), or it is damaged (409).
        """
        files = self._folder(run_id)
        summary, facts = self._summary(run_id, files, "val"), self._facts(run_id)
        if not isinstance(summary, RunSummary):
            raise Problem(409, f"run.json of {run_id} is damaged")
        names = setting_names(facts.settings)
        scores = {name: score for name in summary.evaluations if (score := self._score(run_id, files, name))}
        return RunDetails(
            **summary.model_dump(),
            rule=facts.rule,
            settings={name: setting(facts.settings, name) for name in names},
            versions=facts.versions,
            folds=[*facts.folds],
            history=self._epochs(run_id),
            restarts=self._restarts(run_id, files),
            scores=scores,
            figures=sorted(file for file in files if FIGURE.fullmatch(file)),
            packed=[],
        )

    def history(self, run_id: str, after: int) -> History:
        """Return the epochs of a run after some, as they are now: the list of files is not asked.

        Raises:
            Problem: as `details`.
        """
        # Settings do not change: an old list does, if the run is in it.
        known = self._grouped[1].get(run_id, {})
        facts = self._facts(run_id, known if "run.json" in known else None)
        epochs = self._epochs(run_id)
        last = facts.settings.optim.last_epoch
        finished = bool(epochs) and epochs[-1].epoch >= last
        return History(epochs=[one for one in epochs if one.epoch > after], of_epochs=last, finished=finished)

    def report(self, run_id: str, evaluation: str) -> Report:
        """Return an evaluation of a run.

        Raises:
            Problem: there is none (404), or it is damaged (409).
        """
        path = f"{EVALUATIONS}/{evaluation}/{SCORES}"
        version = self._folder(run_id).get(path)
        found = self._files.make(f"{run_id}/{path}", _report, version) if version else None
        if isinstance(found, ValueError):
            raise Problem(409, f"{path} of {run_id} is damaged")
        if found is None:
            raise Problem(404, f"{run_id} has no evaluation {evaluation}: submit evaluate")
        return found

    def figure(self, run_id: str, figure: str) -> bytes:
        """Return a picture (PNG).

        Raises:
            Problem: there is none (404).
        """
        if not FIGURE.fullmatch(figure) or figure not in self._folder(run_id):
            raise Problem(404, f"{run_id} has no figure {figure}")
        return self._files.read(f"{run_id}/{figure}")

    def differences(self, run_ids: list[str]) -> SettingDifferences:
        """Return the settings in which runs differ.

        Raises:
            Problem: as `details`.
        """
        runs = [self._facts(run_id).settings for run_id in run_ids]
        names = setting_names(runs[0])
        values = {name: [setting(run, name) for run in runs] for name in names}
        differ = {name: each for name, each in values.items() if any(one != each[0] for one in each)}
        found = [SettingDifference(name=name, values=each) for name, each in differ.items()]
        return SettingDifferences(runs=run_ids, settings=found, same=len(names) - len(found))

    def compare(self, run_ids: list[str], evaluation: str) -> Comparison:
        """Return the paired difference of runs to the first, on the images of an evaluation.

        Raises:
            Problem: a run is not there (404); one is not evaluated, or they cannot be compared (409).
        """
        seals = []
        for run_id in run_ids:
            seal = self._folder(run_id).get(f"{EVALUATIONS}/{evaluation}/{storage.COMMIT}")
            if seal is None:
                raise Problem(409, f"{run_id} has no evaluation {evaluation}: submit evaluate")
            seals.append((run_id, seal))
        # It takes a CPU for a while: one at a time, and who asks for the same waits for it.
        with self._comparing:
            return self._compare(tuple(seals), evaluation)

    def _compared(self, seals: tuple[tuple[str, str], ...], evaluation: str) -> Comparison:
        entrants = [Entrant(self._facts(run_id).settings, self._stored(run_id, evaluation)) for run_id, _ in seals]
        try:
            return compare(arms_of(entrants), Rule())
        except ValueError as error:
            raise Problem(409, str(error)) from error

    def _stored(self, run_id: str, evaluation: str) -> Stored:
        with self._files.asking():
            stored = read_evaluation(storage.join(self._files.url, run_id, EVALUATIONS, evaluation))
        if stored is None:
            raise Problem(409, f"the evaluation {evaluation} of {run_id} is damaged: submit evaluate")
        return stored

    def _folders(self) -> dict[str, dict[str, str]]:
        """Return the version of each file of each run."""
        versions = self._files.versions()
        if self._grouped[0] is not versions:
            folders: dict[str, dict[str, str]] = {}
            for path, version in versions.items():
                run_id, _, file = path.partition("/")
                if _RUN_ID.fullmatch(run_id) and file:
                    folders.setdefault(run_id, {})[file] = version
            self._grouped = (versions, folders)
        return self._grouped[1]

    def _folder(self, run_id: str) -> dict[str, str]:
        found = self._folders().get(run_id, {})
        if "run.json" not in found:
            raise Problem(404, f"there is no run {run_id}")
        return found

    def _facts(self, run_id: str, files: Mapping[str, str] | None = None) -> RunFile:
        version = (files or self._folder(run_id))["run.json"]
        found = self._files.make(f"{run_id}/run.json", _run_file, version)
        if isinstance(found, ValueError):
            raise Problem(409, f"run.json of {run_id} is damaged, or of another version")
        if found is None:
            raise Problem(404, f"there is no run {run_id} any more")
        return found

    def _epochs(self, run_id: str) -> list[Epoch]:
        try:
            with self._files.asking():
                return RunFolder(storage.join(self._files.url, run_id)).read_epochs()
        except ValueError as error:
            raise Problem(409, f"epochs.jsonl of {run_id} is damaged") from error

    def _restarts(self, run_id: str, files: Mapping[str, str]) -> list[dict[str, Any]]:
        version = files.get(RESTARTS)
        found = self._files.make(f"{run_id}/{RESTARTS}", _lines, version) if version else None
        return found if isinstance(found, list) else []

    def _summary(self, run_id: str, files: Mapping[str, str], evaluation: str) -> RunSummary | ValueError | None:
        facts = self._files.make(f"{run_id}/run.json", _run_file, files["run.json"])
        if not isinstance(facts, RunFile):
            return facts
        version = files.get("epochs.jsonl")
        trained = self._files.make(f"{run_id}/epochs.jsonl", _trained, version) if version else None
        epochs, best = trained if isinstance(trained, Trained) else Trained(0, None)
        run, names = facts.settings, _evaluations(files)
        return RunSummary(
            run_id=run_id,
            name=run.name,
            seed=run.seed,
            data=run.data.kind,
            network=f"FCN-{run.model.stride}s on {run.model.trunk}",
            started=facts.started,
            epochs=epochs,
            of_epochs=run.optim.last_epoch,
            finished=bool(names) if facts.folds else epochs >= run.optim.last_epoch,
            validation=best,
            score=self._score(run_id, files, evaluation),
            evaluations=names,
        )

    def _score(self, run_id: str, files: Mapping[str, str], evaluation: str) -> Score | None:
        path = f"{EVALUATIONS}/{evaluation}/{SCORES}"
        found = self._files.make(f"{run_id}/{path}", _score, files[path]) if path in files else None
        return found if isinstance(found, Score) else None


def score_of(report: Report) -> Score:
    """Return the headline of an evaluation."""
    subject, found = report.subject, report.mean_iou_over_images
    return Score(
        value=found.value,
        low=found.low,
        high=found.high,
        rule=report.rule,
        num_images=subject.num_images,
        data=subject.digest,
        step=subject.checkpoints[0].step if len(subject.checkpoints) == 1 else None,
    )


def _evaluations(files: Mapping[str, str]) -> list[str]:
    parts = [path.split("/") for path in files]
    return sorted(one[1] for one in parts if len(one) == 3 and one[0] == EVALUATIONS and one[2] == storage.COMMIT)


def _run_file(contents: bytes) -> RunFile:
    return RunFile.model_validate_json(contents)


def _trained(contents: bytes) -> Trained:
    epochs = [Epoch.model_validate_json(line) for line in contents.splitlines()]
    best = best_epoch(epochs)
    return Trained(epochs[-1].epoch if epochs else 0, best.scores.mean_iou if best else None)


def _report(contents: bytes) -> Report:
    return Report.model_validate_json(contents)


def _score(contents: bytes) -> Score:
    return score_of(_report(contents))


def _lines(contents: bytes) -> list[dict[str, Any]]:
    return [dict(json.loads(line)) for line in contents.splitlines()]
