"""Evaluating a run's checkpoint over workers."""

import hashlib
import shlex
import sys
import tempfile
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from fcn_core import storage
from fcn_core.checkpoint import Card, best_epoch
from fcn_core.data.audit import Policy, audit_split
from fcn_core.data.base import Dataset, Subset
from fcn_core.data.catalogue import open_split
from fcn_core.evaluation import Checkpoint, Evaluation, Subject, summarise
from fcn_core.metrics.rules import RULES
from fcn_core.predict import Inference
from fcn_core.settings import Data, Run, override
from fcn_core.stored import Stored, read_evaluation
from jobs._cli import Resources, Settings, exit_codes, read
from jobs._console import Console, percent
from jobs._evaluations import stored_evaluation
from jobs._runs import Target, find_checkpoint, find_run
from jobs._scores import show, show_rules, span
from jobs._sheets import draw_figures, draw_sheet, ranked, spread
from jobs._team import Images, Start, Team, team


class EvaluateCommand(Inference, Resources, Settings):
    """Score a run's checkpoint on a split: every image once, alone and at its own size, on any number of workers.

    Kept in RUN/evaluations/SPLIT: evaluation.npz (the confusion matrix of each image and all else that scores are
    computed from), scores.json and figures. The same command again shows what is kept.
    """

    model_config = Settings.model_config
    aliases: ClassVar[dict[str, str]] = {"class": "class_name", "data.audit": "audit"}

    run: CliPositionalArg[str] = Field(description="folder or URL of a run, or its name below STORAGE/runs")
    split: str = Field("val", description="val, train, test, or PATH/SPLIT of other data laid out as the run's")
    data: str | None = Field(None, description="where the run's data lie now, if not where they were")
    audit: Policy | None = Field(
        None, description="what bad samples do: fail, leave_out or warn; as in training if left out"
    )
    step: str | None = Field(
        None, description="checkpoint: best, last or a step; the best if left out, the last for folds"
    )
    rule: str | None = Field(
        None, description=f"score what is kept under another rule: all, {', '.join(RULES)}; runs no network"
    )
    worst: bool = Field(False, description="draw the images with the lowest IoU")
    best: bool = Field(False, description="draw the images with the highest IoU")
    class_name: str | None = Field(None, description="--class: draw images that show a class, by the IoU of that class")
    num_predictions: int = Field(5, ge=1, le=50, description="images on a sheet")

    @field_validator("split")
    @classmethod
    def _absolute(cls, split: str) -> str:
        root, slash, name = split.rstrip("/").rpartition("/")
        return storage.join(storage.absolute(root or "/"), name) if slash else name

    @property
    def inference(self) -> Inference:
        """How predictions are made."""
        return Inference(tta=self.tta, tile=self.tile)

    @property
    def ends(self) -> list[str]:
        """The ends of the ranking that are to be drawn."""
        return [name for name, asked in (("worst", self.worst), ("best", self.best)) if asked]

    @property
    def sheets(self) -> bool:
        """Tell whether images are to be chosen and drawn."""
        return bool(self.ends or self.class_name)

    @property
    def folder(self) -> str:
        """Name of the evaluation: its split, and how it differs from the ordinary."""
        root, _, split = self.split.rpartition("/")
        parts = [*([Path(root).name] if root else []), split]
        parts += ["tta"] if self.tta else []
        parts += [f"tile{self.tile}"] if self.tile else []
        parts += [f"step{self.step}"] if self.step else []
        return "-".join(parts)


def command_for(url: str, resources: Resources, step: str | None = None) -> EvaluateCommand:
    """Return the command that evaluates a run on validation, with the resources of another command."""
    same = {name: getattr(resources, name) for name in Resources.model_fields}
    return EvaluateCommand(run=url, step=step, **same)


class Scored(NamedTuple):
    """The images to be scored."""

    images: Images
    dataset: Dataset
    """These images alone."""
    digest: str


def main() -> None:
    """Carry out an evaluation command."""
    command = read(EvaluateCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        target = find_run(command.run, command.storage)
        if command.rule is not None:
            show_rules(stored_evaluation(target, command.folder), command.rule, console)
            return
        made = (evaluate_folds if target.folds else evaluate_run)(target, command, console)
        show(made.report, console)
        console.say(f"everything   {made.url}")
        again = shlex.join(["python", "jobs/evaluate.py", *sys.argv[1:]])
        console.say(f"next         {again} --worst  (where it errs); --rule all; --help")


def evaluate_run(target: Target, command: EvaluateCommand, console: Console, start: Start = team) -> Stored:
    """Return the evaluation of a run, kept from before or made now, and draw the sheets that are asked for.

    Raises:
        ValueError: data, split, checkpoint or class do not fit.
        FileNotFoundError: data or checkpoint are not there.
    """
    checkpoint, card, identity = find_checkpoint(target, command.step or "best")
    best = best_epoch(target.folder.read_epochs())
    if command.step in (None, "best") and best is not None and best.step != identity.step:
        console.say(f"the best checkpoint, of step {best.step}, is not whole: step {identity.step} is taken")
    if command.class_name is not None and command.class_name not in card.classes.names:
        raise ValueError(f"no class {command.class_name!r}; classes are {', '.join(card.classes.names)}")
    scored = _audited(target.run, command, card, console)
    subject = Subject(
        checkpoints=(identity,),
        split=command.split,
        digest=scored.digest,
        num_images=len(scored.dataset.names),
        classes=card.classes,
        inference=command.inference,
    )
    kept = read_evaluation(_url(target, command))
    if kept is not None and kept.report.subject != subject:
        kept = None
    if kept is not None:
        console.say(f"already evaluated: {kept.url}")
        if not command.sheets:
            return kept
    with start(command, checkpoint, scored.images, command.inference, console) as workers:
        if kept is None:
            console.say(f"evaluating step {identity.step} of {identity.run_id} on {subject.num_images} images")
            # Opened first: a storage that cannot be written to is found before the work is done.
            with storage.publishing(_url(target, command)) as folder:
                evaluation = Evaluation.collect(open_split(*scored.images[:2]), workers.evaluate(console))
                report = summarise(evaluation, subject, _fitted(target, command, identity))
                kept = Stored(_url(target, command), evaluation, report)
                kept.write(folder)
                draw_figures(kept, folder)
                sheet = spread("predictions", range(subject.num_images), command.num_predictions)
                draw_sheet(sheet, kept, scored.dataset, workers.labels, folder)
        if command.sheets:
            _draw_sheets(kept, scored.dataset, workers, command, console)
    return kept


def evaluate_folds(target: Target, command: EvaluateCommand, console: Console, start: Start = team) -> Stored:
    """Evaluate each fold of a k-fold run on the part that it was not trained on, and all parts together.

    The last checkpoint of each fold is taken: to choose the best by the images that are scored would flatter.
    """
    if command.split != "val":
        raise ValueError("a k-fold run is evaluated on the parts that its folds left out: leave out split")
    of_fold = command.model_copy(update={"step": command.step or "last"})
    parts = []
    for url in target.folds:
        fold = find_run(url, command.storage)
        parts.append(evaluate_run(fold, of_fold, console, start))
        over_images = parts[-1].report.mean_iou_over_images
        console.say(f"fold {fold.run.data.fold}: mean IoU {percent(over_images.value)} ({span(over_images)})")
    subjects = [part.report.subject for part in parts]
    subject = subjects[0].model_copy(
        update={
            "checkpoints": tuple(checkpoint for one in subjects for checkpoint in one.checkpoints),
            "digest": hashlib.sha256("".join(one.digest for one in subjects).encode()).hexdigest(),
            "num_images": sum(one.num_images for one in subjects),
        }
    )
    evaluation = Evaluation.merge([part.evaluation for part in parts])
    whole = Stored(_url(target, command), evaluation, summarise(evaluation, subject))
    with storage.publishing(whole.url) as folder:
        whole.write(folder)
        draw_figures(whole, folder)
    return whole


def _url(target: Target, command: EvaluateCommand) -> str:
    return storage.join(target.url, "evaluations", command.folder)


def _audited(run: Run, command: EvaluateCommand, card: Card, console: Console) -> Scored:
    """Open what is to be scored; let whatever is wrong with it be said before any worker starts."""
    data, split = _data(run, command)
    if data.path is not None:
        storage.check_access(data.path)
        if not storage.exists(data.path):
            raise FileNotFoundError(f"there are no data in {data.path}: say with --data where they lie now")
    dataset = open_split(data, split)
    if dataset.classes.names != card.classes.names:
        theirs, ours = ", ".join(card.classes.names), ", ".join(dataset.classes.names)
        raise ValueError(f"the checkpoint was trained on other classes: {theirs}; the data have {ours}")
    findings, found = audit_split(
        command.split,
        dataset,
        command.audit or data.audit,
        progress=lambda done, of: console.count("auditing data, sample", done, of),
    )
    console.done()
    for finding in findings:
        console.say(str(finding))
    return Scored(Images(data, split, found.kept), Subset(dataset, found.kept), found.digest)


def _data(run: Run, command: EvaluateCommand) -> tuple[Data, str]:
    root, _, split = command.split.rpartition("/")
    place = root or command.data
    if place is None:
        return run.data, split
    if run.data.kind == "streets":
        raise ValueError(f"the run's data are drawn, not read: nothing in {place} is laid out as they are")
    changes: dict[str, str | None] = {"data.path": storage.absolute(place)}
    if root:
        # Other data than the run's: its splits have their own names, and its folds no meaning. No other need be there.
        changes |= {"data.train_split": split, "data.val_split": split, "data.folds": None, "data.fold": None}
    return override(run, changes).data, split


def _fitted(target: Target, command: EvaluateCommand, identity: Checkpoint) -> tuple[float, str] | None:
    """Return the temperature that validation chose for a checkpoint, where it is not validation that is evaluated."""
    if command.split == "val":
        return None
    kept = read_evaluation(_url(target, command.model_copy(update={"split": "val"})))
    if kept is None or kept.report.subject.checkpoints != (identity,):
        return None
    return kept.report.calibration.temperature, "val"


def _draw_sheets(made: Stored, dataset: Dataset, workers: Team, command: EvaluateCommand, console: Console) -> None:
    """Draw the sheets that are asked for, beside what is kept."""
    classes = made.report.subject.classes
    with tempfile.TemporaryDirectory() as name:
        for sheet in ranked(made.evaluation, classes, command.ends, command.class_name, command.num_predictions):
            path = draw_sheet(sheet, made, dataset, workers.labels, Path(name))
            url = storage.join(made.url, path.name)
            storage.write_bytes(url, path.read_bytes())
            console.say(f"drawn        {url}")
