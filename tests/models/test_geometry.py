import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fcn_core.models.fcn import FCN
from fcn_core.models.geometry import PIXELS, Grid, aligned_upsampling, crop, crop_offset
from fcn_core.settings import Model, Trunk

TRUNKS: list[Trunk] = ["vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"]


def built(model: Model) -> FCN:
    with torch.device("meta"):
        return FCN(model, num_classes=2)


def kernels(network: FCN) -> list[tuple[int, int]]:
    layers = [layer for layer in network.upscores.values() if isinstance(layer, nn.ConvTranspose2d)]
    return [(layer.kernel_size[0], layer.stride[0]) for layer in layers]


def test_the_published_offsets_come_out_of_the_reference_geometry() -> None:
    networks = {stride: built(Model(stride=stride, geometry="reference")) for stride in (32, 16, 8)}
    assert {stride: network.crops for stride, network in networks.items()} == {
        32: {1: 19},
        16: {16: 5, 1: 27},
        8: {16: 5, 8: 9, 1: 31},
    }
    assert {stride: kernels(network) for stride, network in networks.items()} == {
        32: [(64, 32)],
        16: [(4, 2), (32, 16)],
        8: [(4, 2), (4, 2), (16, 8)],
    }


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_same_padding_needs_no_crop(trunk: Trunk, stride: int) -> None:
    network = built(Model.model_validate({"trunk": trunk, "stride": stride}))
    assert set(network.crops.values()) == {0}
    even = trunk.startswith("vgg16")
    assert all(kernel == (2 * factor if even else 2 * factor - 1) for kernel, factor in kernels(network))


def test_the_grids_of_the_trunks_are_known() -> None:
    assert built(Model()).trunk.grids == {8: Grid(8, 3.5, 44), 16: Grid(16, 7.5, 100), 32: Grid(32, 15.5, 404)}
    reference = built(Model(geometry="reference")).trunk.grids
    assert reference == {8: Grid(8, -95.5, 44), 16: Grid(16, -91.5, 100), 32: Grid(32, 12.5, 404)}
    fields = {"resnet18": (99, 211, 435), "resnet34": (179, 547, 899), "resnet50": (91, 267, 427)}
    for trunk in TRUNKS[2:]:
        grids = {stride: Grid(stride, 0, field) for stride, field in zip((8, 16, 32), fields[trunk], strict=True)}
        assert built(Model(trunk=trunk)).trunk.grids == grids


LAYER = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
"""Kernel, stride and padding."""


@settings(deadline=None, max_examples=60)
@given(st.lists(LAYER, min_size=1, max_size=3))
def test_a_unit_lies_in_the_middle_of_the_pixels_that_it_sees(layers: list[tuple[int, int, int]]) -> None:
    convolutions = [nn.Conv2d(1, 1, kernel, stride, padding) for kernel, stride, padding in layers]
    image = torch.zeros(1, 1, 96, 96, dtype=torch.float64, requires_grad=True)
    features = image
    for convolution in convolutions:
        nn.init.ones_(convolution.weight)
        features = convolution.double()(features)
    row, column = features.shape[2] // 2, features.shape[3] // 3
    features[0, 0, row, column].backward()
    assert image.grad is not None
    seen = image.grad[0, 0].nonzero()
    first, last = seen.amin(0), seen.amax(0)
    assume(first.min() > 0 and last.max() < 95)
    grid = PIXELS.after(convolutions)
    centres = [grid.stride * unit + grid.offset for unit in (row, column)]
    assert centres == ((first + last) / 2).tolist()
    assert [grid.field] * 2 == (last - first + 1).tolist()


@settings(deadline=None, max_examples=60)
@given(LAYER, st.sampled_from([Grid(32, 15.5), Grid(16, -91.5), Grid(8, 0)]))
def test_a_unit_is_spread_around_its_own_place(layer: tuple[int, int, int], coarse: Grid) -> None:
    kernel, stride, padding = layer
    spread = nn.ConvTranspose2d(1, 1, kernel, stride, padding, bias=False)
    nn.init.ones_(spread.weight)
    column = torch.zeros(1, 1, 9, 9)
    column[..., 4] = 1
    reached = spread(column).sum((0, 1, 2)).nonzero()
    fine = coarse.upsampled(kernel, stride, padding)
    assert fine.stride == coarse.stride / stride
    assert fine.stride * reached.double().mean() + fine.offset == pytest.approx(coarse.stride * 4 + coarse.offset)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(-20, 20), st.sampled_from([1.0, 8.0]))
def test_aligned_upsampling_reaches_the_fine_grid_or_says_that_it_cannot(
    factor: int, half_units: int, stride: float
) -> None:
    fine, coarse = Grid(stride, 3.5), Grid(stride * factor, 3.5 + stride * half_units / 2)
    if not 0 <= half_units < factor:
        with pytest.raises(ValueError, match="cannot be aligned"):
            aligned_upsampling(coarse, fine)
        return
    shape = aligned_upsampling(coarse, fine)
    assert coarse.upsampled(shape.kernel, shape.factor, shape.padding)[:2] == fine[:2]
    assert shape.kernel == 2 * factor - (half_units % 2 == 0)
    layer = nn.ConvTranspose2d(1, 1, shape.kernel, shape.factor, shape.padding, shape.output_padding)
    assert layer(torch.zeros(1, 1, 3, 5)).shape == (1, 1, 3 * factor, 5 * factor)


@pytest.mark.parametrize(
    ("coarse", "fine", "reason"),
    [
        (Grid(32, 15.5), Grid(24, 11.5), "the ratio of strides would be 1.33"),
        (Grid(8, 3.5), Grid(16, 7.5), "the ratio of strides would be 0.5"),
        (Grid(16, 7.5), Grid(8, 3.25), "the padding of the transposed convolution would be"),
        (Grid(16, 7.5), Grid(8, -100.5), "the padding of the transposed convolution would be -"),
        (Grid(16, 12), Grid(8, 4), "the centres lie 1.0 units apart"),
    ],
)
def test_grids_that_no_kernel_joins_are_refused(coarse: Grid, fine: Grid, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*: these two feature maps cannot be aligned"):
        aligned_upsampling(coarse, fine)


@pytest.mark.parametrize(
    ("larger", "target", "reason"),
    [
        (Grid(8, 0), Grid(16, 0), "a map of stride 8 to one of stride 16"),
        (Grid(8, 0), Grid(8, 4), "the crop offset would be 0.5"),
        (Grid(8, 0), Grid(8, -8), "the crop offset would be -1"),
    ],
)
def test_a_crop_is_a_whole_number_of_units_to_the_inside(larger: Grid, target: Grid, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        crop_offset(larger, target)


def test_a_crop_takes_what_lies_on_the_target() -> None:
    maps = torch.arange(63).view(1, 7, 9)
    offset = crop_offset(Grid(4, -9), Grid(4, -1))
    assert offset == 2
    assert crop(maps, offset, 3, 5).tolist() == maps[:, 2:5, 2:7].tolist()
    assert crop(maps, 0, 7, 9) is maps


def test_a_layer_without_fixed_padding_has_no_grid() -> None:
    with pytest.raises(TypeError, match="padding 'same' has no fixed grid"):
        PIXELS.after([nn.Conv2d(1, 1, 3, padding="same")])
