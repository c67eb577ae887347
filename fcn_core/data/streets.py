"""Drawn street scenes: the built-in data set, which needs no files and whose masks are exact.

A scene is laid out in metres (x to the right of the camera, y above the ground, z ahead) and drawn far to near; the
same calls draw image and mask. Poles, signs and pedestrians are a few pixels wide: what stride 32 cannot hold.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fcn_core.data.base import Sample
from fcn_core.settings import VOID, Classes, Streets

_NAMES = ("sky", "building", "road", "pavement", "tree", "car", "pole", "sign", "pedestrian", "fence")
_SKY, _BUILDING, _ROAD, _PAVEMENT, _TREE, _CAR, _POLE, _SIGN, _PEDESTRIAN, _FENCE = range(len(_NAMES))
# Paul Tol's "muted" scheme, which people with any colour vision can tell apart.
_RGB = (0x88CCEE, 0xDDCC77, 0xAA4499, 0xDDDDDD, 0x117733, 0x332288, 0x882255, 0xCC6677, 0x44AA99, 0x999933)
CLASSES = Classes(names=_NAMES, colours=tuple((rgb >> 16, rgb >> 8 & 255, rgb & 255) for rgb in _RGB))

_T = TypeVar("_T")
_Colour = tuple[int, ...]
_Pair = tuple[float, float]
_Point = tuple[float, float, float]
_FAR_M, _POLE_M = 70.0, 0.24
_SKIES = (((70, 130, 215), (190, 215, 240)), ((165, 172, 182), (215, 216, 220)), ((110, 120, 170), (245, 205, 165)))
_WALLS = ((176, 96, 74), (205, 185, 150), (150, 150, 155), (225, 220, 210), (130, 95, 80), (120, 135, 145))
_LEAVES = ((60, 110, 45), (85, 125, 50), (40, 85, 50), (150, 120, 40), (140, 80, 40))
_PAINTS = ((170, 30, 35), (30, 60, 130), (200, 200, 205), (40, 42, 48), (120, 125, 130), (190, 170, 60), (50, 110, 90))
_SKINS, _LAMPS = ((225, 180, 150), (150, 105, 75), (90, 60, 45)), ((200, 30, 30), (250, 245, 220))
_POSTS = ((95, 98, 100), (150, 152, 150), (55, 60, 58), (110, 85, 60))
_SIGNS = (((190, 25, 30), (240, 240, 235)), ((25, 70, 165), (235, 240, 245)), ((235, 190, 30), (35, 35, 35)))


class StreetScenes:
    """Street scenes as a `Dataset`. Each is a pure function of the seed, the split and the index."""

    classes = CLASSES

    def __init__(self, settings: Streets, split: str) -> None:
        counts = {"train": settings.num_train, "val": settings.num_val}
        if split not in counts:
            raise ValueError(f"the built-in street scenes have no split {split!r}; splits are {', '.join(counts)}")
        self.names = tuple(f"{split}-{index:05d}" for index in range(counts[split]))
        self._settings, self._stream = settings, (settings.seed, list(counts).index(split))

    def read(self, index: int) -> Sample:
        """Draw scene `index`."""
        if not 0 <= index < len(self.names):
            raise IndexError(f"no scene {index}: scenes are {self.names[0]} to {self.names[-1]}")
        rng = np.random.default_rng((*self._stream, index))
        scene = _Scene(self._settings.height, self._settings.width, rng)
        for draw in (_sky, _ground, _houses, _things, _bonnet):
            draw(scene)
        return Sample(_photograph(scene), np.array(scene.mask))

    def sequence(self, index: int) -> None:
        """Return None: no scene belongs to a video."""


class _Scene:
    """A street, the camera in it, and the image and mask that are drawn at once."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng, self.height, self.aspect = rng, height, width / height
        self.eye_m, self.horizon = rng.uniform(1.3, 1.9), rng.uniform(0.42, 0.52)
        self.axis, half = self.aspect * rng.uniform(0.4, 0.6), rng.uniform(3.0, 4.6)
        self.middle = rng.uniform(-1, 1) * (half - 1.5)
        self.kerbs = ((self.middle - half, -1), (self.middle + half, 1))
        self.pavement_m, self.visibility_m = rng.uniform(1.8, 3.5), rng.uniform(80, 400)
        self.sun_side, self.shadow = self.pick((-1, 1)), (10, 12, 25, int(rng.uniform(0, 120)))
        (self.zenith, self.haze), self.leaves = self.pick(_SKIES), self.pick(_LEAVES)
        self.image, self.mask = Image.new("RGB", (width, height), self.zenith), Image.new("L", (width, height), _SKY)
        self._image_pen, self._mask_pen = ImageDraw.Draw(self.image, "RGBA"), ImageDraw.Draw(self.mask)

    def pick(self, options: Sequence[_T]) -> _T:
        return options[int(self.rng.integers(len(options)))]

    def tone(self, *options: _Colour) -> _Colour:
        """Pick a colour and vary it."""
        drift, *jitter = (self.rng.standard_normal(4) * (16, 6, 6, 6)).tolist()
        return tuple(int(min(max(c + drift + j, 8), 247)) for c, j in zip(self.pick(options), jitter, strict=True))

    def depth(self, x: float, near: float, far: float) -> float:
        """Draw a depth at which `x` is inside the picture, evenly as seen by the camera."""
        near = max(near, abs(x) / (0.95 * (self.aspect - self.axis if x > 0 else self.axis)))
        return 1 / self.rng.uniform(1 / max(far, near), 1 / near)

    def pixel(self, x: float, y: float, z: float) -> tuple[int, int]:
        return round((self.axis + x / z) * self.height), round((self.horizon + (self.eye_m - y) / z) * self.height)

    def paint(self, outline: Sequence[tuple[int, int]], z: float, label: int | None, colour: _Colour) -> None:
        """Fill a polygon of pixels as seen at depth z; without a label it is a detail that only the image shows."""
        clear = math.exp(-z / self.visibility_m)
        hazy = [int(c * clear + air * (1 - clear)) for c, air in zip(colour, self.haze, strict=False)]
        self._image_pen.polygon(outline, (*hazy, *colour[3:]))
        if label is not None:
            self._mask_pen.polygon(outline, label)

    def face(self, corners: Sequence[_Point], label: int | None, colour: _Colour) -> None:
        """Fill a polygon in the street."""
        self.paint([self.pixel(*corner) for corner in corners], corners[0][2], label, colour)

    def strip(self, a: _Pair, b: _Pair, z: _Pair, label: int | None, colour: _Colour) -> None:
        """Fill a rectangle whose edges a and b, each (x, y), run along the street."""
        self.face([(*a, z[0]), (*b, z[0]), (*b, z[1]), (*a, z[1])], label, colour)

    def panel(self, at: _Pair, y: _Pair, width_m: float, label: int | None, colour: _Colour) -> None:
        """Fill an upright rectangle that faces the camera, at least a pixel wide, about `at`, (x, z)."""
        (left, low), (_, top) = self.pixel(at[0] - width_m / 2, y[0], at[1]), self.pixel(at[0], y[1], at[1])
        right = left + max(1, round(width_m / at[1] * self.height)) - 1
        self.paint([(left, low), (left, top), (right, top), (right, low)], at[1], label, colour)

    def disc(self, centre: _Point, radii: _Pair, sides: int | None, label: int | None, colour: _Colour) -> None:
        """Fill a regular polygon that faces the camera, or something ragged if it has no number of sides."""
        spokes = [1.0] * sides if sides else self.rng.uniform(0.55, 1, 9).tolist()
        (x, y, z), (wide, high), turn = centre, radii, 2 * math.pi / len(spokes)
        rim = [(x + wide * r * math.sin(turn * i), y + high * r * math.cos(turn * i), z) for i, r in enumerate(spokes)]
        self.face(rim, label, colour)


def _scaled(colour: _Colour, factor: float) -> _Colour:
    return tuple(int(min(max(level * factor, 0), 255)) for level in colour)


def _sky(scene: _Scene) -> None:
    """Paint sky and clouds, and the houses and bushes that close the street."""
    scene.image.paste(scene.haze, mask=Image.linear_gradient("L").resize(scene.image.size))
    for x, y in scene.rng.uniform((-100, 15), (100, 50), (scene.rng.integers(9), 2)).tolist():
        for dx, dy in scene.rng.normal(0, (8, 1.5), (4, 2)).tolist():
            scene.disc((x + dx, y + dy, 100), (9, 4), None, None, (250, 250, 250, 60))
    for x in range(-90, 90, 12):
        scene.panel((x, _FAR_M), (0, scene.rng.uniform(3, 14)), 13, _BUILDING, scene.tone(*_WALLS))
        scene.disc((x, 0, _FAR_M), (8, scene.rng.uniform(0, 9)), None, _TREE, scene.tone(scene.leaves))


def _ground(scene: _Scene) -> None:
    """Lay the pavement and, on it, the road with its marks."""
    rng, middle, ((left, _), (right, _)) = scene.rng, scene.middle, scene.kerbs
    scene.strip((-3000, 0), (3000, 0), (1, _FAR_M), _PAVEMENT, scene.tone((165, 158, 150), (145, 145, 148)))
    for z in np.arange(rng.uniform(2, 3), 16, rng.uniform(0.7, 1.5)).tolist():
        scene.strip((-3000, 0), (3000, 0), (z, z + 0.06), None, (60, 60, 60, 70))
    scene.strip((left - 0.15, 0), (right + 0.15, 0), (1, _FAR_M), _PAVEMENT, (185, 183, 178))
    scene.strip((left, 0), (right, 0), (1, _FAR_M), _ROAD, scene.tone((98, 98, 102), (115, 110, 106)))
    paint, period, filled = (225, 225, 218, int(rng.uniform(100, 230))), rng.uniform(3, 8), rng.uniform(0.3, 0.7)
    for z in np.arange(rng.uniform(1, 3), 50, period).tolist():
        scene.strip((middle - 0.1, 0), (middle + 0.1, 0), (z, z + filled * period), None, paint)
    crossing = rng.uniform(5, 45)
    for x in np.arange(left + 0.3, right - 0.5, 1.0).tolist():
        scene.strip((x, 0), (x + 0.5, 0), (crossing, crossing + 3), None, paint)


def _houses(scene: _Scene) -> None:
    """Line both sides of the street with houses and gaps, far to near, and perhaps put a fence before them."""
    rng = scene.rng
    for kerb, side in scene.kerbs:
        x, start, boards = kerb + side * scene.pavement_m, rng.uniform(4, 16), scene.tone(*_POSTS, *_WALLS[1:4])
        ends = (np.cumsum(rng.uniform(7, 18, 7)) + rng.uniform(-4, 4)).tolist()
        for z in zip(ends[-2::-1], ends[:0:-1], strict=True):
            if rng.random() < 0.75:
                _house(scene, x + side * rng.uniform(0, 2), side, z)
        if rng.random() < 0.6:
            top, end = rng.uniform(0.9, 1.7), start + rng.uniform(6, 25)
            scene.strip((x, 0), (x, top), (start, end), _FENCE, boards)
            for near in np.arange(start, end, 1.6).tolist():
                scene.strip((x, 0), (x, top + 0.2), (near, near + 0.25), _FENCE, _scaled(boards, 0.6))


def _house(scene: _Scene, x: float, side: int, z: _Pair) -> None:
    rng, wall, middle, back = scene.rng, scene.tone(*_WALLS), x + side * 4, x + side * 8
    lit, dim = (_scaled(wall, 0.75), wall) if side == scene.sun_side else (wall, _scaled(wall, 0.75))
    top, ridge_m, height, pitch = rng.uniform((5, 0.3, 1.0, 1.8), (14, 3.0, 1.7, 3.2)).tolist()
    scene.strip((x, top), (middle, top + ridge_m), z, _BUILDING, scene.tone((120, 60, 50), (75, 75, 85)))
    scene.face([(x, top, z[0]), (middle, top + ridge_m, z[0]), (back, top, z[0])], _BUILDING, dim)
    scene.panel((middle, z[0]), (0, top), 8, _BUILDING, dim)
    scene.strip((x, 0), (x, top), z, _BUILDING, lit)
    if side == scene.sun_side:
        scene.strip((x, 0), (x - side * top * 0.6, 0), z, None, scene.shadow)
    glass, pitch = scene.tone((52, 62, 74), (150, 165, 180), (90, 80, 60)), pitch * max(1, z[0] / 25)
    for low in np.arange(0.9, top - height, rng.uniform(2.5, 3.3)).tolist():
        for near in np.arange(z[0] + 0.5, z[1] - pitch, pitch).tolist():
            scene.strip((x, low), (x, low + height), (near, near + 0.6 * pitch), None, glass)
        for across in (1.5, 4.0, 6.5):
            scene.panel((x + side * across, z[0]), (low, low + height), 1.2, None, glass)


def _things(scene: _Scene) -> None:
    """Put up whatever stands in the street: all shadows first, then the things from far to near."""
    rng, ((left, _), (right, _)) = scene.rng, scene.kerbs
    lanes = [x for x in (left + 1.1, scene.middle - 1.2, scene.middle + 1.2, right - 1.1) if rng.random() < 0.4]
    queues = [(x, scene.depth(x, 7.5, 30) + 6.5 * np.arange(rng.integers(1, 4))) for x in lanes]
    placed = [(z, x, _car) for x, queue in queues for z in queue.tolist()]
    kinds = ((_tree, 0, 4, 25), (_lamp, 1, 4, 16), (_signpost, 2, 5, 14), (_pedestrian, 3, 7, 20), (_bin, 0, 2, 20))
    for draw, least, most, far_m in kinds:
        for _ in range(rng.integers(least, most + 1)):
            kerb, side = scene.pick(scene.kerbs)
            x = kerb + side * rng.uniform(0.4, scene.pavement_m - 0.3)
            placed.append((scene.depth(x, 7, far_m), x, draw))
    placed.sort(key=lambda thing: -thing[0])
    for z, x, _ in placed:
        end = x - scene.sun_side * 3
        scene.face([(x - 0.3, 0, z), (x + 0.3, 0, z), (end + 0.3, 0, z + 1), (end, 0, z + 1)], None, scene.shadow)
    for z, x, draw in placed:
        draw(scene, x, z)


def _tree(scene: _Scene, x: float, z: float) -> None:
    rng, height, radius = scene.rng, scene.rng.uniform(3.0, 5.5), scene.rng.uniform(1.1, 2.0)
    scene.panel((x, z), (0, height), rng.uniform(0.2, 0.4), _TREE, scene.tone((85, 65, 48)))
    leaves, spots = scene.tone(scene.leaves), np.clip(rng.standard_normal((24, 2)), -1.8, 1.8) * 0.45 * radius
    for dx, dy in sorted(spots.tolist(), key=lambda spot: spot[1]):
        colour = _scaled(leaves, 1 + 0.2 * dy / radius + rng.normal(0, 0.12))
        scene.disc((x + dx, height + dy, z), (0.5 * radius, 0.45 * radius), None, _TREE, colour)


def _lamp(scene: _Scene, x: float, z: float) -> None:
    height, metal = scene.rng.uniform(4, 8), scene.tone(*_POSTS)
    scene.panel((x, z), (0, height), _POLE_M, _POLE, metal)
    if scene.rng.random() < 0.6:
        scene.panel((x - math.copysign(0.6, x), z), (height - 0.2, height), 1.4, _POLE, metal)


def _signpost(scene: _Scene, x: float, z: float) -> None:
    height, size, sides = scene.rng.uniform(2.2, 3), scene.rng.uniform(0.35, 0.5), scene.pick((3, 4, 12))
    scene.panel((x, z), (0, height), _POLE_M, _POLE, scene.tone(*_POSTS))
    for label, radius, colour in zip((_SIGN, None), (size, 0.6 * size), scene.pick(_SIGNS), strict=True):
        scene.disc((x, height, z), (radius, radius), sides, label, colour)


def _pedestrian(scene: _Scene, x: float, z: float) -> None:
    rng, size, trousers = scene.rng, scene.rng.uniform(0.85, 1.1), scene.tone(*_PAINTS)
    x, step = x - math.copysign(rng.choice((0, 0, 0, 3)), x), rng.uniform(0.05, 0.2)  # some cross the road
    for leg in (x - step, x + step):
        scene.panel((leg, z), (0, 0.85 * size), 0.17, _PEDESTRIAN, trousers)
    scene.panel((x, z), (0.75 * size, 1.45 * size), 0.5 * size, _PEDESTRIAN, scene.tone(*_PAINTS))
    scene.disc((x, 1.58 * size, z), (0.15, 0.16), 8, _PEDESTRIAN, scene.tone(*_SKINS))


def _bin(scene: _Scene, x: float, z: float) -> None:
    scene.panel((x, z), (0, 0.9), 0.6, VOID, scene.tone(*_PAINTS))
    scene.panel((x, z), (0.9, 1.0), 0.7, VOID, scene.tone(*_POSTS))


def _car(scene: _Scene, x: float, z: float) -> None:
    paint, belt, roof = scene.tone(*_PAINTS), scene.rng.uniform(0.8, 0.95), scene.pick((1.4, 1.5, 1.7, 2.3))
    dark, end, flank = _scaled(paint, 0.7), z + scene.rng.uniform(3.8, 4.8), x - math.copysign(0.88, x)
    cabin, glass, tyre, lamp = x + 0.8 * (flank - x), (52, 62, 74), (25, 25, 27), scene.pick(_LAMPS)
    scene.strip((flank, 0.25), (flank, belt), (z, end), _CAR, dark)
    for axle in (z + 0.8, end - 0.8):
        scene.disc((flank, 0.3, axle), (0.35 * abs(x) / axle, 0.3), 8, _CAR, tyre)
    scene.panel((x, z), (0, 0.35), 1.7, _CAR, tyre)
    scene.panel((x, z), (0.25, belt), 1.76, _CAR, paint)
    for inset, label, edge, front in ((0.0, _CAR, dark, paint), (0.1, None, glass, glass)):
        top, low, high, start = roof - inset, 0.88 - inset, 0.704 - inset, z + 4 * inset
        window = [(flank, belt, start), (cabin, top, z + 0.8), (cabin, top, end - 1.3), (flank, belt, end - 0.6)]
        screen = [(x - low, belt, z), (x - high, top, z + 0.8), (x + high, top, z + 0.8), (x + low, belt, z)]
        scene.face(window, label, edge)
        scene.face(screen, label, front)
    for side in (x - 0.7, x + 0.7):
        scene.panel((side, z), (belt - 0.28, belt - 0.1), 0.26, None, lamp)


def _bonnet(scene: _Scene) -> None:
    """Draw, in some scenes, the camera's own car along the lower edge."""
    if scene.rng.random() < 0.4:
        centre = (scene.aspect * scene.rng.uniform(0.4, 0.6) - scene.axis, scene.eye_m + scene.horizon - 1, 1)
        scene.disc(centre, (0.65 * scene.aspect, scene.rng.uniform(0.05, 0.12)), 24, VOID, scene.tone(*_PAINTS))


def _photograph(scene: _Scene) -> NDArray[np.uint8]:
    """Return the image as a camera has it: a little soft, tinted, unevenly lit and noisy."""
    rng, soft = scene.rng, scene.image.filter(ImageFilter.GaussianBlur(scene.rng.uniform(0, 0.6)))
    patches = Image.fromarray(rng.normal(1, 0.035, (9, 12)).astype(np.float32))
    light = np.asarray(patches.resize(soft.size, Image.Resampling.BICUBIC))[:, :, None]
    tint = (rng.uniform(0.8, 1.2) * rng.normal(1, 0.04, 3)).astype(np.float32)
    grain = rng.standard_normal((*light.shape[:2], 3), np.float32) * np.float32(rng.uniform(2, 8))
    return np.asarray(np.clip(np.asarray(soft) * light * tint + grain, 0, 255), np.uint8)
