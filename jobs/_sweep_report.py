"""What is left when a sweep ends: a table, intervals of the best trials, figures and sweep.json."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fcn_core import storage
from fcn_core.evaluation import Evaluation
from fcn_core.metrics.intervals import Interval, intervals, paired
from fcn_core.metrics.rules import Rule
from fcn_core.settings import Value
from jobs._cli import Resources
from jobs._console import Console
from jobs._evaluate import command_for, evaluate_run
from jobs._runs import find_run
from jobs._scores import number as in_percent
from jobs._scores import span
from jobs._space import Point
from jobs._study import Outcome, Status, Study, Sweep
from jobs._sweep_figures import draw_sweep
from jobs._team import Start, team
from jobs._tracking import Ended, bring

ON_MLFLOW: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}


class Finalist(Value):
    """A trial that was evaluated image by image."""

    number: int
    stage: str
    score: Interval
    """Mean over seeds, with its interval over images."""
    less_than_best: Interval | None
    """Paired difference to the best; None for that itself."""
    runs: tuple[str, ...]


class Generation(Value):
    """A member of a population in one generation."""

    number: int
    stage: str
    parent: int
    """The member of the generation before from which it went on."""
    point: Point


class SweepReport(Value):
    """The contents of sweep.json."""

    format: int = 1
    sweep: Sweep
    points: dict[int, Point]
    outcomes: tuple[Outcome, ...]
    finalists: tuple[Finalist, ...]
    generations: tuple[Generation, ...]
    """Of a population."""
    rule: str

    @property
    def best_run(self) -> str | None:
        """The run of the best trial that scored best."""
        if not self.finalists:
            return None
        scores = {outcome.run_id: outcome.score or 0.0 for outcome in self.outcomes}
        return max(self.finalists[0].runs, key=lambda run_id: scores[run_id])


class Entry(NamedTuple):
    """A trial, or a stage of one, that has ended."""

    number: int
    stage: str
    score: float


def report_sweep(
    study: Study, url: str, resources: Resources, finalists: int, console: Console, start: Start = team
) -> SweepReport:
    """Print and keep what came out of a sweep, and bring it to MLflow."""
    best = [entry for entry in ranked(study) if _has_scores(study, entry)][:finalists]
    evaluated = [_matrices(study, entry, resources, console, start) for entry in best]
    found = [_finalist(study, entry, ours, evaluated[0]) for entry, ours in zip(best, evaluated, strict=True)]
    report = SweepReport(
        sweep=study.sweep,
        points=study.points,
        outcomes=tuple(study.outcomes[key] for key in sorted(study.outcomes)),
        finalists=tuple(found),
        generations=_generations(study),
        rule=Rule().describe(evaluated[0][0].shape[2]) if evaluated else "",
    )
    console.rich.print(table(study, report.finalists))
    _draw(study, url, report.rule, console)
    storage.write_bytes(storage.join(url, "sweep.json"), (report.model_dump_json(indent=1) + "\n").encode())
    bring(_ended(study, storage.absolute(resources.storage)), console.say)
    _show_finalists(study, report, console)
    console.say(f"everything   {url}")
    return report


def _generations(study: Study) -> tuple[Generation, ...]:
    if study.sweep.population is None:
        return ()
    return tuple(
        Generation(number=number, stage=stage, parent=descent.parent, point=descent.point)
        for stage, members in zip(study.sweep.stages, study.generations, strict=False)
        for number, descent in members.items()
    )


def _ended(study: Study, root: str) -> Iterator[Ended]:
    """Yield what MLflow is told of the runs that have ended; a trial that was stopped could not tell it itself."""
    for key, outcome in study.outcomes.items():
        if outcome.run_id:
            tags = {"fcn.sweep": study.sweep.sweep_id, "fcn.trial": key.name}
            yield Ended(storage.join(root, "runs", outcome.run_id), ON_MLFLOW[outcome.status], tags)


def _draw(study: Study, url: str, rule: str, console: Console) -> None:
    with tempfile.TemporaryDirectory() as name:
        draw_sweep(study, Path(name), rule)
        for path in sorted(Path(name).iterdir()):
            place = storage.join(url, "figures", path.name)
            storage.write_bytes(place, path.read_bytes())
            console.say(f"drawn        {place}")


def ranked(study: Study) -> list[Entry]:
    """Return all trials that have ended, or their stages, the best first; earlier trials first among equals."""
    entries = [
        Entry(number, stage, mean(values))
        for number in study.points
        for stage in study.sweep.judged
        if (values := study.scores(number, stage)) is not None
    ]
    return sorted(entries, key=lambda entry: (-entry.score, entry.number))


def _has_scores(study: Study, entry: Entry) -> bool:
    """Tell whether every run of a trial has a checkpoint worth evaluating: one that diverged has none."""
    keys = [key for key in study.sweep.keys(entry.number) if key.stage == entry.stage]
    return all(study.outcomes[key].status in ("finished", "stopped") for key in keys)


def table(study: Study, finalists: Sequence[Finalist] = ()) -> Table:
    """Return a table of all trials, the best first, with a column for each stage and the intervals of finalists."""
    names = [name.split(".")[-1] for name in study.sweep.space.names]
    titles = study.sweep.stages if study.sweep.staged else (study.sweep.metric,)
    stages = [Column(title, justify="right", no_wrap=True) for title in titles]
    shown = Table("trial", *stages, Column("95 % interval", no_wrap=True), *names, "state", box=SIMPLE_HEAD)
    shown.caption = (
        "in %; ± is the standard deviation over seeds and folds; intervals are over images, of the evaluated trials"
    )
    order = sorted(study.points, key=lambda number: (-(study.score(number) or -1.0), number))
    for number in order:
        cells = [_with_spread(study, number, stage) for stage in study.sweep.judged]
        spans = [f"{span(one.score)} {one.stage}".strip() for one in finalists if one.number == number]
        states = sorted({outcome.status for key, outcome in study.outcomes.items() if key.number == number})
        values = [f"{value:g}" if isinstance(value, float) else str(value) for value in study.point(number).values()]
        ended = ", ".join(states) or "not ended"
        shown.add_row(str(number), *cells, "\n".join(spans) or "-", *values, ended)
    return shown


def _with_spread(study: Study, number: int, stage: str) -> str:
    values = study.scores(number, stage)
    if values is None:
        return "-"
    spread = study.spread(number, stage)
    return in_percent(mean(values)) + ("" if spread is None else f" ± {in_percent(spread)}")


def _matrices(
    study: Study, entry: Entry, resources: Resources, console: Console, start: Start
) -> list[NDArray[np.int64]]:
    """Return the confusion matrices of all images for each seed of a trial; folds hold different images."""
    by_seed: dict[int, list[Evaluation]] = {}
    for key in study.sweep.keys(entry.number):
        if key.stage == entry.stage:
            target = find_run(study.outcomes[key].run_id, resources.storage)
            made = evaluate_run(target, command_for(target.url, resources, study.sweep.judged_step), console, start)
            by_seed.setdefault(key.repeat, []).append(made.evaluation)
    return [Evaluation.merge(parts).confusion for parts in by_seed.values()]


def _finalist(
    study: Study, entry: Entry, ours: Sequence[NDArray[np.int64]], best: Sequence[NDArray[np.int64]]
) -> Finalist:
    keys = [key for key in study.sweep.keys(entry.number) if key.stage == entry.stage]
    return Finalist(
        number=entry.number,
        stage=entry.stage,
        score=study.metric.interval(intervals(ours, Rule())),
        less_than_best=None if ours is best else study.metric.interval(paired(ours, best, Rule())),
        runs=tuple(study.outcomes[key].run_id for key in keys),
    )


def _show_finalists(study: Study, report: SweepReport, console: Console) -> None:
    for one in report.finalists:
        point = ", ".join(f"{name.split('.')[-1]} {value}" for name, value in study.point(one.number).items())
        behind = f", {span(one.less_than_best)} to the best" if one.less_than_best else ""
        score = f"{study.sweep.metric} {in_percent(one.score.value)} ({span(one.score)}) %"
        console.say(f"trial {f'{one.number} {one.stage}'.strip()}: {score}{behind}: {point}")
    if report.finalists:
        console.say(report.rule)
        console.say(f"best run     {report.best_run}")
        console.say("chosen on these images; for a number to quote, evaluate the best run on others: --split test")
