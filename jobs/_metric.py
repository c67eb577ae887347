"""What the trials of a sweep are judged by."""

from collections.abc import Sequence
from typing import NamedTuple

from fcn_core.metrics.intervals import Interval, Intervals
from fcn_core.metrics.rules import Scores
from fcn_core.settings import Classes

MEAN_IOU = "mean_iou"
OF_CLASS = "iou."


class Metric(NamedTuple):
    """A score of the checkpoint that a run is judged by, on its validation images."""

    class_index: int | None = None
    """Of the class whose IoU it is; None for the mean IoU."""
    last: bool = False
    """Judge by the last epoch, not by the one with the best mean IoU, whose checkpoint a run keeps."""

    def of(self, epochs: Sequence[Scores]) -> float | None:
        """Return the score of a run, given those of its epochs; None if there is none."""
        if not epochs:
            return None
        judged = epochs[-1] if self.last else max(epochs, key=lambda one: one.mean_iou or 0.0)
        return judged.mean_iou if self.class_index is None else judged.class_iou[self.class_index]

    def interval(self, found: Intervals) -> Interval:
        """Return that of the metric."""
        return found.mean_iou if self.class_index is None else found.class_iou[self.class_index]


def metric_of(name: str, classes: Classes, *, last: bool) -> Metric:
    """Return the metric of that name: mean_iou, or iou.CLASS.

    Raises:
        ValueError: there is none.
    """
    if name == MEAN_IOU:
        return Metric(last=last)
    if name.startswith(OF_CLASS) and name.removeprefix(OF_CLASS) in classes.names:
        return Metric(classes.names.index(name.removeprefix(OF_CLASS)), last)
    known = ", ".join(OF_CLASS + one for one in classes.names)
    raise ValueError(f"no metric {name!r}: there are {MEAN_IOU}, {known}")
