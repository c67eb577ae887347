"""Comparing runs on the same images: paired differences with intervals. Runs that differ only in seed are pooled."""

import json
import re
from collections.abc import Iterable, Sequence
from statistics import stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcn_core.metrics.intervals import Interval, intervals, paired
from fcn_core.metrics.rules import RULES, Rule, scores
from fcn_core.settings import Run, Value, setting, setting_names
from fcn_core.stored import Stored

COMPARABLE = {name: rule for name, rule in RULES.items() if rule.over != "batch"}
"""The rules by which runs can be compared image by image."""


class Entrant(NamedTuple):
    """A run and its evaluation."""

    run: Run
    stored: Stored


class Arm(NamedTuple):
    """Runs that differ only in seed."""

    label: str
    entrants: list[Entrant]

    @property
    def matrices(self) -> list[NDArray[np.int64]]:
        """The confusion matrices of each run."""
        return [entrant.stored.evaluation.confusion for entrant in self.entrants]


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


def arms_of(entrants: Iterable[Entrant]) -> list[Arm]:
    """Return runs pooled by their settings but for the seed, in the order of the first of each.

    Raises:
        ValueError: they are fewer than two, or were not scored on the same images in the same way.
    """
    # The same run, or a copy of it, given twice is one and no other seed.
    each: dict[str, Entrant] = {}
    for entrant in entrants:
        each.setdefault(entrant.run.run_id, entrant)
    pooled: dict[str, list[Entrant]] = {}
    for entrant in each.values():
        pooled.setdefault(_but_for_the_seed(entrant.run), []).append(entrant)
    if len(pooled) < 2:
        raise ValueError("nothing to compare: give at least two runs that differ in more than their seed")
    labels = _labels([entrants[0].run for entrants in pooled.values()])
    arms = [Arm(label, entrants) for label, entrants in zip(labels, pooled.values(), strict=True)]
    _check_alike([entrant.stored for arm in arms for entrant in arm.entrants])
    return arms


def compare(arms: Sequence[Arm], rule: Rule) -> Comparison:
    """Return the scores of arms and what each has over the first, by one of the rules in `COMPARABLE`."""
    first = arms[0].entrants[0].stored
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
        differ = [name for name in setting_names(run) if len({str(setting(other, name)) for other in same}) > 1]
        settings = ", ".join(f"{name.split('.')[-1]} {setting(run, name)}" for name in differ if name != "seed")
        labels.append(f"{run.name} ({settings})" if settings else run.name)
    return labels


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


def _arm_report(arm: Arm, rule: Rule) -> ArmReport:
    values = [scores(matrices, rule).mean_iou for matrices in arm.matrices]
    there = [value for value in values if value is not None]
    return ArmReport(
        label=arm.label,
        runs=tuple(entrant.run.run_id for entrant in arm.entrants),
        mean_iou=intervals(arm.matrices, rule).mean_iou,
        mean_iou_of_runs=tuple(values),
        standard_deviation=stdev(there) if len(there) > 1 else None,
    )
