"""What an `Accept` header asks for."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services._problems import Problem

MASK = "image/png"
OVERLAY = "image/png;view=overlay"
JSON = "application/json"
ARRAYS = "application/x-npz"
PROBABILITIES = "application/x-npz;view=probabilities"


class _Range(NamedTuple):
    """One of the alternatives of an `Accept` header."""

    type: str
    subtype: str
    parameters: Mapping[str, str]
    quality: float

    @property
    def exactness(self) -> int:
        """How exactly it says what is meant."""
        return (self.type != "*") + (self.subtype != "*")

    def allows(self, offered: str) -> bool:
        """Tell whether it names an offered media type, with all of its parameters."""
        kind, *parameters = offered.split(";")
        type_, subtype = kind.split("/")
        asked = {name: value for name, value in self.parameters.items() if name == "view"}
        fits = self.type in (type_, "*") and self.subtype in (subtype, "*")
        return fits and asked == dict(parameter.split("=") for parameter in parameters)


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """Return the media type that is wanted most of those offered, the first of equals; the first if all is welcome.

    A type without `view` is the plain one: `image/png` is the mask, never the overlay.

    Raises:
        Problem: none is wanted (406).
    """
    ranges = [found for part in (accept or "*/*").split(",") if (found := _parse(part))]

    def quality(one: str) -> float:
        # What names a type best decides: `image/png;q=0, */*` is all but that.
        return max((found.exactness, found.quality) for found in ranges if found.allows(one))[1]

    possible = [one for one in offered if any(found.allows(one) for found in ranges) and quality(one) > 0]
    if not possible:
        raise Problem(406, f"Accept allows none of {', '.join(offered)}")
    return max(possible, key=quality)


def _parse(part: str) -> _Range | None:
    kind, *rest = (piece.strip() for piece in part.lower().split(";"))
    type_, slash, subtype = kind.partition("/")
    pairs = (piece.partition("=") for piece in rest)
    parameters = {name.strip(): value.strip().strip('"') for name, _, value in pairs}
    try:
        quality = float(parameters.pop("q", "1"))
    except ValueError:
        return None
    return _Range(type_, subtype, parameters, quality) if slash else None
