"""Finding runs and their checkpoints by what people type."""

import difflib
from typing import NamedTuple

from pydantic import ValidationError

from fcn_core import storage
from fcn_core.checkpoint import CARD, WEIGHTS, Card, RunFolder, find
from fcn_core.evaluation import Checkpoint
from fcn_core.registry.store import MODELS, Registry
from fcn_core.registry.version import is_version, read_facts
from fcn_core.settings import Run
from jobs._cli import explain


class Target(NamedTuple):
    """A run that is there, or a version of a model."""

    url: str
    run: Run
    folds: tuple[str, ...]
    """URLs of the runs of its folds, if it is a k-fold run."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.url)


def find_run(name: str, place: str) -> Target:
    """Return the run at a path or URL, or of that name below `place`; or the version of a model, NAME/VERSION or NAME.

    NAME alone is its champion.

    Raises:
        FileNotFoundError: there is none; the message names those that are there.
        OSError: the storage cannot be reached.
        ValueError: its run.json is not understood.
    """
    name = name.rstrip("/")
    runs = storage.join(storage.absolute(place), "runs")
    for url in [storage.absolute(name), *([] if "://" in name else [storage.join(runs, name)])]:
        storage.check_access(url)
        target = _read(url)
        if target is not None:
            return target
    version = Registry(storage.join(storage.absolute(place), MODELS)).find(name)
    if version is not None:
        return _version(version)
    known = _known(name, runs)
    raise FileNotFoundError(f"no run {name!r}: it is neither a folder with a run.json nor a name or a model; {known}")


def find_checkpoint(target: Target, step: str) -> tuple[str, Card, Checkpoint]:
    """Return URL, card and identity of a run's checkpoint: "best", "last", or that of a step. A version has but one.

    Raises:
        FileNotFoundError: there is none; the message names the steps that are there.
        TornError: it is damaged.
    """
    url = _find_checkpoint(target, step)
    files = storage.verify(url)
    card = Card.model_validate_json(storage.read_bytes(storage.join(url, CARD)))
    return url, card, Checkpoint(run_id=card.run_id, step=card.step, weights=files[WEIGHTS]["sha256"])


def _find_checkpoint(target: Target, step: str) -> str:
    if is_version(target.url):
        if step not in ("best", "last"):
            raise ValueError(f"{target.url} is a version of a model and has one checkpoint: leave out step")
        return target.url
    steps = target.folder.steps()
    if not steps:
        raise FileNotFoundError(f"{target.url} has no checkpoint yet: let the run finish an epoch")
    if step == "best":
        return find(target.url)
    if step == "last":
        return target.folder.checkpoint(steps[-1])
    if step.isdecimal() and int(step) in steps:
        return target.folder.checkpoint(int(step))
    known = ", ".join(map(str, steps))
    raise FileNotFoundError(f"no checkpoint of step {step!r} in {target.url}: there are {known}, best and last")


def _read(url: str) -> Target | None:
    try:
        facts = RunFolder(url).read_run()
        run = Run.model_validate(facts.get("settings")) if facts is not None else None
    except ValidationError as error:
        raise ValueError(f"{url}/run.json is of another version: {explain(error)}") from error
    except ValueError as error:
        raise ValueError(f"{url}/run.json is damaged: {error}") from error
    if facts is None or run is None:
        return _version(url) if is_version(url) else None
    beside = url.rpartition("/")[0]
    return Target(url, run, tuple(storage.join(beside, fold) for fold in facts.get("folds", ())))


def _version(url: str) -> Target:
    return Target(url, read_facts(url).run, ())


def _known(name: str, runs: str) -> str:
    """Say which runs there are of a name like this one, where it was looked for."""
    folder, _, last = name.rpartition("/")
    for place in [storage.absolute(folder), runs] if folder else [runs]:
        near = difflib.get_close_matches(last, storage.list_folder(place), n=3)
        if near:
            return f"did you mean {' or '.join(storage.join(place, one) for one in near)}?"
    there = storage.list_folder(runs)[:10]
    return f"runs in {runs} are {', '.join(there)}" if there else f"there are no runs in {runs}"
