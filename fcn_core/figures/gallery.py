"""A page to browse what many units see: one HTML file that needs no network and no file beside it."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from fcn_core.figures.unit import Pixels, Shown, dimmed_outside, fitted

_SIDE_PX, _GAP_PX = 112, 4
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 1.5rem auto; max-width: 76rem; padding: 0 1rem; }
header p { max-width: 60rem; opacity: .8; }
form { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 36rem), 1fr)); padding: 0; }
li { list-style: none; }
img { display: block; height: auto; max-width: 100%; }
a { color: inherit; }
small { opacity: .8; }
"""
_SCRIPT = """
const list = document.querySelector("ol"), units = [...list.children], form = document.forms[0];
function arrange() {
  const key = form.order.value, text = form.unit.value.trim();
  const value = unit => Number(unit.dataset[key]) * (key === "unit" ? 1 : -1);
  units.sort((a, b) => value(a) - value(b) || a.dataset.unit - b.dataset.unit);
  for (const unit of units) unit.hidden = text !== "" && unit.dataset.unit !== text;
  list.append(...units);
}
form.addEventListener("input", arrange);
form.addEventListener("submit", event => event.preventDefault());
"""


class Entry(NamedTuple):
    """A unit of the gallery."""

    unit: int
    activation: float
    """Its strongest."""
    side_px: float
    """Of a square as large as its field."""
    strip: Pixels
    """(h, w, 3), of `strip`."""
    link: str
    """Address of its sheet, relative to the page."""


def strip(images: Sequence[Shown], mean: Pixels, most: int = 5) -> Pixels:
    """Put the mean field, as colours (H, W, 3), and the strongest images with what it covers side by side."""
    tiles = [mean, *(dimmed_outside(shown.image, shown.covered) for shown in images[:most])]
    width = (_SIDE_PX + _GAP_PX) * (most + 1) - _GAP_PX
    page = np.full((_SIDE_PX, width, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        small = fitted(tile, _SIDE_PX, _SIDE_PX)
        left = number * (_SIDE_PX + _GAP_PX)
        page[: small.shape[0], left : left + small.shape[1]] = small
    return page


def gallery(entries: Sequence[Entry], title: str, rule: str) -> str:
    """Return a page with the units in their order, which can be sorted and searched."""
    items = "\n".join(map(_item, entries))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
<p>{html.escape(rule)}</p>
<p>Left: the mean receptive field, vermillion where occlusion makes the activation fall. Then the strongest images, pale
where the field does not reach. A unit leads to its sheet.</p>
</header>
<form>
<label>order <select name="order">
<option value="unit">by number</option>
<option value="activation">strongest first</option>
<option value="side">largest field first</option>
</select></label>
<label>unit <input name="unit" inputmode="numeric" size="6" placeholder="all"></label>
</form>
<ol>
{items}
</ol>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _item(entry: Entry) -> str:
    file = io.BytesIO()
    Image.fromarray(entry.strip).save(file, "JPEG", quality=82)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = entry.strip.shape[:2]
    facts = (
        f"strongest {entry.activation:.4g}, field {entry.side_px:.0f} px" if entry.activation > 0 else "never active"
    )
    return (
        f'<li data-unit="{entry.unit}" data-activation="{entry.activation:.6g}" data-side="{entry.side_px:.6g}">'
        f'<a href="{html.escape(entry.link)}">unit {entry.unit}</a> <small>{facts}</small>'
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" loading="lazy" '
        f'alt="mean field and strongest images of unit {entry.unit}"></li>'
    )
