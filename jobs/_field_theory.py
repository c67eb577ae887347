"""Theoretical receptive fields of a network, as a table and a figure."""

import json
import tempfile
from fractions import Fraction
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fcn_core import storage
from fcn_core.figures.receptive_fields import FieldRow, field_sizes
from fcn_core.receptive_field.operations import Kind
from fcn_core.receptive_field.subject import Subject
from fcn_core.receptive_field.theory import LayerField, receptive_fields
from jobs._console import Console
from jobs._evaluations import file_name

IMAGE_PX = 224
"""Side of the image that networks are followed on that take any size."""


def show_theory(subject: Subject, root: str, console: Console) -> str:
    """Print the receptive field of each layer, and keep them as a picture and as numbers below `root`.

    Layers that look at single units, such as BatchNorm and ReLU, are left out: they see what the one before sees.

    Raises:
        ValueError: the network cannot be followed.
    """
    side = subject.view.size or IMAGE_PX
    layers = [layer for layer in receptive_fields(subject.network, (side, side)) if _counts(layer)]
    console.rich.print(_table(subject, layers))
    with tempfile.TemporaryDirectory() as name:
        picture = Path(name) / "theory.png"
        field_sizes([_row(layer) for layer in layers], picture, side, f"{subject.name}: receptive fields in theory")
        url = storage.join(root, f"{file_name(subject.name)}-theory")
        storage.write_bytes(f"{url}.png", picture.read_bytes())
    numbers = {"model": subject.name, "image_px": side, "layers": [_facts(layer) for layer in layers]}
    storage.write_bytes(f"{url}.json", (json.dumps(numbers, indent=1) + "\n").encode())
    console.say(f"drawn        {url}.png")
    return f"{url}.png"


def _counts(layer: LayerField) -> bool:
    return len(layer.shape) == 3 and layer.kind not in (Kind.INPUT, Kind.POINTWISE)


def _table(subject: Subject, layers: list[LayerField]) -> Table:
    names = ("units", "sees", "stride", "first at")
    numbers = (Column(name, justify="right", no_wrap=True) for name in names)
    # Where the width does not do, names are folded: a number that is cut off would be a wrong one.
    layer, kind = Column("layer", overflow="fold"), Column("kind", overflow="fold")
    table = Table(layer, kind, *numbers, box=SIMPLE_HEAD, title=f"{subject.name}: what a unit can see")
    table.caption = "in pixels; first at: the centre of what the first unit sees"
    for one in layers:
        fields = (one.rows, one.columns)
        table.add_row(
            one.name,
            str(one.kind),
            " x ".join(map(str, one.shape[1:])),
            _both(*("everything" if field.everywhere else str(field.size) for field in fields)),
            _both(*(_decimal(field.stride) for field in fields)),
            _both(*(_decimal(field.offset) for field in fields)),
        )
    return table


def _both(rows: str, columns: str) -> str:
    """Return what holds for rows and for columns, once where they agree."""
    return rows if rows == columns else f"{rows} x {columns}"


def _decimal(number: Fraction) -> str:
    return f"{float(number):g}"


def _row(layer: LayerField) -> FieldRow:
    field = max(layer.rows, layer.columns, key=lambda one: one.size)
    return FieldRow(layer.name, field.size, float(field.stride), field.smallest)


def _facts(layer: LayerField) -> dict[str, object]:
    axes = {
        name: {
            "size_px": field.size,
            "stride_px": float(field.stride),
            "first_centre_px": float(field.offset),
            "smallest_px": field.smallest,
            "everywhere": field.everywhere,
        }
        for name, field in (("rows", layer.rows), ("columns", layer.columns))
    }
    return {"layer": layer.name, "kind": str(layer.kind), "shape": layer.shape, **axes}
