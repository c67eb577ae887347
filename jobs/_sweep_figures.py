"""The figures of a sweep."""

from pathlib import Path
from statistics import mean

from fcn_core.figures.score_by_setting import ScorePoint, score_by_setting
from fcn_core.figures.searched import Dimension
from fcn_core.figures.sweep import parallel_coordinates
from fcn_core.figures.trials import State, Trial
from jobs._space import Choice
from jobs._study import Study

RATE = "optim.learning_rate"


def draw_sweep(study: Study, folder: Path, rule: str) -> None:
    """Draw all trials that have ended through their settings, and score against learning rate, into a local folder."""
    title = study.sweep.sweep_id
    dimensions = [_dimension(study, name) for name in study.sweep.space.names]
    trials = [_trial(study, number, stage) for number in study.points for stage in study.sweep.stages]
    parallel_coordinates(dimensions, trials, folder / "parallel_coordinates.png", title, rule)
    if RATE in study.sweep.space.names:
        points = [_point(study, number, stage) for number in study.points for stage in study.sweep.stages]
        by = "skip configuration"
        score_by_setting(points, folder / "learning_rate.png", _dimension(study, RATE), by, title, rule)


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
    return Trial(f"{number} {stage}".strip(), study.points[number], mean(scores) if scores else float("nan"), state)


def _point(study: Study, number: int, stage: str) -> ScorePoint:
    point = study.points[number]
    stride = point.get("model.stride", study.sweep.run.model.stride)
    group = {"": f"FCN-{stride}s", "at_once": "FCN-8s at once"}.get(stage, f"FCN-{stage}")
    return ScorePoint(point[RATE], group, study.scores(number, stage) or [float("nan")])
