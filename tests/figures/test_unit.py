from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn_core.figures.gallery import Entry, gallery, strip
from fcn_core.figures.minimal import Reduced, minimal_images, outlined
from fcn_core.figures.unit import MeanField, Shown, dimmed_outside, fitted, signed_colours, unit_sheet, visible
from tests.figures.looking import assert_readable, read, words

RNG = np.random.default_rng(0)
RULE = "Measured by an occluder of 11 x 11 px over the ten strongest of many images, as the paper has it. " * 3


def shown(number: int, height: int = 48, width: int = 64, name: str = "") -> Shown:
    image = RNG.integers(0, 256, (height, width, 3), np.uint8)
    covered = np.zeros((height, width), np.bool_)
    covered[10:20, 5:30] = True
    falls = RNG.normal(size=(height, width))
    return Shown(name or f"image-{number:04d}", image, 12.345 / number, falls, (-10, 20, 43, 43), covered)


def field(name: str = "by occlusion", half: tuple[int, int] = (47, 63)) -> MeanField:
    shape = (2 * half[0] + 1, 2 * half[1] + 1)
    rows, columns = np.ogrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1]
    values = np.exp(-(rows**2 + columns**2) / 200.0)
    counts = np.ones(shape, np.int64)
    counts[:5] = 0
    return MeanField(name, values, counts, values > 0.5, (-21, -21, 43, 43))


@pytest.mark.parametrize("count", [1, 5, 6, 10])
def test_any_number_of_images_is_readable(count: int, tmp_path: Path, saved: list[Figure]) -> None:
    images = [
        shown(number, name="a/very/long/path/of/an/image$^{.png" * (number % 2)) for number in range(1, count + 1)
    ]
    unit_sheet(images, [field(), field("by gradient")], tmp_path / "unit.png", "resnet18, layer4, unit 10", RULE)
    assert_readable(saved[-1])
    said = words(saved[-1])
    assert "resnet18, layer4, unit 10" in said
    assert "12.35" in said or "12.34" in said
    assert said.count("pixels from where the unit looks") == 2


def test_images_and_fields_of_any_shape_are_drawn(tmp_path: Path, saved: list[Figure]) -> None:
    images = [shown(1, 64, 20), shown(2, 20, 64), shown(3, 3, 3)]
    nothing = MeanField("nothing", np.zeros((5, 9)), np.zeros((5, 9), np.int64), np.zeros((5, 9), np.bool_), None)
    for one in (nothing, field(half=(90, 10)), field(half=(10, 90))):
        unit_sheet(images, [one], tmp_path / "unit.png", "unit 1")
        assert_readable(saved[-1])
        assert read(tmp_path / "unit.png").shape[1] == 1600


def test_equal_sheets_are_equal_files(tmp_path: Path) -> None:
    image, mean = shown(1), field()
    for name in ("a.png", "b.png"):
        unit_sheet([image], [mean], tmp_path / name, "unit 1", RULE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_sheet_needs_images_and_fields(tmp_path: Path) -> None:
    for images, fields in (([], [field()]), ([shown(1)], []), ([shown(1)], [field()] * 3)):
        with pytest.raises(ValueError, match="at least one image and one or two fields"):
            unit_sheet(images, fields, tmp_path / "unit.png")


def test_zero_is_white_falls_are_red_and_rises_blue() -> None:
    values = np.array([[0.0, 2.0, -2.0, 1.0]])
    white, falls, rises, half = signed_colours(values, np.array([[1, 1, 1, 0]]))[0].astype(int)
    assert white.min() >= 253
    assert falls[0] > falls[2] + 50
    assert rises[2] > rises[0] + 50
    assert half.tolist() == [216, 216, 216], "what no image shows is grey"
    assert (signed_colours(np.zeros((2, 2))) >= 253).all()


def test_only_what_is_seen_is_shown_about_the_middle() -> None:
    counts = np.zeros((9, 11), np.int64)
    counts[3:5, 4:9] = 1
    seen = MeanField("", np.zeros((9, 11)), counts, counts > 0, None)
    assert visible(seen) == (slice(3, 6), slice(2, 9))
    assert visible(seen._replace(counts=0 * counts)) == (slice(0, 9), slice(0, 11))
    assert visible(seen._replace(box=(0, 0, 40, 3))) == (slice(3, 6), slice(3, 8)), (
        "little beyond the theoretical field"
    )


def test_what_is_not_covered_is_pale() -> None:
    image = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    covered = np.array([[True, False], [False, False]])
    found = dimmed_outside(image, covered)
    assert found[0, 0].tolist() == [200, 0, 0]
    assert len(set(found[1, 1].tolist())) == 1


def test_images_are_fitted_in_proportion() -> None:
    image = RNG.integers(0, 256, (30, 60, 3), np.uint8)
    assert fitted(image, 100, 100).shape == (50, 100, 3)
    assert fitted(image, 10, 100).shape == (10, 20, 3)


def reduced(lost: bool) -> Reduced:
    image = shown(1).image
    segments = np.repeat(np.arange(4), 12)[:, None].repeat(64, 1)
    return Reduced("image", "car", image, segments, segments > 2, (0.9, 0.95, 0.5, 0.123456), lost)


def test_minimal_images_are_readable_and_say_what_is_left(tmp_path: Path, saved: list[Figure]) -> None:
    rows = [reduced(lost=True), reduced(lost=False), reduced(lost=True)._replace(label="a very long name " * 9)]
    minimal_images(rows, tmp_path / "minimal.png", "resnet18: minimal images", RULE, "probability")
    assert_readable(saved[-1])
    said = words(saved[-1])
    assert "car: 25% of the pixels, 2 segments are left" in said
    assert "car: kept when all segments are gone" in said
    assert "probability" in said
    with pytest.raises(ValueError, match="at least one"):
        minimal_images([], tmp_path / "minimal.png")


def test_borders_of_segments_are_white() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    segments = np.array([[0, 0, 1, 1]] * 4)
    assert (outlined(image, segments)[:, 1] == 255).all()
    assert not outlined(image, segments)[:, [0, 2, 3]].any()


def test_a_gallery_is_one_page_without_network() -> None:
    tiles = strip([shown(number) for number in (1, 2)], signed_colours(field().values))
    assert tiles.shape == (112, 692, 3)
    entries = [Entry(3, 2.5, 40, tiles, "layer4-3.png"), Entry(11, 0.0, 0, tiles, 'a"b.png')]
    page = gallery(entries, "resnet18 <layer4>", "a & b")
    assert "resnet18 &lt;layer4&gt;" in page
    assert "a &amp; b" in page
    assert 'href="a&quot;b.png"' in page
    assert "never active" in page
    assert page.count("data:image/jpeg;base64,") == page.count("<li ") == 2
    assert not {"http", "<link", 'src="layer'} & set(page.split())
    assert "://" not in page
