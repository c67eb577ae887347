"""Evaluation of a network on a data set.

Each image is scored alone and at its own size. What is kept of it is its confusion matrix, its boundaries and its
objects; all else is added up. Every number that is added up is an integer, so that an evaluation has the same bits
whatever the number of workers and whichever of them saw an image.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_core.data.base import Dataset
from fcn_core.metrics.boundary import boundary_counts, boundary_iou
from fcn_core.metrics.calibration import (
    TEMPERATURES,
    calibration_counts,
    expected_calibration_error,
    fitted_temperature,
)
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.intervals import Interval, Intervals, intervals
from fcn_core.metrics.objects import Objects, mask_average_precision, match_objects
from fcn_core.metrics.precision import average_precision, score_counts
from fcn_core.metrics.rules import RULES, Rule, Scores, scores
from fcn_core.predict import Inference, Predictor
from fcn_core.settings import Classes, Value

Counts = NDArray[np.int64]


class ImageCounts(NamedTuple):
    """What is kept of one image."""

    sample: int
    """Its index in the data set."""
    confusion: Counts
    """(C + 1, C): rows are the truth, void last."""
    boundary: Counts
    """(C, 3), as `boundary_counts` returns it."""
    objects: Objects


class Sums(NamedTuple):
    """What is added up over images."""

    scores: Counts
    """(C, BINS, 2), as `score_counts` returns it."""
    nll: Counts
    """(T,), of `Calibration`."""
    bins: Counts
    """(T, 15, 3), of `Calibration`."""

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums over the images of both."""
        return Sums(*(one + another for one, another in zip(self, other, strict=True)))


class Part(NamedTuple):
    """The evaluation of some images."""

    images: list[ImageCounts]
    sums: Sums


class Checkpoint(Value):
    """Whose predictions were scored."""

    run_id: str
    step: int
    weights: str
    """SHA-256 of model.safetensors."""


class Subject(Value):
    """What was evaluated, on what, and how predictions were made."""

    checkpoints: tuple[Checkpoint, ...]
    """One; or that of each fold, scored on the part that it was not trained on."""
    split: str
    digest: str
    """SHA-256 over the names and files of the data."""
    num_images: int
    classes: Classes
    inference: Inference

    @property
    def rule_text(self) -> str:
        """The headline rule in words."""
        return self.describe(Rule())

    def describe(self, rule: Rule) -> str:
        """Say a rule in words, with how predictions were made."""
        return rule.describe(len(self.classes), self.inference.describe())


class ClassReport(Value):
    """Scores of one class, as shares from 0 to 1; None where there is nothing to score."""

    name: str
    iou: Interval
    """With its interval over images."""
    accuracy: float | None
    dice: float | None
    average_precision: float | None
    mask_average_precision: float | None
    boundary_iou: float | None


class CalibrationReport(Value):
    """How far confidence is from accuracy (`fcn_core.metrics.calibration`)."""

    expected_error: float | None
    temperature: float
    """What scores are divided by; above 1 where the network is too sure."""
    fitted_on: str
    """The split that chose the temperature."""
    expected_error_at_temperature: float | None


class Report(Value):
    """The contents of scores.json."""

    format: Literal[1] = 1
    subject: Subject
    rule: str
    scores: Scores
    mean_iou_over_images: Interval
    mean_iou_over_sequences: Interval | None
    """None where fewer than two sequences are known."""
    num_sequences: int
    average_precision: float | None
    """Mean over classes, of the scores of pixels."""
    mask_average_precision: float | None
    mask_average_precision50: float | None
    mask_average_precision75: float | None
    boundary_iou: float | None
    """Mean over classes."""
    calibration: CalibrationReport
    classes: tuple[ClassReport, ...]
    mean_iou_by_rule: dict[str, float | None]
    """What others would print of the same predictions: `fcn_core.metrics.rules.RULES`."""


class Evaluation(NamedTuple):
    """Everything that scores are computed from: the contents of evaluation.npz."""

    names: tuple[str, ...]
    sequences: tuple[str | None, ...]
    confusion: Counts
    """(N, C + 1, C): rows are the truth, void last."""
    boundary: Counts
    """(N, C, 3)."""
    objects: tuple[Objects, ...]
    sums: Sums

    @classmethod
    def collect(cls, dataset: Dataset, parts: Iterable[Part]) -> "Evaluation":
        """Put parts of any images together, in the order of the data set.

        Raises:
            ValueError: an image is in two parts, or there is none.
        """
        images: list[ImageCounts] = []
        sums: Sums | None = None
        # One by one, and not kept: sums are as large for one image as for all.
        for part in parts:
            images += part.images
            sums = part.sums if sums is None else sums.plus(part.sums)
        images.sort(key=lambda image: image.sample)
        places = [image.sample for image in images]
        if sums is None or not places or len(set(places)) != len(places):
            raise ValueError(f"{len(places)} results for {len(set(places))} images: each must be evaluated once")
        return cls(
            names=tuple(dataset.names[place] for place in places),
            sequences=tuple(dataset.sequence(place) for place in places),
            confusion=np.stack([image.confusion for image in images]),
            boundary=np.stack([image.boundary for image in images]),
            objects=tuple(image.objects for image in images),
            sums=sums,
        )

    @classmethod
    def merge(cls, evaluations: Sequence["Evaluation"]) -> "Evaluation":
        """Return the evaluation of all images, such as those of the folds."""
        return cls(
            names=tuple(name for one in evaluations for name in one.names),
            sequences=tuple(sequence for one in evaluations for sequence in one.sequences),
            confusion=np.concatenate([one.confusion for one in evaluations]),
            boundary=np.concatenate([one.boundary for one in evaluations]),
            objects=tuple(objects for one in evaluations for objects in one.objects),
            sums=reduce(Sums.plus, (one.sums for one in evaluations)),
        )

    def write(self, path: Path) -> None:
        """Write an .npz that `read` and NumPy understand; no pickles."""
        lengths = [len(objects.labels) for objects in self.objects]
        arrays: dict[str, Any] = {
            "names": np.array(self.names),
            "sequences": np.array([sequence or "" for sequence in self.sequences]),
            "confusion": self.confusion,
            "boundary": self.boundary,
            "object_image": np.repeat(np.arange(len(lengths)), lengths),
            "object_label": np.concatenate([objects.labels for objects in self.objects]),
            "object_score": np.concatenate([objects.scores for objects in self.objects]),
            "object_matches": np.concatenate([objects.matches for objects in self.objects]),
            "num_true_objects": np.stack([objects.num_truth for objects in self.objects]),
            "pixel_scores": self.sums.scores,
            "calibration_nll": self.sums.nll,
            "calibration_bins": self.sums.bins,
        }
        np.savez_compressed(path, **arrays)

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            images = np.arange(len(arrays["names"]))
            ends = np.searchsorted(arrays["object_image"], images, side="right")[:-1]
            parts = [np.split(arrays[name], ends) for name in ("object_label", "object_score", "object_matches")]
            return cls(
                names=tuple(map(str, arrays["names"])),
                sequences=tuple(str(sequence) or None for sequence in arrays["sequences"]),
                confusion=arrays["confusion"],
                boundary=arrays["boundary"],
                objects=tuple(map(Objects, *parts, arrays["num_true_objects"])),
                sums=Sums(arrays["pixel_scores"], arrays["calibration_nll"], arrays["calibration_bins"]),
            )

    def known_sequences(self) -> tuple[str, ...] | None:
        """Return the sequence of each image, if there are at least two and every image has one."""
        known = tuple(sequence for sequence in self.sequences if sequence is not None)
        return known if len(known) == len(self.sequences) and len(set(known)) > 1 else None

    def temperature(self) -> float:
        """Return the temperature that fits this data best; 1 where no pixel was measured."""
        if not self.sums.bins.any():
            return 1.0
        return float(TEMPERATURES[fitted_temperature(torch.from_numpy(self.sums.nll))])

    def calibration_error(self, temperature: float) -> float | None:
        """Return the expected calibration error at one of `TEMPERATURES`."""
        return expected_calibration_error(torch.from_numpy(self.bins_at(temperature)))

    def bins_at(self, temperature: float) -> Counts:
        """Return the bins of confidence (15, 3) at one of `TEMPERATURES`."""
        found: Counts = self.sums.bins[int(np.abs(np.log(np.asarray(TEMPERATURES) / temperature)).argmin())]
        return found


def evaluate(predictor: Predictor, dataset: Dataset, indexes: Iterable[int], inference: Inference) -> Part:
    """Evaluate the samples of a data set at `indexes`, at least one, one by one."""
    evaluated = (_evaluate_one(predictor, dataset, index, inference) for index in indexes)
    image, sums = next(evaluated)
    images = [image]
    for image, added in evaluated:
        images.append(image)
        sums = sums.plus(added)
    return Part(images, sums)


def summarise(evaluation: Evaluation, subject: Subject, fitted: tuple[float, str] | None = None) -> Report:
    """Return all scores under the headline rule.

    Args:
        evaluation: of any number of images.
        subject: what was evaluated.
        fitted: the temperature and the split that it was fitted on; it is fitted on this one where left out.
    """
    rule = Rule()
    found = scores(evaluation.confusion, rule)
    over_images, groups = intervals([evaluation.confusion], rule), evaluation.known_sequences()
    precision = average_precision(torch.from_numpy(evaluation.sums.scores))
    objects = mask_average_precision(evaluation.objects, len(subject.classes))
    boundary = boundary_iou(evaluation.boundary.sum(0))
    return Report(
        subject=subject,
        rule=subject.rule_text,
        scores=found,
        mean_iou_over_images=over_images.mean_iou,
        mean_iou_over_sequences=intervals([evaluation.confusion], rule, groups).mean_iou if groups else None,
        num_sequences=len(set(filter(None, evaluation.sequences))),
        average_precision=_mean(precision),
        mask_average_precision=objects.mean,
        mask_average_precision50=objects.mean50,
        mask_average_precision75=objects.mean75,
        boundary_iou=_mean(boundary),
        calibration=_calibration(evaluation, fitted or (evaluation.temperature(), subject.split)),
        classes=tuple(
            ClassReport(
                name=name,
                iou=over_images.class_iou[label],
                accuracy=found.class_accuracy[label],
                dice=found.class_dice[label],
                average_precision=precision[label],
                mask_average_precision=objects.class_precision[label],
                boundary_iou=boundary[label],
            )
            for label, name in enumerate(subject.classes.names)
        ),
        mean_iou_by_rule={name: scores(evaluation.confusion, other).mean_iou for name, other in RULES.items()},
    )


def rescore(evaluation: Evaluation, rule: Rule) -> tuple[Scores, Intervals | None]:
    """Return scores under another rule, and their intervals over images where the rule allows for any."""
    drawn = None if rule.over == "batch" else intervals([evaluation.confusion], rule)
    return scores(evaluation.confusion, rule), drawn


def image_iou(evaluation: Evaluation, label: int | None = None) -> NDArray[np.float64]:
    """Return the mean IoU of each image alone, (N,), or the IoU of one class; NaN where it is in neither mask."""
    each = [scores(matrix) for matrix in evaluation.confusion]
    values = [one.mean_iou if label is None else one.class_iou[label] for one in each]
    return np.array([np.nan if value is None else value for value in values])


def wrong_pixels(evaluation: Evaluation, label: int | None = None) -> Counts:
    """Return how many labelled pixels of each image are wrong, (N,); of a class, those missed or taken for it."""
    matrices = evaluation.confusion[:, :-1]
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    wrong: Counts = matrices.sum((1, 2)) - hits.sum(1)
    if label is not None:
        wrong = matrices[:, label].sum(1) + matrices[:, :, label].sum(1) - 2 * hits[:, label]
    return wrong


def _evaluate_one(predictor: Predictor, dataset: Dataset, index: int, inference: Inference) -> tuple[ImageCounts, Sums]:
    sample = dataset.read(index)
    num_classes = len(dataset.classes)
    predicted = predictor.scores(sample.image, inference)
    truth = torch.from_numpy(sample.mask).to(predicted.device)
    labels = predicted.argmax(0).to(torch.uint8)
    # Not softmax: its last bits depend on the number of threads, and objects of equal scores on those.
    confidence = predicted.log_softmax(0).amax(0).exp().cpu().numpy()
    calibration = calibration_counts(predicted, truth)
    counts = ImageCounts(
        sample=index,
        confusion=confusion(labels[None], truth[None], num_classes)[0].cpu().numpy(),
        boundary=boundary_counts(labels.cpu().numpy(), sample.mask, num_classes),
        objects=match_objects(labels.cpu().numpy(), confidence, sample.mask, num_classes),
    )
    sums = (score_counts(predicted, truth), calibration.nll, calibration.bins)
    return counts, Sums(*(tensor.cpu().numpy() for tensor in sums))


def _calibration(evaluation: Evaluation, fitted: tuple[float, str]) -> CalibrationReport:
    return CalibrationReport(
        expected_error=evaluation.calibration_error(1.0),
        temperature=fitted[0],
        fitted_on=fitted[1],
        expected_error_at_temperature=evaluation.calibration_error(fitted[0]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
