"""What Prometheus is told of training runs and sweeps.

Ray's agent on the driver's node exports it, under these names with `ray_` before them, for as long as the driver lives.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fcn_core.checkpoint import Epoch
from fcn_core.training import Progress

RUN = {
    "fcn_train_running": "1 while the run is trained, 0 afterwards",
    "fcn_train_workers": "Workers that train the run",
    "fcn_train_restarts": "How often workers were lost and started again, under this command",
    "fcn_train_epoch": "Epochs finished",
    "fcn_train_step": "Steps taken",
    "fcn_train_steps": "Steps of the whole run",
    "fcn_train_loss": "Training loss: of the last step, at the end of an epoch of the epoch",
    "fcn_train_learning_rate": "Learning rate at the end of the last epoch",
    "fcn_train_mean_iou": "Mean IoU on validation, from 0 to 1",
    "fcn_train_images_per_second": "Images trained on per second, over all workers",
}
"""Gauges of a run, labelled `run`."""

SWEEP = {
    "fcn_sweep_runs": "Runs of the sweep's trials that are in this state",
    "fcn_sweep_best_score": "The best score of a trial so far, from 0 to 1",
}
"""Gauges of a sweep, labelled `sweep`; the first one by `state` too."""


class Started(NamedTuple):
    """The workers of a run have started, for the first time or again."""

    workers: int
    step: int
    """From which they train."""


class RunMetrics:
    """The gauges of one run; to be made where Ray runs."""

    def __init__(self, run_id: str) -> None:
        self._gauges = {name: _gauge(name, text, run=run_id) for name, text in RUN.items()}
        self._starts = 0
        self._set(running=1)

    def show(self, item: object) -> None:
        """Take over what came over the board, as far as it is a number."""
        match item:
            case Started():
                self._starts += 1
                self._set(workers=item.workers, restarts=self._starts - 1)
            case Progress():
                self._set(step=item.step, steps=item.steps, loss=item.loss, images_per_second=item.images_per_s)
            case Epoch():
                self._set(epoch=item.epoch, step=item.step, loss=item.train_loss, learning_rate=item.learning_rate)
                self._set(mean_iou=item.scores.mean_iou, images_per_second=item.images_per_s)
            case _:
                pass

    def end(self) -> None:
        """Tell that the run is not trained any more: Ray forgets a gauge only with its process."""
        self._set(running=0, workers=0)

    def _set(self, **values: float | None) -> None:
        for name, value in values.items():
            self._gauges[f"fcn_train_{name}"].set(math.nan if value is None else value)


class SweepMetrics:
    """The gauges of one sweep; to be made where Ray runs."""

    def __init__(self, sweep_id: str) -> None:
        self._runs = _gauge("fcn_sweep_runs", SWEEP["fcn_sweep_runs"], "state", sweep=sweep_id)
        self._best = _gauge("fcn_sweep_best_score", SWEEP["fcn_sweep_best_score"], sweep=sweep_id)

    def show(self, runs: Mapping[str, int], best: float | None) -> None:
        """Tell how many runs are in each state, and the best score there is."""
        for state, number in runs.items():
            self._runs.set(number, tags={"state": state})
        if best is not None:
            self._best.set(best)


def _gauge(name: str, description: str, *more: str, **labels: str) -> Any:  # noqa: ANN401 -- Ray's have no types.
    from ray.util.metrics import Gauge

    return Gauge(name, description, tag_keys=(*labels, *more)).set_default_tags(labels)
