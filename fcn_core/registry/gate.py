"""The gate between versions and champions.

Integrity comes first, and nothing overrides it: the files are those of the manifest, the network computes finite
numbers, it gives the example what it gave when it was packed, and it reproduces its evaluation. Then the version must
not be worse than the champion, which a person can override with a reason.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from fcn_core import storage
from fcn_core.evaluation import Evaluation, Subject
from fcn_core.registry.checks import COMPARISON, Check, not_worse, reproduced, self_check, whole
from fcn_core.registry.store import ChampionMovedError, Entry, Registry
from fcn_core.registry.version import Version
from fcn_core.settings import Value

GATE = "gate.json"
_ATTEMPTS = 5
Say = Callable[[str], None]
Reproduce = Callable[[], tuple[Subject, Evaluation]]
"""Evaluates the packed version as it was evaluated before it was packed."""


class Gate(Value):
    """What the gate found when it was last asked: the contents of gate.json, beside the version's files."""

    format: Literal[1] = 1
    manifest: str
    """SHA-256 of the version's manifest.json."""
    champion: int | None
    """The version it was compared with."""
    time: AwareDatetime
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        """Tell whether nothing failed but the comparison."""
        return all(check.passed for check in self.checks if check.name != COMPARISON)


class GateFailedError(Exception):
    """A version must not become champion."""

    def __init__(self, version: Version, checks: Sequence[Check]) -> None:
        self.failed = tuple(check for check in checks if not check.passed)
        found = "; ".join(f"{check.name}: {check.found}" for check in self.failed)
        super().__init__(f"{version.label} does not become champion: {found}")


def read_gate(url: str) -> Gate | None:
    """Return what the gate found of the version at `url`, or None where it was not asked or this is not readable."""
    try:
        return Gate.model_validate_json(storage.read_bytes(storage.join(url, GATE)))
    except (FileNotFoundError, ValidationError):
        return None


def promote(registry: Registry, version: Version, reproduce: Reproduce, force: str | None, say: Say) -> Entry:
    """Make a version champion if the gate lets it pass, and keep what the gate found.

    Where another writer is faster, the version must pass against that champion.

    Args:
        registry: where the version lies.
        version: as read.
        reproduce: called when all else about its integrity is right.
        force: the reason to let it pass if it is worse than the champion, or cannot be compared.
        say: told what happens.

    Raises:
        GateFailedError: a check failed that is not forced.
        ChampionMovedError: others were faster again and again.
        TornError: the version was damaged or changed in the meantime.
    """
    checks = _integrity(version, reproduce, say)
    if not all(check.passed for check in checks):
        _write_gate(version, None, checks)
        raise GateFailedError(version, checks)
    for _ in range(_ATTEMPTS):
        seen = registry.champion(version.facts.name)
        if seen is not None and seen.manifest == version.manifest:
            return seen
        compared = not_worse(version, registry, seen)
        say(f"{compared.name}: {compared.found}")
        _write_gate(version, seen, [*checks, compared])
        if not compared.passed and not force:
            raise GateFailedError(version, [compared])
        reason = "the gate passed" if compared.passed else force or ""
        try:
            return registry.crown(version, seen, reason, forced=not compared.passed)
        except ChampionMovedError as error:
            say(f"{error}: comparing again")
    raise ChampionMovedError(f"the champion of {version.facts.name} moves all the time: try again later")


def rollback(registry: Registry, name: str, to: int | None = None, reason: str = "rolled back") -> Entry:
    """Make a version champion that was so before: the one before the current became it, or a given one.

    Raises:
        ValueError: there is none to go back to.
        TornError: it was damaged or changed since.
        GateFailedError: it fails its self-check.
        ChampionMovedError: another became champion in the meantime.
    """
    history = registry.history(name)
    before = _before(history, name, to)
    version = registry.read(name, before.version, before.manifest)
    checks = self_check(version)
    if not all(check.passed for check in checks):
        raise GateFailedError(version, checks)
    return registry.crown(version, history[-1], reason)


def _integrity(version: Version, reproduce: Reproduce, say: Say) -> list[Check]:
    checks = [whole(version), *self_check(version)]
    for check in checks:
        say(f"{check.name}: {check.found}")
    if all(check.passed for check in checks):
        checks.append(reproduced(version, *reproduce()))
        say(f"{checks[-1].name}: {checks[-1].found}")
    return checks


def _before(history: Sequence[Entry], name: str, to: int | None) -> Entry:
    if not history:
        raise ValueError(f"{name} has no champion to go back from")
    now, were = history[-1].version, [entry.version for entry in history]
    if to is None:
        # Not the last entry but one: going back twice would lead forward again.
        first = were.index(now)
        if first == 0:
            raise ValueError(f"no version was champion before {name}/{now}")
        return history[first - 1]
    if to == now:
        raise ValueError(f"{name}/{to} is the champion")
    if to not in were:
        known = ", ".join(map(str, sorted(set(were))))
        raise ValueError(f"{name}/{to} never was champion, versions {known} were: promote it")
    return history[were.index(to)]


def _write_gate(version: Version, champion: Entry | None, checks: Sequence[Check]) -> None:
    gate = Gate(
        manifest=version.manifest,
        champion=champion.version if champion else None,
        time=datetime.now(UTC),
        checks=tuple(checks),
    )
    storage.write_bytes(storage.join(version.url, GATE), (gate.model_dump_json(indent=1) + "\n").encode())
