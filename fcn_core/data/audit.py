"""The audit of the data, made once and before anything expensive starts: what is wrong, and which samples to use."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Literal

import numpy as np
from pydantic import Field

from fcn_core.data import findings as find
from fcn_core.data.base import Dataset
from fcn_core.data.findings import Finding, Seen
from fcn_core.settings import Value

Policy = Literal["fail", "leave_out", "warn"]
Progress = Callable[[int, int], None]
_SHOWN = 20


class SplitAudit(Value):
    """What a split holds; counts are over the samples kept."""

    num_samples: int = Field(description="pairs of an image and a mask, kept or not")
    kept: tuple[int, ...] = Field(description="indexes of the samples to use")
    class_pixels: tuple[int, ...] = Field(description="pixels of each class")
    class_image_pixels: tuple[int, ...] = Field(description="pixels, void ones too, of the images that show the class")
    void_pixels: int
    sizes: tuple[tuple[int, int], ...] = Field(description="(height, width) of images, the 20 most frequent first")
    num_sizes: int = Field(description="how many sizes there are")
    digest: str = Field(description="SHA-256 over names and files in order: identifies the data")


class Audit(Value):
    """What an audit found in a training and a validation set."""

    findings: tuple[Finding, ...]
    train: SplitAudit
    val: SplitAudit


class AuditError(ValueError):
    """The data cannot be used as they are; `findings` has everything that was found."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(findings)
        self.findings = tuple(findings)

    def __str__(self) -> str:
        first = sorted(self.findings, key=lambda finding: (finding.kind != "empty_set", finding.severity != "error"))
        num_errors = sum(finding.severity == "error" for finding in first)
        what_next = "repair or remove these files, or set data.audit to leave_out or warn"
        if first and first[0].kind == "empty_set":
            what_next = "check the path, the splits and the files below"
        lines = [f"the data have {num_errors} error{'s'[: num_errors > 1]}: {what_next}", *map(str, first[:_SHOWN])]
        if len(first) > _SHOWN:
            lines.append(f"and {len(first) - _SHOWN} more")
        return "\n  ".join(lines)


def audit(train: Dataset, val: Dataset, policy: Policy, progress: Progress | None = None) -> Audit:
    """Look at every sample once; say what is wrong and which samples to use.

    Args:
        train: The set to train on.
        val: The set to validate on.
        policy: What errors do. "fail" stops; "leave_out" leaves the samples out (of two equal images, that in
            `train`); "warn" leaves out only what cannot be decoded, and uses the rest as `read` returns it.
        progress: Called in this thread with the numbers of samples done and of all samples.

    Raises:
        AuditError: there are errors and the policy is "fail", or a set has no labelled pixels left.
    """
    num_train = len(train.names)
    seen = _look_at_all([("train", train), ("val", val)], progress)
    seen_train, seen_val = seen[:num_train], seen[num_train:]
    twins = find.twins(seen_train, seen_val)
    train_audit = _summary(train, seen_train, _kept(seen_train, policy, twins))
    val_audit = _summary(val, seen_val, _kept(seen_val, policy, ()))
    found = [
        *(finding for one in seen for finding in one.findings),
        *find.unpaired("train", train),
        *find.unpaired("val", val),
        *find.between(train, val, seen_train, seen_val),
        *_emptiness("train", train_audit),
        *_emptiness("val", val_audit),
    ]
    _stop_at_errors(found, policy)
    return Audit(findings=tuple(found), train=train_audit, val=val_audit)


def audit_split(
    split: str, dataset: Dataset, policy: Policy, progress: Progress | None = None
) -> tuple[tuple[Finding, ...], SplitAudit]:
    """Look at every sample of one set once, as `audit` does, and return what was found and which samples to use.

    Raises:
        AuditError: there are errors and the policy is "fail", or the set has no labelled pixels left.
    """
    seen = _look_at_all([(split, dataset)], progress)
    summary = _summary(dataset, seen, _kept(seen, policy, ()))
    found = [finding for one in seen for finding in one.findings]
    found += [*find.unpaired(split, dataset), *_emptiness(split, summary)]
    _stop_at_errors(found, policy)
    return tuple(found), summary


def class_weights(split: SplitAudit, rule: Literal["none", "median_frequency", "enet"]) -> tuple[float, ...]:
    """Return the weight of each class in the loss.

    "median_frequency" is the rule of Eigen and Fergus (2015): the median of all frequencies over that of the class. A
    frequency is the share of the class in all pixels, void ones too, of the images that show it. "enet" is the rule of
    Paszke et al. (2016): 1 / ln(1.02 + p), p the share of the class in all labelled pixels. In both, a class that the
    split never shows weighs 0. "none" gives 1 to every class.
    """
    if rule == "none":
        return (1.0,) * len(split.class_pixels)
    if rule == "enet":
        labelled = sum(split.class_pixels)
        return tuple(1 / math.log(1.02 + pixels / labelled) if pixels else 0.0 for pixels in split.class_pixels)
    both = zip(split.class_pixels, split.class_image_pixels, strict=True)
    frequencies = [pixels / image_pixels if pixels else 0.0 for pixels, image_pixels in both]
    middle = median([frequency for frequency in frequencies if frequency] or [0.0])
    return tuple(middle / frequency if frequency else 0.0 for frequency in frequencies)


def _look_at_all(sets: Sequence[tuple[str, Dataset]], progress: Progress | None) -> list[Seen]:
    samples = [(split, dataset, index) for split, dataset in sets for index in range(len(dataset.names))]
    seen: list[Seen] = []
    # Threads, since decoding and hashing release the GIL, and most of the time over a network is waiting.
    with ThreadPoolExecutor() as pool:
        for one in pool.map(lambda sample: find.look(*sample), samples):
            seen.append(one)
            if progress:
                progress(len(seen), len(samples))
    return seen


def _stop_at_errors(found: Sequence[Finding], policy: Policy) -> None:
    kinds = {finding.kind for finding in found if finding.severity == "error"}
    if "empty_set" in kinds or (kinds and policy == "fail"):
        raise AuditError(found)


def _kept(samples: Sequence[Seen], policy: Policy, duplicates: Collection[int]) -> tuple[int, ...]:
    usable = [index for index, seen in enumerate(samples) if seen.facts]
    if policy != "leave_out":
        return tuple(usable)
    wrong = {index for index in usable if any(finding.severity == "error" for finding in samples[index].findings)}
    return tuple(index for index in usable if index not in wrong and index not in duplicates)


def _summary(dataset: Dataset, samples: Sequence[Seen], kept: tuple[int, ...]) -> SplitAudit:
    facts = [facts for index in kept if (facts := samples[index].facts)]
    pixels = np.array([one.pixels for one in facts], np.int64).reshape(len(facts), len(dataset.classes) + 1)
    shown = pixels[:, :-1] > 0
    sizes = Counter(one.size for one in facts)
    digest = hashlib.sha256()
    for index, one in zip(kept, facts, strict=True):
        digest.update(dataset.names[index].encode() + b"\0" + one.image_digest + one.mask_digest)
    return SplitAudit(
        num_samples=len(samples),
        kept=kept,
        class_pixels=tuple(pixels[:, :-1].sum(axis=0).tolist()),
        class_image_pixels=tuple((shown * pixels.sum(axis=1, keepdims=True)).sum(axis=0).tolist()),
        void_pixels=int(pixels[:, -1].sum()),
        sizes=tuple(size for size, _ in sizes.most_common(20)),
        num_sizes=len(sizes),
        digest=digest.hexdigest(),
    )


def _emptiness(split: str, summary: SplitAudit) -> list[Finding]:
    if not summary.kept:
        return [
            find.error(split, "the set", "empty_set", f"is empty: 0 of its {summary.num_samples} samples can be used")
        ]
    if not any(summary.class_pixels):
        return [find.error(split, "the set", "empty_set", "has no labelled pixel: check the void label and the masks")]
    return []
