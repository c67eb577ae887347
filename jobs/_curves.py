"""Validation curves of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.figures.curves import CurvePoint, curves


def draw_curves(runs: Mapping[str, Sequence[RunFolder]], path: Path, rule: str) -> None:
    """Draw mean IoU and loss by epoch into a local PNG; runs of one label are repeats of each other."""
    histories = {
        label: [list(map(_point, folder.read_epochs())) for folder in folders] for label, folders in runs.items()
    }
    curves(histories, path, rule)


def _point(epoch: Epoch) -> CurvePoint:
    mean_iou = epoch.scores.mean_iou
    return CurvePoint(epoch.epoch, float("nan") if mean_iou is None else mean_iou, epoch.train_loss)
