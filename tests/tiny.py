"""Runs so small that a test can train them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fcn_core.checkpoint import RunFolder
from fcn_core.data.audit import Audit, audit
from fcn_core.data.batches import LoaderSettings
from fcn_core.data.catalogue import open_dataset
from fcn_core.fit import Keep, fit
from fcn_core.runtime import LocalRuntime
from fcn_core.settings import Data, Model, Optim, Run, Streets, override
from fcn_core.training import Runtime

TINY = Run(
    name="tiny",
    data=Data(
        crop=(32, 40), zoom=(0.8, 1.2), colour=0.5, streets=Streets(num_train=14, num_val=3, height=40, width=48)
    ),
    model=Model(trunk="vgg16_bn", width=0.06, fc_channels=8, dropout=0.3),
    optim=Optim(learning_rate=0.05, batch_size=4, epochs=3, warmup_steps=2, clip_norm=5.0),
)
"""Three epochs of three steps."""


def audit_of(run: Run) -> Audit:
    return audit(open_dataset(run.data, "train"), open_dataset(run.data, "val"), "fail")


def train(
    run: Run, folder: Path | str, runtime: Runtime | None = None, save_every: int | None = None, keep_last: int = 100
) -> RunFolder:
    keep = Keep(keep_last, save_every)
    fit(run, str(folder), audit_of(run), runtime or LocalRuntime(), loader=LoaderSettings(), keep=keep)
    return RunFolder(str(folder))


def changed(changes: Mapping[str, Any]) -> Run:
    return override(TINY, changes)


def numbers(folder: RunFolder) -> list[tuple[float, float, Any]]:
    """Return what epochs.jsonl says, without the times."""
    return [(epoch.train_loss, epoch.learning_rate, epoch.scores) for epoch in folder.read_epochs()]


def assert_same_bits(ours: RunFolder, theirs: RunFolder) -> None:
    """Compare everything that the last checkpoints and epochs.jsonl hold, but for times."""
    assert numbers(ours) == numbers(theirs)
    assert_same_state(ours, theirs)


def assert_same_state(ours: RunFolder, theirs: RunFolder) -> None:
    """Compare everything that the last checkpoints hold, but for the epochs so far."""
    assert ours.steps()[-1] == theirs.steps()[-1]
    ours_last, theirs_last = ours.read(ours.steps()[-1]), theirs.read(theirs.steps()[-1])
    _assert_equal(ours_last.weights, theirs_last.weights, "weights")
    for state in (ours_last.state, theirs_last.state):
        del state["epochs"]
    _assert_equal(ours_last.state, theirs_last.state, "state")


def _assert_equal(ours: object, theirs: object, where: str) -> None:
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            _assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            _assert_equal(one, other, f"{where}.{index}")
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where
