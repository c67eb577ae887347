"""What the tests of the registry have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fcn_core import storage
from fcn_core.checkpoint import Card, RunFolder
from fcn_core.data.streets import StreetScenes
from fcn_core.evaluation import Checkpoint, Evaluation, Subject, evaluate, summarise
from fcn_core.models.fcn import FCN
from fcn_core.predict import PLAIN, Inference, Predictor
from fcn_core.registry.checks import Check, not_worse
from fcn_core.registry.gate import Reproduce, promote
from fcn_core.registry.store import Entry, Registry
from fcn_core.registry.version import Candidate, Version
from fcn_core.settings import Data, Run, Streets
from fcn_core.storage import COMMIT, MANIFEST
from tests.tiny import TINY

RUN = Run(name="tiny", data=Data(streets=Streets(num_val=4, height=40, width=48)), model=TINY.model)
SCENES = StreetScenes(RUN.data.streets, "val")
FILES = {
    *("model.safetensors", "model.json", "evaluation.json", "evaluation.npz", "example.png", "example_mask.png"),
    *("version.json", MANIFEST, COMMIT),
}
NAME = "streets"


def save_checkpoint(folder: RunFolder, step: int) -> str:
    torch.manual_seed(step)
    network = FCN(RUN.model, len(SCENES.classes))
    for parameter in network.scores.parameters():
        nn.init.normal_(parameter, std=0.3)
    card = Card(
        model=RUN.model,
        classes=SCENES.classes,
        scale=1.0,
        bf16=False,
        run_id=RUN.run_id,
        step=step,
        epoch=step,
        mean_iou=None,
    )
    return folder.save(card, network.state_dict(), {})


def evaluated(url: str, inference: Inference = PLAIN) -> Evaluation:
    return Evaluation.collect(SCENES, [evaluate(Predictor.load(url), SCENES, range(len(SCENES.names)), inference)])


class Made(NamedTuple):
    """A checkpoint and what it makes of the scenes."""

    url: str
    weights: str
    evaluation: Evaluation

    def candidate(self, evaluation: Evaluation | None = None, **changes: object) -> Candidate:
        """Return the checkpoint with its evaluation, or one that is made up."""
        checkpoint = Checkpoint(run_id=RUN.run_id, step=int(Path(self.url).name), weights=self.weights)
        facts = {"split": "val", "digest": "1" * 64, "num_images": len(SCENES.names), "classes": SCENES.classes}
        facts |= {"checkpoints": (checkpoint,), "inference": PLAIN} | changes
        subject, found = Subject.model_validate(facts), evaluation or self.evaluation
        return Candidate(self.url, RUN, summarise(found, subject), found, SCENES.read(0).image)

    def scored(self, *hits: int, **changes: object) -> Candidate:
        """Return the checkpoint with an evaluation that says how many of 100 pixels of a class are right, by image."""
        confusion = np.zeros((len(hits), len(SCENES.classes) + 1, len(SCENES.classes)), np.int64)
        confusion[:, 0, 0], confusion[:, 0, 1], confusion[:, 1, 1] = hits, 100 - np.array(hits), 100
        times = -(-len(hits) // len(SCENES.names))
        whole = self.evaluation
        made_up = whole._replace(
            names=tuple(f"image-{number}" for number in range(len(hits))),
            sequences=(None,) * len(hits),
            confusion=confusion,
            boundary=np.concatenate([whole.boundary] * times)[: len(hits)],
            objects=(whole.objects * times)[: len(hits)],
        )
        return self.candidate(made_up, num_images=len(hits), **changes)


def make(folder: Path, step: int) -> Made:
    url = save_checkpoint(RunFolder(str(folder)), step)
    return Made(url, storage.verify(url)["model.safetensors"]["sha256"], evaluated(url))


def believe(version: Version) -> Reproduce:
    """A version whose evaluation comes out again."""
    return lambda: (version.report.subject, version.evaluation())


def evaluate_again(version: Version) -> Reproduce:
    def again() -> tuple[Subject, Evaluation]:
        digest = storage.verify(version.url)["model.safetensors"]["sha256"]
        checkpoint = version.facts.checkpoint.model_copy(update={"weights": digest})
        return version.report.subject.model_copy(update={"checkpoints": (checkpoint,)}), evaluated(version.url)

    return again


def quiet(_: str) -> None:
    pass


def made_champion(registry: Registry, candidate: Candidate, force: str | None = None) -> Entry:
    version = registry.pack(NAME, candidate)
    return promote(registry, version, believe(version), force, quiet)


def crown_as_it_is(registry: Registry, number: int, manifest: str) -> None:
    """Write the entry of a champion without looking at the version, as a bad tool might."""
    last = registry.champion(NAME)
    assert last is not None
    entry = Entry.model_validate(
        last.model_dump() | {"number": last.number + 1, "version": number, "manifest": manifest}
    )
    place = storage.join(registry.url, NAME, "champions", f"{entry.number:08d}.json")
    storage.create_bytes(place, entry.model_dump_json().encode())


def champions(registry: Registry) -> list[int]:
    return [entry.version for entry in registry.history(NAME)]


def assert_a_chain(history: Sequence[Entry]) -> None:
    assert [entry.number for entry in history] == list(range(1, len(history) + 1))
    assert [entry.previous for entry in history] == [None, *(entry.version for entry in history)][:-1]
    assert len({entry.token for entry in history}) == len(history)


def comparison(registry: Registry, candidate: Candidate) -> Check:
    return not_worse(registry.pack(NAME, candidate), registry, registry.champion(NAME))
