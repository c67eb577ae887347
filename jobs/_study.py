"""What a sweep knows of its trials, and where it keeps it."""

import hashlib
import json
from itertools import count
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

from fcn_core import storage
from fcn_core.checkpoint import RunFolder, best_epoch
from fcn_core.settings import Run, Value, override
from jobs._search import SEARCHES
from jobs._space import Point, Space

Status = Literal["finished", "stopped", "diverged", "failed"]
STAGES: dict[str, dict[str, Any]] = {
    "32s": {"model.stride": 32},
    "16s": {"model.stride": 16, "model.weights": None},
    "8s": {"model.stride": 8, "model.weights": None},
    "at_once": {"model.stride": 8, "model.at_once": True},
}
"""The runs of a trial of a staged sweep: FCN-32s, what is trained from it, and FCN-8s at once."""


class Key(NamedTuple):
    """Which run of which trial."""

    number: int
    """Of the trial."""
    repeat: int = 0
    """Added to the seed."""
    fold: int = 0
    stage: str = ""
    """One of `STAGES` in a staged sweep."""

    @property
    def name(self) -> str:
        """A name for files."""
        return "-".join([f"{self.number:04d}", str(self.repeat), str(self.fold), *([self.stage] if self.stage else [])])

    @property
    def needs(self) -> "Key | None":
        """The run that must have ended before."""
        return self._replace(stage="32s") if self.stage in ("16s", "8s") else None


class Sweep(Value):
    """Everything that decides which trials there are and what they come to, but for how many."""

    run: Run
    """The settings that are not searched."""
    space: Space
    method: Literal["even", "tpe"]
    scheduler: Literal["none", "asha", "median"]
    grace_epochs: int
    seeds: int
    staged: bool

    @property
    def sweep_id(self) -> str:
        """The name and ten hexadecimal digits of the SHA-256 of the settings."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"{self.run.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"

    @property
    def stages(self) -> tuple[str, ...]:
        """The runs of each trial, for each seed and fold."""
        return tuple(STAGES) if self.staged else ("",)

    def keys(self, number: int) -> list[Key]:
        """Return the runs of a trial."""
        repeats, folds = range(self.seeds), range(self.run.data.folds or 1)
        return [Key(number, repeat, fold, stage) for repeat in repeats for fold in folds for stage in self.stages]

    def run_of(self, key: Key, point: Point, runs: str) -> Run:
        """Return a run of a trial; `runs` is the URL below which runs are kept."""
        suffix = f"-{key.stage.replace('_', '-')}" if key.stage else ""
        changes = {**point, "name": f"{self.run.name}-t{key.number:03d}{suffix}", "seed": self.run.seed + key.repeat}
        if self.run.data.folds is not None:
            changes["data.fold"] = key.fold
        changes |= STAGES.get(key.stage, {})
        if key.needs is not None:
            changes["model.start_from"] = storage.join(runs, self.run_of(key.needs, point, runs).run_id)
        if key.stage == "at_once":
            # As long as FCN-32s and what starts from it together.
            changes["optim.epochs"] = 2 * override(self.run, point).optim.epochs
        return override(self.run, changes)


class Member(NamedTuple):
    """One run of a trial."""

    key: Key
    run: Run
    ended: bool = False
    """It has ended before; only what it reported then is reported again."""


class Outcome(Value):
    """What a run of a trial came to; written once."""

    number: int
    repeat: int
    fold: int
    stage: str
    run_id: str
    status: Status
    epochs: int
    mean_iou: float | None
    """On validation: of the best epoch, or of the last one in a fold."""
    reason: str = ""

    @property
    def key(self) -> Key:
        """Which run of which trial."""
        return Key(self.number, self.repeat, self.fold, self.stage)


class Place(NamedTuple):
    """Where a sweep keeps what it knows: `trials/` before they start, `outcomes/` when they have ended."""

    url: str

    def points(self) -> dict[int, Point]:
        """Return the points of the trials that were begun, by number."""
        return {int(name): json.loads(contents) for name, contents in self._read("trials").items()}

    def write_point(self, number: int, point: Point) -> None:
        """Note a trial, before it starts.

        Raises:
            ValueError: another process has begun it at the same time.
        """
        try:
            storage.create_bytes(storage.join(self.url, "trials", f"{number:04d}.json"), json.dumps(point).encode())
        except FileExistsError as error:
            raise ValueError(
                f"trial {number} was begun by another process: this sweep goes on elsewhere, wait for it or stop it"
            ) from error

    def outcomes(self) -> dict[Key, Outcome]:
        """Return what has ended."""
        found = map(Outcome.model_validate_json, self._read("outcomes").values())
        return {outcome.key: outcome for outcome in found}

    def write_outcome(self, outcome: Outcome) -> None:
        """Note that a run of a trial has ended."""
        url = storage.join(self.url, "outcomes", f"{outcome.key.name}.json")
        storage.write_bytes(url, outcome.model_dump_json().encode())

    def _read(self, kind: str) -> dict[str, bytes]:
        folder = storage.join(self.url, kind)
        # A number comes first; what was only half written when a process was killed has another name.
        names = [name for name in storage.list_folder(folder) if name.endswith(".json") and name[:1].isdigit()]
        return {name.removesuffix(".json"): storage.read_bytes(storage.join(folder, name)) for name in names}


class Study:
    """The trials of a sweep: which come next, and what has ended.

    Args:
        sweep: what is searched.
        place: where it is kept; what is there is taken over.
        runs: URL below which runs are kept.
        trials: how many points are tried.
    """

    def __init__(self, sweep: Sweep, place: Place, runs: str, trials: int) -> None:
        self.sweep = sweep
        self.outcomes = place.outcomes()
        self.points = place.points()
        self._place = place
        self._runs = runs
        self._trials = trials
        self._search = SEARCHES[sweep.method](sweep.space, sweep.run.seed)
        self._waiting: list[Key] = []
        for number in sorted(self.points):
            self._search.point(number, self.points[number])
            self._tell(number)
            self._waiting += self._unfinished(number)

    def next(self) -> Member | Literal["wait"] | None:
        """Return the run that is started next, "wait" if it needs one that has not ended, None if there is none.

        The point of a trial is kept before its first run starts.
        """
        while True:
            for key in self._waiting:
                needed = self.outcomes.get(key.needs) if key.needs else None
                if key.needs is None or (needed is not None and needed.status in ("finished", "stopped")):
                    self._waiting.remove(key)
                    return self.member(key)
                if needed is not None:
                    self._waiting.remove(key)
                    self._give_up(key, needed)
                    break
            else:
                if len(self.points) >= self._trials:
                    return "wait" if self._waiting else None
                self._begin(next(number for number in count() if number not in self.points))

    def member(self, key: Key) -> Member:
        """Return a run of the sweep."""
        run = self.sweep.run_of(key, self.points[key.number], self._runs)
        return Member(key, run, key in self.outcomes)

    def ended(self, member: Member, status: Status | None, reason: str) -> None:
        """Take note of what a run came to. One that failed is tried again when the sweep goes on.

        Args:
            member: the run.
            status: None if it ended by itself or was stopped.
            reason: why it diverged or failed.
        """
        if member.ended:
            return
        epochs = RunFolder(storage.join(self._runs, member.run.run_id)).read_epochs()
        complete = len(epochs) == member.run.optim.epochs
        if status is None and not complete and self.sweep.scheduler == "none":
            status, reason = "failed", "it ended before its last epoch"
        # The best epoch of a fold is chosen on the images that the fold is scored on: the last one is not.
        best = best_epoch(epochs if self.sweep.run.data.folds is None else epochs[-1:])
        outcome = Outcome(
            **member.key._asdict(),
            run_id=member.run.run_id,
            status=status or ("finished" if complete else "stopped"),
            epochs=len(epochs),
            mean_iou=best.scores.mean_iou if best else None,
            reason=reason,
        )
        self.outcomes[member.key] = outcome
        if outcome.status != "failed":
            self._place.write_outcome(outcome)
            self._tell(member.key.number)

    @property
    def remaining(self) -> int:
        """How many runs have not ended."""
        runs = [key for number in {*range(self._trials), *self.points} for key in self.sweep.keys(number)]
        return sum(key not in self.outcomes or self.outcomes[key].status == "failed" for key in runs)

    def scores(self, number: int, stage: str | None = None) -> list[float] | None:
        """Return the mean IoU of each run of a trial, or of one stage, once all have ended; 0 for one that diverged."""
        keys = [key for key in self.sweep.keys(number) if stage is None or key.stage == stage]
        found = [self.outcomes.get(key) for key in keys]
        if any(outcome is None or outcome.status == "failed" for outcome in found):
            return None
        return [
            0.0 if outcome.status == "diverged" else outcome.mean_iou or 0.0 for outcome in found if outcome is not None
        ]

    def score(self, number: int) -> float | None:
        """Return what a trial is judged by: the mean over seeds and folds, of its best stage."""
        by_stage = [self.scores(number, stage) for stage in self.sweep.stages]
        if any(values is None for values in by_stage):
            return None
        return max(mean(values) for values in by_stage if values is not None)

    def spread(self, number: int, stage: str) -> float | None:
        """Return the standard deviation over seeds and folds."""
        values = self.scores(number, stage)
        return stdev(values) if values and len(values) > 1 else None

    def _begin(self, number: int) -> None:
        self.points[number] = self._search.point(number)
        self._place.write_point(number, self.points[number])
        self._waiting += self._unfinished(number)

    def _unfinished(self, number: int) -> list[Key]:
        # A scheduler compares trials with those of before: they report again what they reported then, if anything.
        again = self.sweep.scheduler != "none"
        return [
            key
            for key in self.sweep.keys(number)
            if key not in self.outcomes or (again and self.outcomes[key].epochs > 0)
        ]

    def _give_up(self, key: Key, needed: Outcome) -> None:
        run = self.member(key).run
        self.outcomes[key] = Outcome(
            **key._asdict(),
            run_id=run.run_id,
            status=needed.status,
            epochs=0,
            mean_iou=None,
            reason=f"{needed.run_id}, from which it starts, {needed.status}",
        )
        if needed.status != "failed":
            self._place.write_outcome(self.outcomes[key])
            self._tell(key.number)

    def _tell(self, number: int) -> None:
        if (score := self.score(number)) is not None:
            self._search.tell(number, score)
