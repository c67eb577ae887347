"""What is left when a run ends: scores by class, the validation curve and five predictions."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from fcn_core import storage
from fcn_core.checkpoint import RunFolder, best_epoch
from fcn_core.data.audit import Audit
from fcn_core.data.base import Dataset, Subset
from fcn_core.data.catalogue import open_train_val
from fcn_core.figures.predictions import PredictionRow, predictions
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.rules import Rule, scores
from fcn_core.predict import Predictor
from fcn_core.settings import Run
from jobs._cli import RunFailedError
from jobs._console import Console, percent
from jobs._curves import draw_curves

NUM_PREDICTIONS = 5


def report(url: str, audited: Audit, run: Run, console: Console) -> None:
    """Draw the figures of a finished run into its folder, and say where everything is and what to do next.

    Raises:
        RunFailedError: its end is not there.
    """
    folder = RunFolder(url)
    epochs = folder.read_epochs()
    best = best_epoch(epochs)
    if best is None or epochs[-1].epoch != run.optim.last_epoch:
        remedy = "give --storage s3://bucket/lab, or a folder that all nodes mount"
        raise RunFailedError(
            f"the run has ended, but {url} lacks its last epoch: its workers wrote elsewhere; {remedy}"
        )
    val = Subset(open_train_val(run.data)[1], audited.val.kept)
    rule = Rule().describe(len(val.classes))
    with tempfile.TemporaryDirectory() as name:
        local = Path(name)
        draw_curves({run.name: [folder]}, local / "validation.png", rule)
        rows = _predictions(folder.best(), val)
        predictions(rows, val.classes, local / "predictions.png", title=f"{run.name}, epoch {best.epoch}")
        for path in sorted(local.iterdir()):
            storage.write_bytes(storage.join(url, "figures", path.name), path.read_bytes())
    table = Table(
        "class",
        "IoU",
        "accuracy",
        title=f"best epoch {best.epoch}: mean IoU {percent(best.scores.mean_iou)}",
        caption=rule,
    )
    for row in zip(val.classes.names, best.scores.class_iou, best.scores.class_accuracy, strict=True):
        table.add_row(row[0], percent(row[1]), percent(row[2]))
    console.rich.print(table)
    console.say(f"curve        {storage.join(url, 'figures', 'validation.png')}")
    console.say(f"predictions  {storage.join(url, 'figures', 'predictions.png')}")
    console.say(f"checkpoint   {folder.best()}")
    console.say(f"next         python jobs/evaluate.py {url}")


def _predictions(checkpoint: str, val: Dataset) -> list[PredictionRow]:
    predictor = Predictor.load(checkpoint)
    rows = []
    for index in np.linspace(0, len(val.names) - 1, min(NUM_PREDICTIONS, len(val.names)), dtype=int):
        sample = val.read(int(index))
        labels = predictor.labels(sample.image)
        matrix = confusion(labels[None], torch.from_numpy(sample.mask)[None], len(val.classes))[0]
        caption = f"pixel accuracy {percent(scores(matrix).pixel_accuracy)}"
        rows.append(PredictionRow(val.names[int(index)], sample.image, sample.mask, labels.numpy(), caption))
    return rows
