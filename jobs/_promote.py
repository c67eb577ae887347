"""From a run to the champion of a model, through the gate."""

import shlex
import sys
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg

from fcn_core import storage
from fcn_core.data.audit import Policy
from fcn_core.data.catalogue import open_split
from fcn_core.evaluation import Evaluation, Subject
from fcn_core.registry.checks import COMPARISON
from fcn_core.registry.gate import GateFailedError, promote, read_gate
from fcn_core.registry.store import MODELS, ChampionMovedError, Entry, Registry
from fcn_core.registry.version import Candidate, Name, Version
from fcn_core.stored import Stored
from jobs._cli import Resources, RunFailedError, Settings, exit_codes, read
from jobs._console import Console, percent
from jobs._evaluate import EvaluateCommand, _data, evaluate_run
from jobs._evaluations import stored_evaluation
from jobs._runs import Target, find_checkpoint, find_run
from jobs._scores import span
from jobs._team import Start, team


class PromoteCommand(Resources, Settings):
    """Pack the evaluated checkpoint of a run as the next version of a model, and make it champion if the gate passes.

    The gate: every file has its SHA-256; the version, loaded alone, computes finite numbers, gives its example the
    stored mask and reproduces the confusion matrix of every image; and its mean IoU is not worse than the champion's on
    the same images. A version that fails stays packed and is not champion. The same command again goes on with it.
    """

    model_config = Settings.model_config
    aliases: ClassVar[dict[str, str]] = {"data.audit": "audit"}

    run: CliPositionalArg[str] = Field(description="folder or URL of a run, or its name below STORAGE/runs")
    model: Name = Field(description="what people call the model; it is kept in STORAGE/models/MODEL/VERSION")
    evaluation: str = Field("val", description="which evaluation of the run, by its folder: val, test, val-tta")
    data: str | None = Field(None, description="where the evaluated data lie now, if not where they were")
    audit: Policy | None = Field(None, description="as in the evaluation: fail, leave_out or warn")
    force: str | None = Field(
        None, min_length=1, description="why it shall be champion though worse than the one there is, or not comparable"
    )


def main() -> None:
    """Carry out a promotion."""
    command = read(PromoteCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        entry = promote_run(command, console)
        before = f" after {command.model}/{entry.previous}" if entry.previous else ""
        console.say(f"champion     {command.model}/{entry.version}{before}: {entry.reason}")
        console.say(f"next         python jobs/models.py show {command.model}")


def promote_run(command: PromoteCommand, console: Console, start: Start = team) -> Entry:
    """Pack what was evaluated of a run, if it is not packed yet, and let it through the gate.

    Raises:
        ValueError: the run has a network for each fold, or what was evaluated is not there any more.
        FileNotFoundError: run, evaluation or data are not there.
        RunFailedError: the gate does not let it pass, or others promote all the time.
    """
    registry = open_registry(command.storage)
    target = find_run(command.run, command.storage)
    stored = stored_evaluation(target, command.evaluation)
    version = _packed(registry, stored.report.subject, command.model)
    if version is None:
        version = _pack(registry, target, stored, command)
        step = f"step {version.facts.checkpoint.step} of {version.facts.checkpoint.run_id}"
        console.say(f"packed {step} as {version.label} in {version.url}")
    else:
        console.say(f"already packed as {version.label} in {version.url}")
    over_images = version.report.mean_iou_over_images
    console.say(f"mean IoU {percent(over_images.value)} ({span(over_images)}), {version.report.rule}")
    champion = registry.champion(command.model)
    if champion is not None and champion.manifest == version.manifest:
        return champion
    try:
        return promote(registry, version, lambda: _again(version, command, console, start), command.force, console.say)
    except GateFailedError as error:
        raise RunFailedError(f"{error}; {_advice(error)}") from error
    except ChampionMovedError as error:
        raise RunFailedError(str(error)) from error


def open_registry(place: str) -> Registry:
    """Return the registry of a storage.

    Raises:
        OSError: the storage cannot be reached.
    """
    storage.check_access(place)
    return Registry(storage.join(storage.absolute(place), MODELS))


def _packed(registry: Registry, subject: Subject, name: str) -> Version | None:
    """Return the newest whole version with this evaluation that was not found to be unsound."""
    for number in reversed(registry.packed(name, subject)):
        gate = read_gate(registry.place(name, number))
        try:
            if gate is None or gate.sound:
                return registry.read(name, number)
        except storage.TornError:
            continue
    return None


def _pack(registry: Registry, target: Target, stored: Stored, command: PromoteCommand) -> Version:
    subject = stored.report.subject
    if len(subject.checkpoints) != 1:
        raise ValueError(f"{target.url} has a network for each of its folds: promote a run without folds")
    first = subject.checkpoints[0]
    checkpoint, _, identity = find_checkpoint(target, str(first.step))
    if identity != first:
        raise ValueError(f"{target.url} has other weights than those that were evaluated: evaluate it again")
    image = _first_image(target, stored, command)
    return registry.pack(command.model, Candidate(checkpoint, target.run, stored.report, stored.evaluation, image))


def _first_image(target: Target, stored: Stored, command: PromoteCommand) -> NDArray[np.uint8]:
    asked = _as_evaluated(target.url, stored.report.subject, command)
    dataset, name = open_split(*_data(target.run, asked)), stored.evaluation.names[0]
    if name not in dataset.names:
        raise ValueError(f"{name} was evaluated and is not in the data now: evaluate the run again")
    return dataset.read(dataset.names.index(name)).image


def _again(version: Version, command: PromoteCommand, console: Console, start: Start) -> tuple[Subject, Evaluation]:
    """Evaluate a version as its run was evaluated. What comes out is kept with the version."""
    asked = _as_evaluated(version.url, version.report.subject, command)
    made = evaluate_run(find_run(version.url, command.storage), asked, console, start)
    return made.report.subject, made.evaluation


def _as_evaluated(url: str, subject: Subject, command: PromoteCommand) -> EvaluateCommand:
    resources = {name: getattr(command, name) for name in Resources.model_fields}
    return EvaluateCommand(
        run=url,
        split=subject.split,
        data=command.data,
        audit=command.audit,
        tta=subject.inference.tta,
        tile=subject.inference.tile,
        **resources,
    )


def _advice(error: GateFailedError) -> str:
    if [check.name for check in error.failed] != [COMPARISON]:
        return "--force does not help: evaluate the run again on this kind of machine, or train it again"
    again = shlex.join(["python", "jobs/promote.py", *sys.argv[1:]])
    return f"to promote it nevertheless, say why: {again} --force 'REASON'"
