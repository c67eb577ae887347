"""What is kept of a look at units: pictures, arrays, numbers and a page to browse."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_core.figures.gallery import Entry, gallery, strip
from fcn_core.figures.minimal import Reduced, minimal_images
from fcn_core.figures.unit import MeanField, Pixels, Shown, signed_colours, unit_sheet, visible
from fcn_core.receptive_field.activations import Top
from fcn_core.receptive_field.effective import side_of_share
from fcn_core.receptive_field.empirical import Empirical, recentred_mean
from fcn_core.receptive_field.minimal import Minimal
from fcn_core.receptive_field.occlusion import Occlusion, Site
from fcn_core.receptive_field.subject import View
from fcn_core.receptive_field.theory import LayerField
from fcn_core.receptive_field.units import Found, Look, UnitField
from fcn_core.settings import Value
from jobs._crew import Arrays, key_of
from jobs._evaluations import file_name
from jobs._field_tasks import INCREMENTAL, Lens

NUMBERS, PAGE = "numbers.json", "index.html"
FILLS = {"random": "random pixels", "mean": "the mean colour", "grey": "grey", "blur": "a blurred image"}
_LINES = 16
_Box = tuple[float, float, float, float]


class Question(Value):
    """All that decides the numbers."""

    model: str
    weights: str
    """What people call them."""
    digest: str
    """SHA-256 of the network."""
    layer: str
    units: tuple[int, ...]
    images: str
    num_images: int
    images_digest: str
    view: View
    most: int
    threshold: float
    audit: Literal["fail", "leave_out"]
    occlusion: Occlusion
    plain: bool
    removal: Minimal | None
    class_name: str | None

    @property
    def id(self) -> str:
        """Network, layer, units and ten hexadecimal digits of a hash of it all."""
        units = str(self.units[0]) if len(self.units) == 1 else f"{len(self.units)}units"
        return file_name(f"{self.model}-{self.layer}-{units}-{key_of('', self.model_dump(mode='json'))[1:11]}")


class _Seen(NamedTuple):
    """What occlusion and gradient gave of a unit in an image."""

    site: Site
    falls: NDArray[np.float32]
    gradient: NDArray[np.float32] | None
    extents: tuple[int, int]


class Results:
    """Draws and writes what is kept into a local folder, to be published.

    Args:
        lens: of the layer.
        question: what is asked.
        top: the strongest images of every unit.
        folder: where to write.
    """

    def __init__(self, lens: Lens, question: Question, top: Top, folder: Path) -> None:
        self.lens, self.question, self.top, self.folder = lens, question, top, folder
        self.lines: list[str] = []
        """What to tell people beside the numbers."""
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._images: dict[int, Pixels] = {}
        self._ways: set[str] = set()
        self.units: list[dict[str, Any]] = []
        """Numbers of those that are written."""
        self._entries: list[Entry] = []
        self._minimal: list[dict[str, Any]] = []

    def add(self, index: int, sites: Sequence[Site], part: Arrays) -> None:
        """Take in what a worker found in an image."""
        gradients = part.get("gradients", [None] * len(sites))
        rows, columns = part["extents"].tolist()
        self._ways.add(str(part["way"]))
        for site, falls, gradient in zip(sites, part["falls"], gradients, strict=True):
            self._seen[index, site.unit] = _Seen(site, falls, gradient, (rows, columns))

    def write_unit(self, unit: int) -> None:
        """Draw a unit and write its arrays."""
        indexes = self.top.images[unit].tolist()
        seen = [self._seen.pop((index, unit)) for index in indexes]
        values = self.top.values[unit].tolist()
        looks = [self._look(*one) for one in zip(indexes, values, seen, strict=True)]
        field = UnitField.of(unit, looks, self.question.threshold)
        effective = self._effective(looks, seen)
        name = f"{file_name(self.question.layer)}-{unit}"
        self._write_arrays(self.folder / f"{name}.npz", field, seen, effective)
        self.units.append(self._facts(field, effective))
        self._draw(name, field, effective)

    def write_minimal(self, parts: Mapping[int, Arrays], settings: Minimal) -> None:
        """Draw the minimal images and write their arrays."""
        rows: list[Reduced] = []
        arrays: Arrays = {}
        for rank, (index, part) in enumerate(parts.items()):
            name, label = self.lens.pictures.names[index], int(part["label"])
            if label < 0:
                self.lines.append(f"{name} has no pixel of class {self.question.class_name}: no minimal image of it")
                continue
            scores, kept = part["scores"].tolist(), part["kept"]
            called = self.lens.subject.class_name(label)
            rows.append(Reduced(name, called, self._image(index), part["segments"], kept, scores, bool(part["lost"])))
            arrays |= {f"{field}_{rank:02d}": part[field] for field in ("segments", "kept", "order", "scores")}
            facts = {"name": name, "class": called, "order": part["order"].tolist(), "scores": scores}
            self._minimal.append(facts | {"lost": bool(part["lost"]), "share_kept": float(kept.mean())})
        if rows:
            np.savez_compressed(self.folder / "minimal.npz", allow_pickle=False, **arrays)
            rule = f"Segments by {settings.segments}; what is gone shows {FILLS[settings.fill]}. {_rule(self.lens)}"
            title = f"{self.question.model}: minimal images"
            minimal_images(rows, self.folder / "minimal.png", title, rule, settings.score)

    def finish(self) -> None:
        """Write the numbers, and the page of several units."""
        self.lines += [f"computed {way}" for way in sorted(self._ways - {INCREMENTAL})]
        numbers = {"question": self.question.model_dump(mode="json"), "way": sorted(self._ways), "units": self.units}
        numbers |= {"minimal": self._minimal} if self._minimal else {}
        (self.folder / NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n")
        if len(self._entries) > 1:
            title = f"{self.question.model}, {self.question.layer}: {len(self._entries)} units"
            (self.folder / PAGE).write_text(gallery(self._entries, title, self._rule()), encoding="utf-8")

    def _image(self, index: int) -> Pixels:
        if index not in self._images:
            self._images[index] = self.lens.seen(index)
        return self._images[index]

    def _look(self, index: int, activation: float, seen: _Seen) -> Look:
        image = self._image(index)
        centre = self.lens.geometry.centre(seen.site, (image.shape[0], image.shape[1]), seen.extents)
        found = Found(activation, seen.falls, self.question.occlusion)
        return Look.of(self.lens.pictures.names[index], image, seen.site, centre, found)

    def _effective(self, looks: Sequence[Look], seen: Sequence[_Seen]) -> Empirical | None:
        maps = [torch.from_numpy(one.gradient).double() for one in seen if one.gradient is not None]
        return recentred_mean(maps, [look.centre for look in looks]) if maps else None

    def _theory(self, look: Look) -> LayerField | None:
        field = self.lens.geometry.field((look.image.shape[0], look.image.shape[1]))
        return None if field is None or field.rows.everywhere or field.columns.everywhere else field

    def _facts(self, field: UnitField, effective: Empirical | None) -> dict[str, Any]:
        theory = self._theory(field.looks[0])
        return {
            "unit": field.unit,
            "theoretical_px": [theory.rows.size, theory.columns.size] if theory else None,
            "stride_px": [float(theory.rows.stride), float(theory.columns.stride)] if theory else None,
            "effective_side_px": side_of_share(effective.mean.numpy()) if effective else None,
            "empirical": field.extent._asdict() | {"side_px": field.extent.size},
            "images": [
                {
                    "name": look.name,
                    "activation": look.activation,
                    "position": [look.site.row, look.site.column],
                    "centre_px": list(look.centre),
                }
                for look in field.looks
            ],
        }

    def _write_arrays(self, path: Path, field: UnitField, seen: Sequence[_Seen], effective: Empirical | None) -> None:
        arrays: dict[str, Any] = {
            "names": np.array([look.name for look in field.looks]),
            "activations": np.array([look.activation for look in field.looks], np.float32),
            "positions": np.array([look.site[1:] for look in field.looks]),
            "centres": np.array([look.centre for look in field.looks]),
            "mean": field.empirical.mean.numpy(),
            "counts": field.empirical.counts.numpy(),
            "mask": field.mask.numpy(),
        }
        # One by one: images of unlike sizes have maps of unlike sizes.
        arrays |= {f"falls_{rank:02d}": one.falls for rank, one in enumerate(seen)}
        arrays |= {"effective": effective.mean.numpy()} if effective else {}
        np.savez_compressed(path, **arrays)

    def _draw(self, name: str, field: UnitField, effective: Empirical | None) -> None:
        shown = [
            Shown(look.name, look.image, look.activation, look.falls.numpy(), self._box(look), field.segmented(look))
            for look in field.looks
        ]
        found = field.empirical
        fields = [self._mean(f"by occlusion: {field.extent.size:.0f} px of side", field.looks[0], found, field.mask)]
        if effective:
            side = side_of_share(effective.mean.numpy())
            none = torch.zeros_like(effective.counts, dtype=torch.bool)
            fields.append(self._mean(f"by gradient: {side:.0f} px of side", field.looks[0], effective, none))
        many = len(self.question.units) > 1
        title = f"{self.question.model}, {self.question.layer}, unit {field.unit}"
        unit_sheet(shown, fields, self.folder / f"{name}.png", title, self._rule(), unit=1 if many else 2)
        if many:
            rows, columns = visible(fields[0])
            mean = signed_colours(fields[0].values, fields[0].counts)[rows, columns]
            strongest = field.looks[0].activation
            self._entries.append(Entry(field.unit, strongest, field.extent.size, strip(shown, mean), f"{name}.png"))

    def _box(self, look: Look) -> _Box:
        """Return the theoretical field on an image: first row and column, height and width."""
        theory = self._theory(look)
        if theory is None:
            return 0, 0, look.image.shape[0], look.image.shape[1]
        height, width = theory.rows.size, theory.columns.size
        return look.centre[0] - (height - 1) / 2, look.centre[1] - (width - 1) / 2, height, width

    def _mean(self, name: str, look: Look, found: Empirical, mask: torch.Tensor) -> MeanField:
        top, left, height, width = self._box(look)
        box = (top - look.centre[0] // 1, left - look.centre[1] // 1, height, width) if self._theory(look) else None
        return MeanField(name, found.mean.numpy(), found.counts.numpy(), mask.numpy(), box)

    def _rule(self) -> str:
        asked = self.question
        size = f"{asked.occlusion.size} x {asked.occlusion.size}"
        return (
            f"The {asked.most} strongest of {len(self.top.seen)} images, {asked.images}. Occluder of {size} px, "
            f"{FILLS[asked.occlusion.fill]}, stride {asked.occlusion.stride}. Vermillion: the activation falls where "
            f"it is occluded; blue: it rises. Outline: at least {asked.threshold:g} of the maximum; dashed: the "
            "theoretical field; cross: where the unit looks. Rows: image with the theoretical field; its map, each on "
            "its own scale; what the outline covers."
        )


def told(units: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what came out, from the numbers of units."""
    more = [f"and {len(units) - _LINES} more units"] if len(units) > _LINES else []
    return [*map(_line, units[:_LINES]), *more]


def _line(facts: Mapping[str, Any]) -> str:
    if facts["images"][0]["activation"] <= 0:
        return f"unit {facts['unit']} is active in none of the images"
    theory, effective = facts["theoretical_px"], facts["effective_side_px"]
    said = f"in theory {theory[0]} x {theory[1]} px, " if theory else "in theory everything, "
    said += f"by gradient {effective:.0f} px, " if effective is not None else ""
    return f"unit {facts['unit']}: {said}by occlusion {facts['empirical']['side_px']:.0f} px"


def _rule(lens: Lens) -> str:
    """Say when a class counts as lost."""
    if lens.subject.dense:
        return "The score is the mean over the pixels of the class; it is lost when fewer than half of them keep it."
    return "The class is lost when another has the higher score."
