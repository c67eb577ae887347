"""What a sweep knows of its trials, and where it keeps it."""

import hashlib
import json
from itertools import count
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.settings import Run, Value, override
from jobs._metric import MEAN_IOU, Metric
from jobs._population import Descent, next_generation
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
    """One of `STAGES` in a staged sweep; in a population the generation, by its last epoch."""

    @property
    def name(self) -> str:
        """A name for files."""
        return "-".join([f"{self.number:04d}", str(self.repeat), str(self.fold), *([self.stage] if self.stage else [])])


class Sweep(Value):
    """Everything that decides which trials there are and what they come to, but for how many."""

    run: Run
    """The settings that are not searched."""
    space: Space
    method: Literal["even", "tpe", "pbt"]
    metric: str = MEAN_IOU
    scheduler: Literal["none", "asha", "median"]
    grace_epochs: int
    seeds: int
    staged: bool
    population: int | None = None
    """Members, with method pbt."""
    generation_epochs: int | None = None
    """Epochs after which members are compared, with method pbt."""

    @property
    def sweep_id(self) -> str:
        """The name and ten hexadecimal digits of the SHA-256 of the settings."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"{self.run.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"

    @property
    def stages(self) -> tuple[str, ...]:
        """The runs of each trial, for each seed and fold."""
        if self.population is not None:
            return tuple(f"e{end:03d}" for end in self._ends)
        return tuple(STAGES) if self.staged else ("",)

    @property
    def judged(self) -> tuple[str, ...]:
        """The stages by the best of which a trial is judged; of a population the last generation."""
        return self.stages if self.population is None else self.stages[-1:]

    @property
    def by_last_epoch(self) -> bool:
        """Tell whether runs are judged by their last epoch.

        The best one of a fold is chosen on the images that the fold is scored on; members of a population go on from
        the last one.
        """
        return self.run.data.folds is not None or self.population is not None

    @property
    def judged_step(self) -> str | None:
        """The checkpoint by which a run is judged, as an evaluation names it."""
        return "last" if self.by_last_epoch else None

    def keys(self, number: int) -> list[Key]:
        """Return the runs of a trial."""
        repeats, folds = range(self.seeds), range(self.run.data.folds or 1)
        return [Key(number, repeat, fold, stage) for repeat in repeats for fold in folds for stage in self.stages]

    def needs(self, key: Key) -> list[Key]:
        """Return the runs that must have ended before."""
        if self.population is not None:
            before = self.stages.index(key.stage) - 1
            members = [one for number in range(self.population) for one in self.keys(number)]
            return [one for one in members if before >= 0 and one.stage == self.stages[before]]
        return [key._replace(stage="32s")] if key.stage in ("16s", "8s") else []

    def run_of(self, key: Key, point: Point, start: str | None) -> Run:
        """Return a run of a trial; `start` is the URL of the run that it starts from, if it does."""
        suffix = f"-{key.stage.replace('_', '-')}" if key.stage else ""
        changes = {**point, "name": f"{self.run.name}-t{key.number:03d}{suffix}", "seed": self.run.seed + key.repeat}
        if self.run.data.folds is not None:
            changes["data.fold"] = key.fold
        if self.population is not None:
            changes |= {"optim.stop_epoch": self._ends[self.stages.index(key.stage)], "optim.continue_from": start}
        elif self.staged:
            changes |= STAGES[key.stage]
            if start is not None:
                changes["model.start_from"] = start
        if key.stage == "at_once":
            # As long as FCN-32s and what starts from it together.
            changes["optim.epochs"] = 2 * override(self.run, point).optim.epochs
        return override(self.run, changes)

    @property
    def _ends(self) -> list[int]:
        """The last epoch of each generation."""
        each, epochs = self.generation_epochs or 1, self.run.optim.epochs
        return [*range(each, epochs, each), epochs]


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
    score: float | None
    """On validation, as the sweep's metric has it."""
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
        metric: what they are judged by.
    """

    def __init__(self, sweep: Sweep, place: Place, runs: str, trials: int, metric: Metric) -> None:
        self.sweep = sweep
        self.metric = metric
        self.outcomes = place.outcomes()
        self.points = place.points()
        self._place = place
        self._runs = runs
        self._trials = trials
        self._search = SEARCHES[sweep.method](sweep.space, sweep.run.seed)
        self._generations: list[dict[int, Descent]] = []
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
                hindrance = self._hindrance(key)
                if hindrance == "wait":
                    continue
                self._waiting.remove(key)
                if hindrance is None:
                    return self.member(key)
                self._give_up(key, hindrance)
                break
            else:
                if len(self.points) >= self._trials:
                    return "wait" if self._waiting else None
                self._begin(next(number for number in count() if number not in self.points))

    def member(self, key: Key) -> Member:
        """Return a run of the sweep."""
        return Member(key, self._run_of(key), key in self.outcomes)

    def point(self, number: int, stage: str | None = None) -> Point:
        """Return the settings of a trial in a stage; they change from generation to generation of a population.

        Left out, the stage is the newest for which they are known.
        """
        generations = self.generations if self.sweep.population is not None else []
        index = len(generations) - 1 if stage is None else self.sweep.stages.index(stage)
        return generations[index][number].point if generations else self.points[number]

    @property
    def generations(self) -> list[dict[int, Descent]]:
        """Return, of a population, who went on from whom in each generation, as far as scores tell."""
        known, stages = self._generations, self.sweep.stages
        if not known or len(known[0]) < len(self.points):
            known[:] = [{number: Descent(number, point) for number, point in self.points.items()}]
        while len(known) < len(stages) and len(self.points) == self.sweep.population:
            scores = {number: self._alive(number, stages[len(known) - 1]) for number in self.points}
            if "wait" in scores.values() or not any(score is not None for score in scores.values()):
                break
            points = {number: one.point for number, one in known[-1].items()}
            numbers = {number: score for number, score in scores.items() if score != "wait"}
            known.append(next_generation(self.sweep.space, self.sweep.run.seed, len(known), points, numbers))
        return known

    def _alive(self, number: int, stage: str) -> float | Literal["wait"] | None:
        """Return what a member is compared by; None if a run of it diverged."""
        values = self.scores(number, stage)
        if values is None:
            return "wait"
        keys = [key for key in self.sweep.keys(number) if key.stage == stage]
        return None if any(self.outcomes[key].status == "diverged" for key in keys) else mean(values)

    def _hindrance(self, key: Key) -> "Outcome | Literal['wait'] | None":
        """Return the outcome because of which a run cannot start, or "wait" if it cannot yet."""
        needed = [self.outcomes.get(one) for one in self.sweep.needs(key)]
        ended = [outcome for outcome in needed if outcome is not None]
        failed = [outcome for outcome in ended if outcome.status == "failed"]
        if failed or len(ended) < len(needed):
            return failed[0] if failed else "wait"
        if self.sweep.population is not None:
            # Whoever diverged goes on from another, unless there is none.
            return None if len(self.generations) > self.sweep.stages.index(key.stage) else ended[0]
        return next((outcome for outcome in ended if outcome.status == "diverged"), None)

    def _run_of(self, key: Key) -> Run:
        source = self._source(key)
        start = storage.join(self._runs, self._run_of(source).run_id) if source else None
        return self.sweep.run_of(key, self.point(key.number, key.stage), start)

    def _source(self, key: Key) -> Key | None:
        """Return the run from which one starts."""
        needs = self.sweep.needs(key)
        if self.sweep.population is None or not needs:
            return needs[0] if needs else None
        index = self.sweep.stages.index(key.stage)
        return key._replace(number=self.generations[index][key.number].parent, stage=self.sweep.stages[index - 1])

    def ended(self, member: Member, status: Status | None, reason: str) -> None:
        """Take note of what a run came to. One that failed is tried again when the sweep goes on.

        Args:
            member: the run.
            status: None if it ended by itself or was stopped.
            reason: why it diverged or failed.
        """
        if member.ended:
            return
        epochs = self.epochs(member.key)
        complete = bool(epochs) and epochs[-1].epoch == member.run.optim.last_epoch
        if status is None and not complete and self.sweep.scheduler == "none":
            status, reason = "failed", "it ended before its last epoch"
        outcome = Outcome(
            **member.key._asdict(),
            run_id=member.run.run_id,
            status=status or ("finished" if complete else "stopped"),
            epochs=len(epochs),
            # However good it was before.
            score=0.0 if status == "diverged" else self.metric.of([epoch.scores for epoch in epochs]),
            reason=reason,
        )
        self.outcomes[member.key] = outcome
        if outcome.status != "failed":
            self._place.write_outcome(outcome)
            self._tell(member.key.number)

    def epochs(self, key: Key) -> list[Epoch]:
        """Return the epochs that a run has trained."""
        return RunFolder(storage.join(self._runs, self._run_of(key).run_id)).read_epochs()

    @property
    def remaining(self) -> int:
        """How many runs have not ended."""
        runs = [key for number in {*range(self._trials), *self.points} for key in self.sweep.keys(number)]
        return sum(key not in self.outcomes or self.outcomes[key].status == "failed" for key in runs)

    def scores(self, number: int, stage: str | None = None) -> list[float] | None:
        """Return the score of each run of a trial, or of one stage, once all have ended; 0 for one that diverged."""
        keys = [key for key in self.sweep.keys(number) if stage is None or key.stage == stage]
        found = [self.outcomes.get(key) for key in keys]
        if any(outcome is None or outcome.status == "failed" for outcome in found):
            return None
        return [outcome.score or 0.0 for outcome in found if outcome is not None]

    def score(self, number: int) -> float | None:
        """Return what a trial is judged by: the mean over seeds and folds, of its best stage."""
        by_stage = [self.scores(number, stage) for stage in self.sweep.judged]
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
        # Who a member of a population would have gone on from is not known.
        run_id = "" if self.sweep.population is not None else self._run_of(key).run_id
        self.outcomes[key] = Outcome(
            **key._asdict(),
            run_id=run_id,
            status=needed.status,
            epochs=0,
            score=None,
            reason=f"{needed.run_id}, from which it starts, {needed.status}",
        )
        if needed.status != "failed":
            self._place.write_outcome(self.outcomes[key])
            self._tell(key.number)

    def _tell(self, number: int) -> None:
        if (score := self.score(number)) is not None:
            self._search.tell(number, score)
