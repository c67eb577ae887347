"""The models that are served: the champion and versions asked for by number, each only after it proved itself."""

import logging
from typing import NamedTuple

from fcn_core import storage
from fcn_core.predict import Inference, Predictor
from fcn_core.registry.checks import PASSING, example, finite
from fcn_core.registry.store import MODELS, Entry, Registry
from fcn_core.registry.version import Version, one_line
from services._problems import Problem
from services._settings import Serving

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """A version is damaged or does not give what it gave when it was packed."""


class Served(NamedTuple):
    """A version with its network on the device. It never changes: who holds it answers from one version."""

    version: Version
    predictor: Predictor
    tile: int

    def inference(self, height: int, width: int) -> Inference:
        """Return how an image of this size is computed: as the version was evaluated, and in tiles if it is large.

        A function of the size alone: `predictor.labels(image, inference)` is the served mask, bit by bit.
        """
        evaluated = self.version.report.subject.inference
        is_large = height * width * self.predictor.scale**2 > self.tile**2
        return Inference(tta=evaluated.tta, tile=self.tile) if is_large and not evaluated.tile else evaluated


class Models:
    """The champion of a model and some of its versions. One thread may call `refresh` beside all that read.

    Args:
        settings: which model and versions, and the device.
        device: of the networks.

    Raises:
        ValueError: it is not clear which model is meant.
        FileNotFoundError: there is no such model or version, or it has no champion that can be served.
        RefusedError: a version asked for by number does not prove itself.
    """

    def __init__(self, settings: Serving, device: str) -> None:
        storage.check_access(settings.storage)
        self._registry = Registry(storage.join(storage.absolute(settings.storage), MODELS))
        self._device, self._tile = device, settings.tile
        self.name = settings.model or self._only_model()
        self._refused: dict[str, str] = {}
        self._seen: Entry | None = None
        champion = self._newest(None)
        if champion is None:
            reasons = "; ".join(self._refused.values()) or "none was promoted: python jobs/promote.py --help"
            raise FileNotFoundError(f"{self.name} in {self._registry.url} has no champion to serve: {reasons}")
        self.champion: Served = champion
        """The version that answers if none is named."""
        number = champion.version.facts.version
        self._pinned = {one: champion if one == number else self._load(one, None) for one in settings.versions}

    @property
    def refused(self) -> tuple[str, ...]:
        """Why versions that became champion are not served."""
        return tuple(self._refused.values())

    def all(self) -> list[Served]:
        """Return what is served, the champion first."""
        champion = self.champion
        number = champion.version.facts.version
        return [champion, *(served for other, served in sorted(self._pinned.items()) if other != number)]

    def get(self, number: int | None) -> Served:
        """Return a version, or the champion.

        Raises:
            Problem: the version is not served (404).
        """
        champion = self.champion
        if number in (None, champion.version.facts.version):
            return champion
        if number not in self._pinned:
            known = ", ".join(str(served.version.facts.version) for served in self.all())
            raise Problem(404, f"version {number} of {self.name} is not served; versions {known} are")
        return self._pinned[number]

    def refresh(self) -> None:
        """Take up a new champion: it loads beside the old one and takes over once it proved itself.

        Of those that became champion the last that proves itself is served; one that does not is never tried again.
        """
        self.champion = self._newest(self.champion) or self.champion

    def _newest(self, current: Served | None) -> Served | None:
        """Return the last champion that proves itself, `current` if it is that."""
        last = self._registry.champion(self.name)
        if last is None or last == self._seen:
            return current
        for entry in reversed(self._registry.history(self.name)):
            if current and entry.manifest == current.version.manifest:
                break
            if served := self._proved(entry):
                log.info("%s is served, weights %s", served.version.label, served.version.weights)
                current = served
                break
        self._seen = last
        return current

    def _proved(self, entry: Entry) -> Served | None:
        if entry.manifest in self._refused:
            return None
        try:
            return self._load(entry.version, entry.manifest)
        except RefusedError as error:
            self._refused[entry.manifest] = str(error)
            log.warning("not served: %s", error)
            return None

    def _load(self, number: int, manifest: str | None) -> Served:
        """Load a version and put it to the proof, which warms it up too. What is `PASSING` may be over next time."""
        label = f"{self.name}/{number}"
        try:
            version = self._registry.read(self.name, number, manifest)
        except (storage.TornError, ValueError) as error:
            raise RefusedError(f"{label}: {one_line(error)}") from error
        try:
            predictor, image = Predictor.load(version.url, self._device), version.example().image
        except PASSING:
            raise
        except Exception as error:
            # Whatever a damaged file does to what reads it.
            raise RefusedError(f"{label} cannot be loaded: {one_line(error)}") from error
        checks = finite(predictor, image), example(predictor, version)
        if failed := [f"{check.name}: {check.found}" for check in checks if not check.passed]:
            raise RefusedError(f"{label}: {'; '.join(failed)}")
        return Served(version, predictor, self._tile)

    def _only_model(self) -> str:
        models = self._registry.models()
        if len(models) != 1:
            there = f"has {', '.join(models)}: say which" if models else "has none: python jobs/promote.py --help"
            raise ValueError(f"the registry {self._registry.url} {there}")
        return models[0]
