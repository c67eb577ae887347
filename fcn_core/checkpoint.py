"""Checkpoints that rebuild themselves, and the folder of a run.

runs/<run_id>/run.json                  settings, versions, data audit, metric rule
runs/<run_id>/epochs.jsonl              one line per epoch
runs/<run_id>/checkpoints/<step>/       model.safetensors  model.json  state.pt  manifest.json  COMMIT
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fcn_core import storage
from fcn_core.metrics.rules import Scores
from fcn_core.models.fcn import FCN
from fcn_core.settings import VOID, Classes, Model, Value

WEIGHTS, CARD, STATE = "model.safetensors", "model.json", "state.pt"
Say = Callable[[str], None]


class Card(Value):
    """All that is needed to rebuild and use a network: the contents of model.json."""

    format: Literal[1] = 1
    model: Model
    classes: Classes
    void: Literal[255] = VOID
    scale: float
    """Images are resized by this before the network sees them; its labels are at the image's own size."""
    bf16: bool
    """Whether the network runs under bf16 autocast."""
    run_id: str
    step: int
    epoch: int
    """Epochs finished."""
    mean_iou: float | None
    """On the validation set, where it was scored at this step."""


class Epoch(Value):
    """One line of epochs.jsonl."""

    epoch: int
    """Epochs finished."""
    step: int
    train_loss: float
    learning_rate: float
    """Of the last step."""
    scores: Scores
    images_per_s: float
    seconds: float
    """Training and validation, without saving."""


class Restored(NamedTuple):
    """A checkpoint as read."""

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]


class RunFolder:
    """The folder of one run on any storage."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.checkpoints = storage.join(url, "checkpoints")

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Write run.json."""
        storage.write_bytes(storage.join(self.url, "run.json"), (json.dumps(facts, indent=1) + "\n").encode())

    def read_run(self) -> dict[str, Any] | None:
        """Return run.json, or None where the run is new."""
        try:
            facts: dict[str, Any] = json.loads(storage.read_bytes(storage.join(self.url, "run.json")))
        except FileNotFoundError:
            return None
        return facts

    def write_epochs(self, epochs: Sequence[Epoch]) -> None:
        """Write epochs.jsonl whole; object stores cannot append."""
        lines = "".join(epoch.model_dump_json() + "\n" for epoch in epochs)
        storage.write_bytes(storage.join(self.url, "epochs.jsonl"), lines.encode())

    def read_epochs(self) -> list[Epoch]:
        """Return the finished epochs."""
        try:
            lines = storage.read_bytes(storage.join(self.url, "epochs.jsonl")).decode().splitlines()
        except FileNotFoundError:
            return []
        return [Epoch.model_validate_json(line) for line in lines]

    def known_epochs(self) -> list[Epoch]:
        """Return the finished epochs, or none where the file is damaged: a run that goes on writes it again."""
        try:
            return self.read_epochs()
        except ValueError:
            return []

    def checkpoint(self, step: int) -> str:
        """Return the URL of the checkpoint of a step."""
        return storage.join(self.checkpoints, f"{step:08d}")

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints that are there, torn ones too."""
        return [int(name) for name in storage.list_folder(self.checkpoints) if name.isdigit()]

    def save(self, card: Card, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
        """Publish a checkpoint and return its URL.

        Raises:
            OSError: the disk is full, or the storage failed for good.
        """
        url = self.checkpoint(card.step)
        with storage.publishing(url) as folder:
            (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n")
            try:
                save_file({name: value.detach().contiguous() for name, value in weights.items()}, folder / WEIGHTS)
                torch.save(dict(state), folder / STATE)
            except (SafetensorError, RuntimeError) as error:
                # Neither says what the disk said in a way that others understand.
                free = shutil.disk_usage(folder).free / 2**20
                raise OSError(f"cannot write {folder} ({free:.0f} MiB are free there): {_one_line(error)}") from error
        return url

    def latest(self, run_id: str, say: Say) -> Restored | None:
        """Return the newest checkpoint of this run that is whole, and say which were passed over and why.

        What a killed process left of a checkpoint it was writing is removed; a run has one writer.
        """
        for name in storage.list_folder(self.checkpoints):
            if name.startswith(storage.PARTIAL):
                storage.remove_folder(storage.join(self.checkpoints, name))
        for step in reversed(self.steps()):
            try:
                return self.read(step, run_id)
            except storage.TornError as error:
                say(f"passed over a checkpoint: {error}")
        return None

    def read(self, step: int, run_id: str | None = None) -> Restored:
        """Return the checkpoint of a step.

        Raises:
            TornError: it is not whole, or one of another step, or of another run than `run_id`.
        """
        url = self.checkpoint(step)
        restored, card = read(url)
        if card.step != step or run_id not in (None, card.run_id):
            raise storage.TornError(f"{url} is not what its place says: it is step {card.step} of {card.run_id}")
        return restored

    def best(self) -> str:
        """Return the URL of the best checkpoint by validation mean IoU; where that is not whole, of the newest that is.

        Raises:
            FileNotFoundError: the run has none.
        """
        best = best_epoch(self.read_epochs())
        return self._first_whole([*([best.step] if best else []), *reversed(self.steps())])

    def newest(self) -> str:
        """Return the URL of the newest checkpoint that is whole.

        Raises:
            FileNotFoundError: the run has none.
        """
        return self._first_whole([*reversed(self.steps())])

    def _first_whole(self, steps: Sequence[int]) -> str:
        for step in steps:
            if storage.is_whole(self.checkpoint(step)):
                return self.checkpoint(step)
        raise FileNotFoundError(f"{self.url} has no complete checkpoint")

    def prune(self, published: int, keep_last: int, best: int | None) -> None:
        """Delete all checkpoints but the last `keep_last` whole ones up to the one just published, and the best.

        Torn ones count for nothing, and neither do later ones: the run passed over them when it was taken up again.

        Args:
            published: its step.
            keep_last: at least 1.
            best: step of the best; None if there is none.
        """
        steps = self.steps()
        before = (step for step in reversed(steps) if step < published and _is_sealed(self.checkpoint(step)))
        kept = {published, best, *islice(before, keep_last - 1)}
        for step in steps:
            if step not in kept:
                storage.remove_folder(self.checkpoint(step))


def read(url: str) -> tuple[Restored, Card]:
    """Return a checkpoint with all that is needed to go on from it.

    Raises:
        TornError: it is not whole.
    """
    folder = storage.fetch(url)
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    card = Card.model_validate_json((folder / CARD).read_text())
    return Restored(card.step, load_file(folder / WEIGHTS), state), card


def best_epoch(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the epoch with the highest validation mean IoU, the first of equals."""
    return max(epochs, key=lambda epoch: epoch.scores.mean_iou or 0.0, default=None)


def find(url: str) -> str:
    """Return the URL of a checkpoint, given its own or that of its run, whose best is taken.

    Raises:
        FileNotFoundError: there is none.
    """
    if storage.exists(storage.join(url, storage.MANIFEST)):
        return url
    if storage.exists(storage.join(url, "checkpoints")):
        return RunFolder(url).best()
    raise FileNotFoundError(f"{url} is neither a checkpoint nor a run: it has no {storage.MANIFEST} and no checkpoints")


def load(url: str) -> tuple[FCN, Card]:
    """Rebuild the network of a checkpoint or run, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: there is none.
        TornError: it is damaged.
    """
    weights, card = load_weights(url)
    network = FCN(card.model, len(card.classes))
    network.load_state_dict(weights)
    return network.eval(), card


def load_weights(url: str) -> tuple[dict[str, Tensor], Card]:
    """Return the weights of a checkpoint or run, and what they belong to.

    Raises:
        FileNotFoundError: there is none.
        TornError: it is damaged.
    """
    folder = storage.fetch(find(url))
    return load_file(folder / WEIGHTS), Card.model_validate_json((folder / CARD).read_text())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _is_sealed(url: str) -> bool:
    """Tell whether a checkpoint was completed, without reading it."""
    try:
        storage.read_manifest(url)
    except storage.TornError:
        return False
    return True
