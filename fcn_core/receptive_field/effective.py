"""How much each pixel counts for a unit: the effective receptive field.

After W. Luo, Y. Li, R. Urtasun and R. Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks", NeurIPS 2016: the size of the gradient of a unit with respect to each pixel, averaged over images. It is
zero outside the theoretical field, largest about its middle, and falls off like a Gaussian.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcn_core.receptive_field.graph import Graph
from fcn_core.receptive_field.operations import Pair

TWO_SIGMA = 0.9545
"""What two standard deviations of a Gaussian hold along a line; the paper's measure starts from it."""


def effective_field(
    graph: Graph, images: Iterable[Tensor], unit: Pair | None = None, channel: int | None = None
) -> NDArray[np.float64]:
    """Return the mean over images of |d unit / d pixel|, summed over the image's channels, as (H, W).

    Args:
        graph: of the network, up to the unit's layer.
        images: (C, H, W) each, preprocessed, of the size of the graph, on the network's device.
        unit: its row and column; the middle of the map by default.
        channel: of the unit; all together by default, each with the weight 1, as in the paper.

    Raises:
        ValueError: there is no such unit, an image has another size, or there is none.
    """
    channels, (rows, columns) = graph.nodes[-1].shape[0], graph.nodes[-1].extents
    row, column = unit or (rows // 2, columns // 2)
    if not (0 <= row < rows and 0 <= column < columns and (channel is None or 0 <= channel < channels)):
        shape = f"{channels} channels of {rows} x {columns} units"
        raise ValueError(f"{graph.nodes[-1].name} has {shape}, so there is no unit at {(channel, row, column)}")
    total = torch.zeros(graph.nodes[0].extents, dtype=torch.float64)
    count = 0
    for image in images:
        total += _gradient(graph, image, (row, column), channel)
        count += 1
    if not count:
        raise ValueError("an effective receptive field is a mean over images, and there is none")
    return (total / count).numpy()


def side_of_share(field: NDArray[np.float64], share: float = TWO_SIGMA) -> float:
    """Return the side, in pixels, of a square as large as the fewest pixels that hold a share of the field's mass."""
    strongest = np.sort(field, axis=None)[::-1].cumsum()
    return float(np.sqrt(np.searchsorted(strongest, share * strongest[-1]) + 1)) if strongest[-1] > 0 else 0.0


def side_above(field: NDArray[np.float64], fraction: float = 1 - TWO_SIGMA) -> float:
    """Return the side, in pixels, of a square as large as all pixels above a fraction of the field's largest value.

    The paper's measure, which takes the value at the centre for the largest; in networks with strides it need not be.
    """
    return float(np.sqrt(np.count_nonzero(field > fraction * field.max())))


def _gradient(graph: Graph, image: Tensor, unit: Pair, channel: int | None) -> Tensor:
    if tuple(image.shape) != graph.nodes[0].shape:
        raise ValueError(f"the graph is that of images {graph.nodes[0].shape}, not {tuple(image.shape)}")
    pixels = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = graph.outputs(pixels[None])[-1][0]
        values = output[:, unit[0], unit[1]] if output.dim() == 3 else output
        value = values.sum() if channel is None else values[channel]
        (gradient,) = torch.autograd.grad(value, pixels)
    return gradient.abs().sum(0).to("cpu", torch.float64)
