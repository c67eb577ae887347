"""What is stored of models: versions, what the gate found, and who was champion when."""

import re
from collections.abc import Mapping

from fcn_core.evaluation import Report
from fcn_core.registry.gate import GATE, Gate
from fcn_core.registry.store import Entry
from fcn_core.registry.version import FACTS, REPORT, Facts
from services._problems import Problem
from services.lab.files import Files
from services.lab.runs import score_of
from services.lab.schemas import ModelDetails, Packed, VersionSummary

_VERSION = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})/([1-9][0-9]*)/COMMIT")
_ENTRY = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})/champions/[0-9]{8}\.json")


class ModelShelf:
    """Reads models below a URL.

    Args:
        url: of the folder of all models.
        refresh_s: how old the list of what is stored may be.
        patience_s: longest to wait for the storage.
    """

    def __init__(self, url: str, refresh_s: float, patience_s: float) -> None:
        self._files = Files(url, refresh_s, patience_s)

    def close(self) -> None:
        """End all threads."""
        self._files.close()

    def all(self) -> list[ModelDetails]:
        """Return all models that have a version."""
        versions = self._files.versions()
        names = sorted({found[1] for path in versions if (found := _VERSION.fullmatch(path))})
        return self._files.each(lambda name: self._model(name, versions), names)

    def model(self, name: str) -> ModelDetails:
        """Return a model.

        Raises:
            Problem: there is none of this name (404).
        """
        versions = self._files.versions()
        if not any((found := _VERSION.fullmatch(path)) and found[1] == name for path in versions):
            raise Problem(404, f"there is no model {name}")
        return self._model(name, versions)

    def packed(self, run_id: str) -> list[Packed]:
        """Return the versions that were packed from a run, newest first within a model."""
        return [
            Packed(model=model.name, version=one.version, champion=one.champion, gate=one.gate)
            for model in self.all()
            for one in model.versions
            if one.run_id == run_id
        ]

    def _model(self, name: str, versions: Mapping[str, str]) -> ModelDetails:
        entries = sorted(path for path in versions if (found := _ENTRY.fullmatch(path)) and found[1] == name)
        made = [self._files.make(path, _entry, versions[path]) for path in entries]
        log = [one for one in made if isinstance(one, Entry)]
        # As the registry has it: an entry that is damaged is no reason to believe the one before.
        last = made[-1] if made else None
        champion = last.version if isinstance(last, Entry) else None
        numbers = sorted(int(found[2]) for path in versions if (found := _VERSION.fullmatch(path)) and found[1] == name)
        summaries = {number: self._version(name, number, versions, champion) for number in reversed(numbers)}
        return ModelDetails(
            name=name,
            champion=champion,
            versions=[one for one in summaries.values() if one is not None],
            damaged=[number for number, one in summaries.items() if one is None],
            log=log[::-1],
        )

    def _version(
        self, name: str, number: int, versions: Mapping[str, str], champion: int | None
    ) -> VersionSummary | None:
        paths = {file: f"{name}/{number}/{file}" for file in (FACTS, REPORT, GATE)}
        found = {file: versions.get(path, "") for file, path in paths.items()}
        facts = self._files.make(paths[FACTS], _facts, found[FACTS])
        report = self._files.make(paths[REPORT], _report, found[REPORT])
        gate = self._files.make(paths[GATE], _gate, found[GATE]) if found[GATE] else None
        if not isinstance(facts, Facts) or not isinstance(report, Report):
            return None
        return VersionSummary(
            version=number,
            run_id=facts.checkpoint.run_id,
            created=facts.created,
            weights=facts.checkpoint.weights,
            split=report.subject.split,
            score=score_of(report),
            champion=number == champion,
            gate=gate if isinstance(gate, Gate) else None,
        )


def _entry(contents: bytes) -> Entry:
    return Entry.model_validate_json(contents)


def _facts(contents: bytes) -> Facts:
    return Facts.model_validate_json(contents)


def _report(contents: bytes) -> Report:
    return Report.model_validate_json(contents)


def _gate(contents: bytes) -> Gate:
    return Gate.model_validate_json(contents)
