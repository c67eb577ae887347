"""Finding runs and their checkpoints by what people type."""

import difflib
from typing import Any, NamedTuple

from pydantic import ValidationError

from fcn_core import storage
from fcn_core.checkpoint import CARD, WEIGHTS, Card, RunFolder, find
from fcn_core.evaluation import Checkpoint
from fcn_core.settings import Run
from jobs._cli import explain


class Target(NamedTuple):
    """A run that is there."""

    url: str
    run: Run
    folds: tuple[str, ...]
    """URLs of the runs of its folds, if it is a k-fold run."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.url)


def find_run(name: str, place: str) -> Target:
    """Return the run at a path or URL, or the run of that name below `place`.

    Raises:
        FileNotFoundError: there is none; the message names those that are there.
        ValueError: its run.json is not understood.
    """
    name = name.rstrip("/")
    runs = storage.join(storage.absolute(place), "runs")
    for url in (storage.absolute(name), storage.join(runs, name)):
        facts = RunFolder(url).read_run()
        if facts is not None:
            return Target(url, _run(url, facts), tuple(storage.join(url, "..", one) for one in facts.get("folds", ())))
    there = storage.list_folder(runs)
    near = difflib.get_close_matches(name, there, n=3) or there[:10]
    known = f"runs in {runs} are {', '.join(near)}" if near else f"there are no runs in {runs} either"
    raise FileNotFoundError(f"no run {name!r}: it is neither a folder with a run.json nor a name; {known}")


def find_checkpoint(target: Target, step: str) -> tuple[str, Card, Checkpoint]:
    """Return URL, card and identity of a run's checkpoint: "best", "last", or that of a step.

    Raises:
        FileNotFoundError: there is none; the message names the steps that are there.
        TornError: it is damaged.
    """
    steps = target.folder.steps()
    if not steps:
        raise FileNotFoundError(f"{target.url} has no checkpoint yet: let the run finish an epoch")
    if step == "best":
        url = find(target.url)
    elif step == "last":
        url = target.folder.checkpoint(steps[-1])
    elif step.isdigit() and int(step) in steps:
        url = target.folder.checkpoint(int(step))
    else:
        known = ", ".join(map(str, steps))
        raise FileNotFoundError(f"no checkpoint of step {step!r} in {target.url}: there are {known}, best and last")
    files = storage.verify(url)
    card = Card.model_validate_json(storage.read_bytes(storage.join(url, CARD)))
    return url, card, Checkpoint(run_id=card.run_id, step=card.step, weights=files[WEIGHTS]["sha256"])


def _run(url: str, facts: dict[str, Any]) -> Run:
    try:
        return Run.model_validate(facts["settings"])
    except ValidationError as error:
        raise ValueError(f"{url}/run.json is of another version: {explain(error)}") from error
