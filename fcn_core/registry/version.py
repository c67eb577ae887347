"""A version of a model: everything that is needed to serve it, to check it and to compare others with it."""

import hashlib
import io
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AwareDatetime, Field, ValidationError

from fcn_core import storage
from fcn_core.checkpoint import CARD, WEIGHTS, Card
from fcn_core.evaluation import Checkpoint, Evaluation, Report
from fcn_core.predict import Predictor
from fcn_core.settings import Run, Value

REPORT, EVALUATION, FACTS = "evaluation.json", "evaluation.npz", "version.json"
EXAMPLE, EXAMPLE_MASK = "example.png", "example_mask.png"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Facts(Value):
    """Where a version comes from: the contents of version.json."""

    format: Literal[1] = 1
    name: Name
    version: int = Field(ge=1)
    checkpoint: Checkpoint
    run: Run
    """What it was trained with, and how its data are opened."""
    created: AwareDatetime
    software: dict[str, str]
    """Versions of what packed it."""


class Example(NamedTuple):
    """The first image that a version was evaluated on, and what it makes of it."""

    image: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    labels: NDArray[np.uint8]
    """(H, W)."""


class Candidate(NamedTuple):
    """What is packed into a version."""

    checkpoint: str
    """URL."""
    run: Run
    report: Report
    evaluation: Evaluation
    image: NDArray[np.uint8]
    """The first that was evaluated, (H, W, 3) RGB."""


class Version(NamedTuple):
    """A version as read: every file has the SHA-256 of the manifest."""

    url: str
    folder: Path
    """Its files on this node."""
    manifest: str
    """SHA-256 of manifest.json."""
    facts: Facts
    card: Card
    report: Report

    @property
    def label(self) -> str:
        """Name and number, as people write them."""
        return f"{self.facts.name}/{self.facts.version}"

    @property
    def weights(self) -> str:
        """SHA-256 of the weights."""
        return self.facts.checkpoint.weights

    def evaluation(self) -> Evaluation:
        """Read the evaluation that the version was packed with."""
        return Evaluation.read(self.folder / EVALUATION)

    def example(self) -> Example:
        """Read the example."""
        return Example(_read_png(self.folder / EXAMPLE), _read_png(self.folder / EXAMPLE_MASK))


class Packing:
    """A candidate that was found to be what its evaluation says, ready to be written.

    Raises:
        ValueError: the evaluation is not one of this checkpoint.
        TornError: the checkpoint is damaged.
    """

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._source = storage.fetch(candidate.checkpoint)
        self._checkpoint = _identity(self._source, _card(self._source))
        if candidate.report.subject.checkpoints != (self._checkpoint,):
            raise ValueError(f"{candidate.checkpoint} is not what was evaluated: evaluate it again")
        inference = candidate.report.subject.inference
        self._labels = Predictor.load(candidate.checkpoint).labels(candidate.image, inference).numpy()

    def write(self, folder: Path, name: str, number: int) -> None:
        """Write all files of a version into a local folder, to be published."""
        for file in (WEIGHTS, CARD):
            (folder / file).write_bytes((self._source / file).read_bytes())
        (folder / REPORT).write_text(self._candidate.report.model_dump_json(indent=1) + "\n")
        self._candidate.evaluation.write(folder / EVALUATION)
        Image.fromarray(self._candidate.image).save(folder / EXAMPLE)
        Image.fromarray(self._labels).save(folder / EXAMPLE_MASK)
        facts = Facts(
            name=name,
            version=number,
            checkpoint=self._checkpoint,
            run=self._candidate.run,
            created=datetime.now(UTC),
            software={package: version(package) for package in ("fcn-lab", "torch", "torchvision")},
        )
        (folder / FACTS).write_text(facts.model_dump_json(indent=1) + "\n")


def is_version(url: str) -> bool:
    """Tell whether a version, of any name, was published at `url`."""
    return all(storage.exists(storage.join(url, file)) for file in (FACTS, storage.COMMIT))


def read_facts(url: str) -> Facts:
    """Return where the version at `url` comes from, without reading the rest.

    Raises:
        FileNotFoundError: there is no version.
        ValueError: version.json is damaged.
    """
    return Facts.model_validate_json(storage.read_bytes(storage.join(url, FACTS)))


def read_report(url: str) -> Report:
    """Return the scores that the version at `url` was packed with, without reading the rest.

    Raises:
        FileNotFoundError: there is no version.
        ValueError: evaluation.json is damaged.
    """
    return Report.model_validate_json(storage.read_bytes(storage.join(url, REPORT)))


def read_version(url: str) -> Version:
    """Return the version at a URL.

    Raises:
        TornError: it is not there, damaged, or has other weights than its evaluation and version.json say.
    """
    folder = storage.fetch(url)
    try:
        facts = Facts.model_validate_json((folder / FACTS).read_text())
        card, report = _card(folder), Report.model_validate_json((folder / REPORT).read_text())
    except (ValidationError, FileNotFoundError) as error:
        raise storage.TornError(f"{url} is no version of a model: {one_line(error)}") from error
    checkpoint = _identity(folder, card)
    if checkpoint != facts.checkpoint or (checkpoint,) != report.subject.checkpoints:
        raise storage.TornError(f"{url} has other weights than those that were evaluated")
    return Version(url, folder, manifest_of(url), facts, card, report)


def manifest_of(url: str) -> str:
    """Return the SHA-256 of the manifest of what was published at `url`."""
    return hashlib.sha256(storage.read_bytes(storage.join(url, storage.MANIFEST))).hexdigest()


def one_line(error: Exception) -> str:
    """Return what an error says, in a line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _card(folder: Path) -> Card:
    return Card.model_validate_json((folder / CARD).read_text())


def _identity(folder: Path, card: Card) -> Checkpoint:
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(run_id=card.run_id, step=card.step, weights=digest)


def _read_png(path: Path) -> NDArray[np.uint8]:
    contents = path.read_bytes()
    try:
        with Image.open(io.BytesIO(contents), formats=["PNG"]) as image:
            return np.array(image, dtype=np.uint8)
    except OSError as error:
        # Pillow's, who means the contents: no error of the storage.
        raise ValueError(f"{path.name} is no PNG that can be read: {error}") from error
