"""Comparing runs on the same images."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fcn_core import storage
from fcn_core.comparison import COMPARABLE, Arm, Comparison, Entrant, arms_of, compare
from fcn_core.figures.differences import Difference, differences
from fcn_core.metrics.intervals import Interval
from fcn_core.metrics.rules import Rule
from jobs._cli import Settings, exit_codes, read
from jobs._console import Console
from jobs._curves import draw_curves
from jobs._evaluations import file_name, stored_evaluation
from jobs._runs import Target, find_run
from jobs._scores import number, span, table


class CompareCommand(Settings):
    """Say how runs differ, image by image, with an interval. Runs that differ only in seed are pooled.

    The runs must have been evaluated on the same data by the same rule. The first is what the others are compared to.
    """

    runs: CliPositionalArg[list[str]] = Field(description="folders, URLs or names of runs; at least two")
    evaluation: str = Field("val", description="which evaluation of each run, by its folder: val, test, val-tta")
    rule: str = Field("set", description=f"one of {', '.join(COMPARABLE)}")
    storage: str = Field("results", description="folder or URL below which runs/ and comparisons/ lie")


def main() -> None:
    """Carry out a comparison."""
    command = read(CompareCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        compare_runs(command, console)


def compare_runs(command: CompareCommand, console: Console) -> str:
    """Compare runs, draw what came out, and return the URL of the folder where it is kept.

    Raises:
        ValueError: the runs have unlike data or rules, or all differ in seed only.
        FileNotFoundError: a run is not there or was not evaluated.
    """
    if command.rule not in COMPARABLE:
        raise ValueError(f"no rule {command.rule!r} for comparisons; rules are {', '.join(COMPARABLE)}")
    storage.check_access(command.storage)
    targets = _targets(command)
    arms = arms_of(Entrant(one.run, stored_evaluation(one, command.evaluation)) for one in targets.values())
    comparison = compare(arms, COMPARABLE[command.rule])
    name = file_name("-vs-".join(arm.label for arm in arms))
    url = storage.join(storage.absolute(command.storage), "comparisons", name)
    with storage.publishing(url) as folder:
        (folder / "comparison.json").write_text(comparison.model_dump_json(indent=1) + "\n")
        _draw(targets, arms, comparison, folder)
    _show(comparison, console)
    console.say(f"everything   {url}")
    return url


def _targets(command: CompareCommand) -> dict[str, Target]:
    """Return the runs that are given, by their run_id."""
    targets: dict[str, Target] = {}
    for target in (find_run(name, command.storage) for name in command.runs):
        targets.setdefault(target.run.run_id, target)
    return targets


def _draw(targets: Mapping[str, Target], arms: Sequence[Arm], comparison: Comparison, folder: Path) -> None:
    folders = {arm.label: [targets[one.run.run_id].folder for one in arm.entrants] for arm in arms}
    # While they train, runs are scored by the headline rule and without any augmentation.
    num_classes = len(arms[0].entrants[0].stored.report.classes)
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
