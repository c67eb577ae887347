"""The figures of a sweep."""

from pathlib import Path
from statistics import mean

from fcn_core.figures.population import Segment, population
from fcn_core.figures.score_by_setting import ScorePoint, score_by_setting
from fcn_core.figures.searched import Dimension
from fcn_core.figures.sweep import parallel_coordinates
from fcn_core.figures.trials import State, Trial
from jobs._space import Choice
from jobs._study import Key, Study

RATE = "optim.learning_rate"


def draw_sweep(study: Study, folder: Path, rule: str) -> None:
    """Draw all trials that have ended through their settings, and score against learning rate, into a local folder."""
    title = study.sweep.sweep_id
    dimensions = [_dimension(study, name) for name in study.sweep.space.names]
    trials = [_trial(study, number, stage) for number in study.points for stage in study.sweep.judged]
    parallel_coordinates(dimensions, trials, folder / "parallel_coordinates.png", title, rule)
    if study.sweep.population is not None:
        metric = study.sweep.metric.replace("mean_iou", "mean IoU")
        population(_generations(study), folder / "population.png", dimensions, metric, title, rule)
    elif RATE in study.sweep.space.names:
        points = [_point(study, number, stage) for number in study.points for stage in study.sweep.judged]
        by = "skip configuration"
        score_by_setting(points, folder / "learning_rate.png", _dimension(study, RATE), by, title, rule)


def _generations(study: Study) -> list[list[Segment]]:
    """Return the members of each generation that has ended, with the scores of the first seed and fold."""
    found: list[list[Segment]] = []
    for index, (stage, members) in enumerate(zip(study.sweep.stages, study.generations, strict=False)):
        found.append([])
        for number, descent in members.items():
            parent = found[index - 1][descent.parent] if index else None
            epochs = study.epochs(Key(number, stage=stage))
            scores = [study.metric.of([epoch.scores]) or 0.0 for epoch in epochs]
            found[-1].append(Segment(number, parent, descent.point, [epoch.epoch for epoch in epochs], scores))
    return found


def _dimension(study: Study, name: str) -> Dimension:
    one = study.sweep.space.dimensions[name]
    if isinstance(one, Choice):
        return Dimension(name, choices=one.values)
    return Dimension(name, log=one.log, ends=(one.low, one.high))


def _trial(study: Study, number: int, stage: str) -> Trial:
    scores = study.scores(number, stage)
    outcomes = [one for key, one in study.outcomes.items() if key.number == number and key.stage == stage]
    states = {outcome.status for outcome in outcomes}
    worst: tuple[State, ...] = ("failed", "diverged", "stopped")
    state: State = next((one for one in worst if one in states), "finished")
    name = f"{number} {stage}" if study.sweep.staged else str(number)
    return Trial(name, study.point(number, stage), mean(scores) if scores else float("nan"), state)


def _point(study: Study, number: int, stage: str) -> ScorePoint:
    point = study.point(number, stage)
    stride = point.get("model.stride", study.sweep.run.model.stride)
    group = {"": f"FCN-{stride}s", "at_once": "FCN-8s at once"}.get(stage, f"FCN-{stage}")
    return ScorePoint(point[RATE], group, study.scores(number, stage) or [float("nan")])
