"""Scores as people read them."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fcn_core.evaluation import Report, rescore
from fcn_core.metrics.intervals import Interval
from fcn_core.metrics.rules import RULES
from fcn_core.stored import Stored
from jobs._console import Console, percent

_COLUMNS = ("IoU", "95 % interval", "accuracy", "Dice", "AP", "mask\nAP", "boundary\nIoU")


def number(share: float | None) -> str:
    """Return a share from 0 to 1 in per cent, without the sign, for tables."""
    return "-" if share is None else f"{100 * share:.1f}"


def span(interval: Interval) -> str:
    """Return both ends of an interval in per cent."""
    return "-" if interval.low is None else f"{number(interval.low)} to {number(interval.high)}"


def show(report: Report, console: Console) -> None:
    """Print all scores of an evaluation."""
    found = report.scores
    shown = table(_COLUMNS)
    shown.title = f"mean IoU {percent(found.mean_iou)} on {report.subject.num_images} images"
    shown.caption = report.rule
    for one in report.classes:
        numbers = (one.accuracy, one.dice, one.average_precision, one.mask_average_precision, one.boundary_iou)
        shown.add_row(one.name, number(one.iou.value), span(one.iou), *map(number, numbers))
    means = (report.average_precision, report.mask_average_precision, report.boundary_iou)
    over_images = span(report.mean_iou_over_images)
    shown.add_section()
    shown.add_row(
        "mean", number(found.mean_iou), over_images, *map(number, (found.mean_accuracy, found.mean_dice, *means))
    )
    console.rich.print(shown)
    weighted = percent(found.frequency_weighted_iou)
    console.say(f"pixel accuracy {percent(found.pixel_accuracy)}, frequency-weighted IoU {weighted}")
    _show_doubts(report, console)


def table(columns: Sequence[str], unit: str = "in %") -> Table:
    """Return an empty table of numbers by name."""
    numbers = (Column(name, justify="right", no_wrap=True) for name in columns)
    # Where the width does not do, names are folded: a number that is cut off would be a wrong one.
    return Table(Column(unit, overflow="fold"), *numbers, box=SIMPLE_HEAD)


def _show_doubts(report: Report, console: Console) -> None:
    if report.mean_iou_over_sequences is not None:
        over = span(report.mean_iou_over_sequences)
        console.say(f"mean IoU over {report.num_sequences} sequences instead of images: {over} %")
    elif report.num_sequences == 1:
        console.say("all images are of one sequence: the intervals say nothing of other places and days")
    fit = report.calibration
    console.say(
        f"calibration error {percent(fit.expected_error)}; {percent(fit.expected_error_at_temperature)} "
        f"at temperature {fit.temperature:.2f}, fitted on {fit.fitted_on}"
    )


def show_rules(stored: Stored, name: str, console: Console) -> None:
    """Print mean IoU under another rule, or all, and what classes come to under one.

    Raises:
        ValueError: there is no such rule.
    """
    if name != "all" and name not in RULES:
        raise ValueError(f"no rule {name!r}; rules are all, {', '.join(RULES)}")
    subject = stored.report.subject
    shown = table(("mean IoU", "95 % interval"))
    shown.add_column("unlike the first")
    for one, rule in RULES.items() if name == "all" else ():
        found, drawn = rescore(stored.evaluation, rule)
        shown.add_row(one, number(found.mean_iou), span(drawn.mean_iou) if drawn else "-", rule.differences())
    if name == "all":
        shown.title = f"the same predictions of {subject.num_images} images by rule"
        shown.caption = subject.rule_text
        console.rich.print(shown)
    else:
        _show_classes(stored, name, console)


def _show_classes(stored: Stored, name: str, console: Console) -> None:
    found, drawn = rescore(stored.evaluation, RULES[name])
    shown = table(_COLUMNS[:4])
    shown.title = f"mean IoU {percent(found.mean_iou)}"
    shown.title += f" ({span(drawn.mean_iou)})" if drawn else ""
    shown.caption = stored.report.subject.describe(RULES[name])
    names = [*stored.report.subject.classes.names, "void"]
    for label, numbers in enumerate(zip(found.class_iou, found.class_accuracy, found.class_dice, strict=True)):
        iou, *rest = map(number, numbers)
        shown.add_row(names[label], iou, span(drawn.class_iou[label]) if drawn else "-", *rest)
    console.rich.print(shown)
