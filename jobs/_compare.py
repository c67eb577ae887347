"""Comparing runs on the same images."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg

from fcn_core import storage
from fcn_core.figures.differences import Difference, differences
from fcn_core.metrics.intervals import Interval, intervals, paired
from fcn_core.metrics.rules import RULES, Rule, scores
from fcn_core.settings import Run, Value, setting_names
from jobs._cli import FROM_OUTSIDE, Settings, exit_codes, read
from jobs._console import Console
from jobs._curves import draw_curves
from jobs._evaluations import Stored, file_name, stored_evaluation
from jobs._runs import Target, find_run
from jobs._scores import number, span, table


class CompareCommand(Settings):
    """Say how runs differ, image by image, with an interval. Runs that differ only in seed are pooled.

    The runs must have been evaluated on the same data by the same rule. The first is what the others are compared to.
    """

    model_config = FROM_OUTSIDE
    aliases: ClassVar[dict[str, str]] = {}

    runs: CliPositionalArg[list[str]] = Field(description="folders, URLs or names of runs; at least two")
    evaluation: str = Field("val", description="which evaluation of each run, by its folder: val, test, val-tta")
    rule: str = Field("set", description=f"one of {', '.join(name for name in RULES if RULES[name].over != 'batch')}")
    storage: str = Field("results", description="folder or URL below which runs/ and comparisons/ lie")


class Arm(NamedTuple):
    """Runs that differ only in seed."""

    label: str
    targets: list[Target]
    evaluations: list[Stored]

    @property
    def matrices(self) -> list[NDArray[np.int64]]:
        """The confusion matrices of each run."""
        return [stored.evaluation.confusion for stored in self.evaluations]


class ArmReport(Value):
    """Scores of an arm."""

    label: str
    runs: tuple[str, ...]
    mean_iou: Interval
    """Mean over the runs, with its interval over images."""
    mean_iou_of_runs: tuple[float | None, ...]
    standard_deviation: float | None
    """Over the runs; None for one."""


class DifferenceReport(Value):
    """What one arm has over the first."""

    label: str
    mean_iou: Interval
    mean_iou_over_sequences: Interval | None
    class_iou: tuple[Interval, ...]


class Comparison(Value):
    """The contents of comparison.json."""

    format: int = 1
    rule: str
    digest: str
    num_images: int
    classes: tuple[str, ...]
    arms: tuple[ArmReport, ...]
    differences: tuple[DifferenceReport, ...]


def main() -> None:
    """Carry out a comparison."""
    command = read(CompareCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        compare(command, console)


def compare(command: CompareCommand, console: Console) -> str:
    """Compare runs, draw what came out, and return the URL of the folder where it is kept.

    Raises:
        ValueError: the runs have unlike data or rules, or all differ in seed only.
        FileNotFoundError: a run is not there or was not evaluated.
    """
    if RULES.get(command.rule, RULES["per_batch"]).over == "batch":
        known = ", ".join(name for name in RULES if RULES[name].over != "batch")
        raise ValueError(f"no rule {command.rule!r} for comparisons; rules are {known}")
    storage.check_access(command.storage)
    arms = _arms(command)
    if len(arms) < 2:
        raise ValueError("nothing to compare: give at least two runs that differ in more than their seed")
    _check_alike([stored for arm in arms for stored in arm.evaluations])
    comparison = _comparison(arms, RULES[command.rule])
    name = file_name("-vs-".join(arm.label for arm in arms))
    url = storage.join(storage.absolute(command.storage), "comparisons", name)
    with storage.publishing(url) as folder:
        (folder / "comparison.json").write_text(comparison.model_dump_json(indent=1) + "\n")
        _draw(arms, comparison, folder)
    _show(comparison, console)
    console.say(f"everything   {url}")
    return url


def _arms(command: CompareCommand) -> list[Arm]:
    # The same run, or a copy of it, given twice is one and no other seed.
    targets: dict[str, Target] = {}
    for target in (find_run(name, command.storage) for name in command.runs):
        targets.setdefault(target.run.run_id, target)
    pooled: dict[str, list[Target]] = {}
    for target in targets.values():
        pooled.setdefault(_but_for_the_seed(target.run), []).append(target)
    labels = _labels([targets[0].run for targets in pooled.values()])
    return [
        Arm(label, targets, [stored_evaluation(target, command.evaluation) for target in targets])
        for label, targets in zip(labels, pooled.values(), strict=True)
    ]


def _but_for_the_seed(run: Run) -> str:
    """Return the settings without the seed; of the run that a staged one started from, the name alone counts."""
    settings = run.model_dump(mode="json", exclude={"seed"})
    start = settings["model"]["start_from"]
    settings["model"]["start_from"] = start and re.sub(r"-[0-9a-f]{10}(?=/|$)", "", start)
    return json.dumps(settings, sort_keys=True)


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return the names of runs, with the settings in which those of one name differ."""
    labels = []
    for run in runs:
        same = [other for other in runs if other.name == run.name]
        differ = [name for name in setting_names(run) if len({str(_setting(other, name)) for other in same}) > 1]
        settings = ", ".join(f"{name.split('.')[-1]} {_setting(run, name)}" for name in differ if name != "seed")
        labels.append(f"{run.name} ({settings})" if settings else run.name)
    return labels


def _setting(run: Run, name: str) -> object:
    value: object = run
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _check_alike(kept: Sequence[Stored]) -> None:
    """Refuse to compare what was not scored on the same images in the same way."""
    first = kept[0].report.subject
    for subject in (stored.report.subject for stored in kept[1:]):
        what = {
            "classes": (first.classes.names, subject.classes.names),
            "way of predicting": (first.inference.describe(), subject.inference.describe()),
            "number of images": (first.num_images, subject.num_images),
            "data (SHA-256)": (first.digest, subject.digest),
        }
        for name, (one, other) in what.items():
            if one != other:
                pair = f"{first.checkpoints[0].run_id} and {subject.checkpoints[0].run_id}"
                raise ValueError(f"{pair} cannot be compared: their {name} differ: {one} and {other}")


def _comparison(arms: Sequence[Arm], rule: Rule) -> Comparison:
    first = arms[0].evaluations[0]
    groups = first.evaluation.known_sequences()
    found = [
        DifferenceReport(
            label=f"{arm.label} - {arms[0].label}",
            mean_iou=(over_images := paired(arm.matrices, arms[0].matrices, rule)).mean_iou,
            mean_iou_over_sequences=paired(arm.matrices, arms[0].matrices, rule, groups).mean_iou if groups else None,
            class_iou=over_images.class_iou,
        )
        for arm in arms[1:]
    ]
    subject = first.report.subject
    return Comparison(
        rule=subject.describe(rule),
        digest=subject.digest,
        num_images=subject.num_images,
        classes=(*subject.classes.names, "void")[: len(found[0].class_iou)],
        arms=tuple(_arm_report(arm, rule) for arm in arms),
        differences=tuple(found),
    )


def _arm_report(arm: Arm, rule: Rule) -> ArmReport:
    values = [scores(matrices, rule).mean_iou for matrices in arm.matrices]
    there = [value for value in values if value is not None]
    return ArmReport(
        label=arm.label,
        runs=tuple(target.run.run_id for target in arm.targets),
        mean_iou=intervals(arm.matrices, rule).mean_iou,
        mean_iou_of_runs=tuple(values),
        standard_deviation=stdev(there) if len(there) > 1 else None,
    )


def _draw(arms: Sequence[Arm], comparison: Comparison, folder: Path) -> None:
    folders = {arm.label: [target.folder for target in arm.targets] for arm in arms}
    # While they train, runs are scored by the headline rule and without any augmentation.
    num_classes = len(arms[0].evaluations[0].report.classes)
    draw_curves(folders, folder / "validation.png", Rule().describe(num_classes))
    for index, (arm, found) in enumerate(zip(arms[1:], comparison.differences, strict=True), start=1):
        rows = [_row("mean IoU", found.mean_iou)]
        rows += [_row(name, one) for name, one in zip(comparison.classes, found.class_iou, strict=True)]
        sides = (f"{arms[0].label} is better", f"{arm.label} is better")
        note = f"IoU, 95 % intervals over {comparison.num_images} images. {comparison.rule}"
        differences(rows, folder / f"differences{index if len(arms) > 2 else ''}.png", sides, found.label, note)


def _row(name: str, interval: Interval) -> Difference:
    numbers = (interval.value, interval.low, interval.high)
    return Difference(name, *(float("nan") if value is None else 100 * value for value in numbers))


def _show(comparison: Comparison, console: Console) -> None:
    for arm in comparison.arms:
        spread = f" ± {number(arm.standard_deviation)} over {len(arm.runs)} seeds" if len(arm.runs) > 1 else ""
        console.say(f"{arm.label}: mean IoU {number(arm.mean_iou.value)}{spread} ({span(arm.mean_iou)}) %")
    for found in comparison.differences:
        shown = table(("difference", "95 % interval"), "in percentage points")
        shown.title = found.label
        shown.caption = f"{comparison.num_images} images, paired; {comparison.rule}"
        for name, one in zip(comparison.classes, found.class_iou, strict=True):
            shown.add_row(name, _signed(one.value), _signed_span(one), style="bold" if one.excludes_zero else None)
        shown.add_section()
        style = "bold" if found.mean_iou.excludes_zero else None
        shown.add_row("mean IoU", _signed(found.mean_iou.value), _signed_span(found.mean_iou), style=style)
        console.rich.print(shown)
        if found.mean_iou_over_sequences is not None:
            console.say(f"over sequences instead of images: {_signed_span(found.mean_iou_over_sequences)}")


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _signed_span(interval: Interval) -> str:
    return "-" if interval.low is None else f"{_signed(interval.low)} to {_signed(interval.high)}"
