"""What must hold of a version before it becomes champion: each check by itself, by name, with what was found."""

import functools
import math
from collections.abc import Callable
from typing import ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_core import storage
from fcn_core.evaluation import Evaluation, Subject
from fcn_core.metrics.intervals import Interval, paired
from fcn_core.metrics.rules import Rule, scores
from fcn_core.predict import Predictor
from fcn_core.registry.store import Entry, Registry
from fcn_core.registry.version import REPORT, Version, one_line
from fcn_core.settings import Value

COMPARISON = "not worse"
"""The check that can be overridden."""
TOLERATED = 0.01
"""How much lower the mean IoU may be where too few images tell whether it is."""
MOST_DIFFERING = 0.02
"""Share of the pixels of the example that may have another label: bf16 changes 0.1 to 0.6 %, trained."""
ODD_SIZES = ((1, 1), (33, 47))
PASSING = (OSError, torch.OutOfMemoryError)
"""Errors that tell of the storage or the machine, and nothing of a version."""
_P = ParamSpec("_P")


class Check(Value):
    """One thing that must hold."""

    name: str
    passed: bool
    found: str


def _check(name: str, passing: tuple[type[Exception], ...] = ()) -> Callable[[Callable[_P, str]], Callable[_P, Check]]:
    """Make a check of a function that returns what it found, or raises what is wrong; what is `passing` is raised."""

    def decorate(function: Callable[_P, str]) -> Callable[_P, Check]:
        @functools.wraps(function)
        def check(*args: _P.args, **kwargs: _P.kwargs) -> Check:
            try:
                return Check(name=name, passed=True, found=function(*args, **kwargs))
            except passing:
                raise
            except Exception as error:
                # Whatever a damaged file does to what reads it, the version must not pass.
                return _failed(name, error)

        return check

    return decorate


def _failed(name: str, error: Exception) -> Check:
    kind = "" if isinstance(error, ValueError | storage.TornError) else f"{type(error).__name__}: "
    return Check(name=name, passed=False, found=kind + one_line(error))


@_check("whole")
def whole(version: Version) -> str:
    """Check every file on the storage against the manifest."""
    return f"{len(storage.verify(version.url))} files have the SHA-256 of the manifest"


@_check("finite", PASSING)
def finite(predictor: Predictor, image: NDArray[np.uint8]) -> str:
    """Check that weights and scores are finite: of an image, and of black, white and noise at odd sizes.

    Args:
        predictor: to be checked.
        image: (H, W, 3) uint8 RGB.

    Raises:
        OSError, OutOfMemoryError: it could not be found out; as `example`.
    """
    for name, values in predictor.network.state_dict().items():
        if not values.isfinite().all():
            raise ValueError(f"the weights {name} are not all finite")
    generator = np.random.default_rng(0)
    images = [image]
    for height, width in ODD_SIZES:
        size = (height, width, 3)
        noise = generator.integers(0, 256, size, np.uint8)
        images += [np.zeros(size, np.uint8), np.full(size, 255, np.uint8), noise]
    for one in images:
        if not predictor.scores(one).isfinite().all():
            raise ValueError(f"the scores of an image of {one.shape[0]} x {one.shape[1]} pixels are not all finite")
    return f"weights and the scores of {len(images)} images, down to 1 x 1 pixel"


@_check("example", PASSING)
def example(predictor: Predictor, version: Version) -> str:
    """Check that the stored image gives the stored mask."""
    image, expected = version.example()
    found = predictor.labels(image, version.report.subject.inference).cpu().numpy()
    if found.shape != expected.shape:
        raise ValueError(f"the stored mask has {expected.shape} pixels, its image {found.shape}")
    share = float((found != expected).mean())
    if share > MOST_DIFFERING:
        raise ValueError(f"{100 * share:.1f} % of the pixels of the stored image get another label than stored")
    return f"{100 * (1 - share):.2f} % of the pixels of the stored image get the stored label"


@_check("reproduced")
def reproduced(version: Version, subject: Subject, again: Evaluation) -> str:
    """Check that the packed model gives the confusion matrix that is stored, for every image.

    Args:
        version: with the evaluation that it was packed with.
        subject: what was evaluated now.
        again: its evaluation.
    """
    expected, stored = version.report.subject, version.evaluation()
    if subject.digest != expected.digest or again.names != stored.names:
        raise ValueError(f"the data changed since {expected.split} was evaluated (SHA-256 {expected.digest[:10]})")
    if subject != expected:
        raise ValueError("another checkpoint, split or way of predicting was evaluated")
    # Each pixel that moved is missing in one cell and too many in another.
    moved = np.abs(stored.confusion - again.confusion).sum((1, 2)) / 2
    if moved.any():
        raise ValueError(
            f"{np.count_nonzero(moved)} of {len(moved)} images differ from the stored evaluation, in "
            f"{moved.sum():.0f} of {stored.confusion.sum()} pixels, most of all {stored.names[int(moved.argmax())]}"
        )
    if not _same(version.report.scores.mean_iou, scores(again.confusion).mean_iou):
        raise ValueError(f"{REPORT} says another mean IoU than comes of the confusion matrices")
    return f"the confusion matrices of {len(moved)} images are those of the stored evaluation"


@_check(COMPARISON)
def not_worse(version: Version, registry: Registry, champion: Entry | None) -> str:
    """Check that mean IoU is not lower than the champion's on the same images by the same rule.

    A version passes if its mean IoU is as high; or if it is lower by less than `TOLERATED` and the paired interval
    reaches 0, so that other images might have told otherwise. It fails if it is surely lower, by however little, or
    lower by more on so few images that nothing is sure.
    """
    if champion is None:
        return "there is no champion yet"
    theirs = registry.read(version.facts.name, champion.version, champion.manifest)
    if unlike := _unlike(version, theirs):
        raise ValueError(f"cannot be compared with {theirs.label}: {unlike}: evaluate on the same")
    ours = version.evaluation()
    difference = paired([ours.confusion], [theirs.evaluation().confusion], Rule())
    found = difference.mean_iou
    if found.value is None or found.high is None:
        raise ValueError("there are no labelled pixels to compare")
    each = zip(version.card.classes.names, difference.class_iou, strict=True)
    lost = ", ".join(name for name, one in each if one.high is not None and one.high < 0)
    text = f"mean IoU {_points(found)} against {theirs.label}" + (f"; surely lower: {lost}" if lost else "")
    if found.value < 0 and (found.high < 0 or found.value <= -TOLERATED):
        raise ValueError(text)
    return text


def self_check(version: Version, device: str = "cpu") -> tuple[Check, ...]:
    """Return what a version tells of itself, without data: it loads, its numbers are finite, it knows its example."""
    try:
        predictor, image = Predictor.load(version.url, device), version.example().image
        return finite(predictor, image), example(predictor, version)
    except Exception as error:
        # As above: of any kind.
        return (_failed("loads", error),)


def _same(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-9)


def _unlike(ours: Version, theirs: Version) -> str:
    """Say in what two versions were evaluated otherwise."""
    both = [(one.report, one.report.subject) for one in (ours, theirs)]
    facts = [
        {"classes": subject.classes.names, "rules": report.rule, "data": subject.digest} for report, subject in both
    ]
    return " and ".join(f"the {name} differ" for name in facts[0] if facts[0][name] != facts[1][name])


def _points(difference: Interval) -> str:
    value, low, high = (100 * (number or 0) for number in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
