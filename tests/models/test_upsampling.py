import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fcn_core.models.geometry import PIXELS, Grid, aligned_upsampling, unpadded_upsampling
from fcn_core.models.upsampling import bilinear_kernel, bilinear_upsampling

FACTORS = [1, 2, 3, 4, 8, 16, 32]


def apart(factor: int, channels: int = 2) -> nn.ConvTranspose2d:
    """Upsample from the middle of blocks of pixels, as after 2x2 poolings."""
    shape = aligned_upsampling(Grid(factor, (factor - 1) / 2), PIXELS)
    return bilinear_upsampling(channels, shape, learned=False).double()


def coinciding(factor: int, channels: int = 2) -> nn.ConvTranspose2d:
    """Upsample from every so manieth pixel, as after strided convolutions."""
    return bilinear_upsampling(channels, aligned_upsampling(Grid(factor, 0), PIXELS), learned=False).double()


def maps(height: int = 4, width: int = 6) -> Tensor:
    return torch.randn(3, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_kernel_of_the_published_networks() -> None:
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(4, 2), line.outer(line))
    assert bilinear_kernel(64, 32).sum() == 32**2


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_kernels_of_even_size_are_bilinear_interpolation(factor: int) -> None:
    layer = apart(factor)
    assert layer.kernel_size == (2 * factor, 2 * factor)
    expected = functional.interpolate(maps(), scale_factor=factor, mode="bilinear", align_corners=False)
    # Nearer to the border than the outermost centres there is nothing to interpolate between.
    inside = slice(factor // 2, -(factor // 2))
    torch.testing.assert_close(layer(maps())[..., inside, inside], expected[..., inside, inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
def test_kernels_of_odd_size_are_linear_between_the_units_themselves(factor: int) -> None:
    layer = coinciding(factor)
    assert layer.kernel_size == (2 * factor - 1, 2 * factor - 1)
    size = (3 * factor + 1, 5 * factor + 1)
    expected = functional.interpolate(maps(), size=size, mode="bilinear", align_corners=True)
    upsampled = layer(maps())
    assert upsampled.shape == (3, 2, 4 * factor, 6 * factor)
    # Kernels are kept in float32, in which a third is not exact.
    torch.testing.assert_close(upsampled[..., : size[0], : size[1]], expected, rtol=0, atol=1e-6)
    assert torch.equal(upsampled[..., ::factor, ::factor], maps())


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_a_constant_stays_constant_but_for_the_border(factor: int) -> None:
    ones = torch.ones(1, 2, 3, 4, dtype=torch.float64)
    half = factor // 2
    for upsampled, border in (
        (apart(factor)(ones), slice(half, -half)),
        (coinciding(factor)(ones), slice(0, 1 - factor)),
    ):
        assert (upsampled[..., border, border] == 1).all()
        assert (upsampled[..., -1, :] < 1).all()
        assert upsampled.min() > 0


def test_without_padding_the_map_grows_by_the_overhang_of_the_kernel() -> None:
    layer = bilinear_upsampling(2, unpadded_upsampling(8), learned=False).double()
    assert torch.equal(layer(maps())[..., 4:-4, 4:-4], apart(8)(maps()))


def test_channels_do_not_mix() -> None:
    layer = apart(4, channels=5)
    kernel = bilinear_kernel(8, 4).double()
    for into in range(5):
        for out in range(5):
            assert torch.equal(layer.weight[into, out], kernel if into == out else torch.zeros_like(kernel))
    assert layer.bias is None


@pytest.mark.parametrize("learned", [False, True])
def test_a_kernel_learns_if_told_so(learned: bool) -> None:
    assert bilinear_upsampling(1, unpadded_upsampling(2), learned=learned).weight.requires_grad is learned
