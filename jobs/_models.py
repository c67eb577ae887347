"""Looking into the registry of models, and going back in it."""

import sys
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import CliPositionalArg

from fcn_core import storage
from fcn_core.registry.gate import GateFailedError, read_gate, rollback
from fcn_core.registry.store import ChampionMovedError, Entry, Registry
from fcn_core.registry.version import Version, read_facts, read_report
from jobs._cli import RunFailedError, Settings, exit_codes, read
from jobs._console import Console
from jobs._promote import open_registry
from jobs._scores import number, span, table


class ModelsCommand(Settings):
    """List models, show one and its history or a version, or make the champion of before champion again."""

    action: CliPositionalArg[Literal["list", "show", "rollback"]] = Field(description="what to do")
    model: CliPositionalArg[str] = Field("", description="NAME, or NAME/VERSION to show")
    to: int | None = Field(None, ge=1, description="version to go back to; the champion of before if left out")
    reason: str = Field("rolled back", min_length=1, description="why one goes back; it is kept")
    storage: str = Field("results", description="folder or URL below which models/ lies")


def main() -> None:
    """Carry out a command about models."""
    command = read(ModelsCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        registry = open_registry(command.storage)
        name, _, version = command.model.partition("/")
        known = registry.models()
        if command.action == "list":
            _list(registry, known, console)
        elif name not in known:
            there = f"models are {', '.join(known)}" if known else "there are none: python jobs/promote.py --help"
            raise FileNotFoundError(f"no model {name!r} in {registry.url}; {there}")
        elif command.action == "rollback":
            _go_back(registry, command, console)
        elif version:
            _show_version(registry, command.model, console)
        else:
            _show_model(registry, name, console)


def _list(registry: Registry, known: list[str], console: Console) -> None:
    shown = table(("version", "mean IoU", "champion since", "versions"), "model")
    for name in known:
        count = str(len(registry.versions(name)))
        try:
            entry = registry.champion(name)
        except storage.TornError:
            shown.add_row(name, "damaged", "-", "-", count)
            continue
        champion = (str(entry.version), _row(registry, name, entry.version)[0], _when(entry)) if entry else ("-",) * 3
        shown.add_row(name, *champion, count)
    shown.caption = registry.url
    console.rich.print(shown)


def _show_model(registry: Registry, name: str, console: Console) -> None:
    history = registry.history(name)
    champion = history[-1].version if history else None
    shown = table(("mean IoU", "95 % interval", "split", "step", "gate"), name)
    shown.add_column("run", overflow="fold")
    for version in registry.versions(name):
        mark = " champion" if version == champion else ""
        shown.add_row(f"{version}{mark}", *_row(registry, name, version), style="bold" if mark else None)
    shown.caption = storage.join(registry.url, name)
    console.rich.print(shown)
    for entry in history:
        forced = ", forced" if entry.forced else ""
        console.say(f"{_when(entry)}  {name}/{entry.version}{forced}: {entry.reason}")


def _row(registry: Registry, name: str, version: int) -> list[str]:
    url = registry.place(name, version)
    try:
        report, checkpoint = read_report(url), read_facts(url).checkpoint
    except (ValidationError, FileNotFoundError):
        return ["damaged"]
    gate = read_gate(url)
    failed = [check.name for check in gate.checks if not check.passed] if gate else ["not asked"]
    found = report.mean_iou_over_images
    numbers = [number(found.value), span(found), report.subject.split, str(checkpoint.step)]
    return [*numbers, ", ".join(failed) or "passed", checkpoint.run_id]


def _show_version(registry: Registry, reference: str, console: Console) -> None:
    url = registry.find(reference)
    if url is None:
        name = reference.partition("/")[0]
        there = ", ".join(map(str, registry.versions(name)))
        raise FileNotFoundError(f"no version {reference}; versions of {name} are {there}")
    name, _, number_ = reference.partition("/")
    version = registry.read(name, int(number_))
    for label, text in _facts(version):
        console.say(f"{label:13}{text}")
    gate = read_gate(url)
    for check in gate.checks if gate else ():
        console.say(f"{'' if check.passed else 'FAILED '}{check.name}: {check.found}")
    console.say(f"everything   {url}")


def _facts(version: Version) -> list[tuple[str, str]]:
    card, facts, found = version.card, version.facts, version.report.mean_iou_over_images
    return [
        ("network", f"FCN-{card.model.stride}s on {card.model.trunk}, {card.model.preprocessing} preprocessing"),
        ("classes", ", ".join(card.classes.names)),
        ("mean IoU", f"{number(found.value)} ({span(found)}) % on {version.report.subject.split}"),
        ("rule", version.report.rule),
        ("from", f"step {facts.checkpoint.step} of {facts.checkpoint.run_id}"),
        ("weights", f"SHA-256 {version.weights}"),
        ("packed", f"{facts.created:%Y-%m-%d %H:%M} UTC by {', '.join(map(' '.join, facts.software.items()))}"),
    ]


def _go_back(registry: Registry, command: ModelsCommand, console: Console) -> None:
    try:
        entry = rollback(registry, command.model, command.to, command.reason)
    except (GateFailedError, ChampionMovedError) as error:
        raise RunFailedError(str(error)) from error
    console.say(f"champion     {command.model}/{entry.version} after {command.model}/{entry.previous}: {entry.reason}")


def _when(entry: Entry) -> str:
    return f"{entry.time:%Y-%m-%d %H:%M} UTC"
