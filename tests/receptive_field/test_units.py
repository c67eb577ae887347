import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fcn_core.models.classifiers import build_classifier
from fcn_core.receptive_field.occlusion import Occlusion, Site
from fcn_core.receptive_field.units import Found, Geometry, Look, UnitField

OCCLUSION = Occlusion(size=1, stride=1)


def test_a_unit_looks_at_the_centre_of_what_it_can_see() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 2, stride=2), nn.Conv2d(2, 2, 3))
    geometry = Geometry(network, "1")
    assert geometry.centre(Site(0, 0, 1), (16, 20), (6, 8)) == (2.5, 4.5)
    field = geometry.field((16, 20))
    assert field is not None
    assert (field.rows.size, field.shape) == (6, (2, 6, 8))
    assert geometry.field((16, 20)) is field


def test_a_unit_that_sees_everything_looks_at_its_place_in_proportion() -> None:
    geometry = Geometry(build_classifier("squeezenet1_1", None), "classifier.3")
    assert geometry.centre(Site(0, 0, 0), (64, 96), (1, 1)) == (31.5, 47.5)

    class Odd(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if float(images.sum()) else -images

    network = nn.Sequential(Odd())
    assert Geometry(network, "0").field((8, 8)) is None
    assert Geometry(network, "0").centre(Site(0, 3, 0), (8, 8), (4, 4)) == (6.5, 0.5)


def test_a_layer_that_is_called_twice_is_refused() -> None:
    geometry = Geometry(build_classifier("resnet18", None), "layer4.1.relu")
    with pytest.raises(ValueError, match=r"'layer4\.1\.relu' is called more than once: choose the block"):
        geometry.field((64, 64))


def test_a_planted_field_is_recovered_from_images_of_unlike_sizes() -> None:
    looks = []
    for (height, width), (row, column) in (((9, 9), (4, 4)), ((8, 12), (3, 7)), ((10, 7), (5, 2))):
        falls = np.zeros((height, width), np.float32)
        falls[row - 1 : row + 2, column : column + 2] = 2
        image = np.zeros((height, width, 3), np.uint8)
        found = Found(1.0, falls, OCCLUSION)
        looks.append(Look.of("image", image, Site(0, row, column), (float(row), float(column)), found))
    field = UnitField.of(0, looks, 0.5)
    assert field.extent == (-1, 0, 3, 2, 6)
    for look in looks:
        assert torch.equal(torch.from_numpy(field.segmented(look)), look.falls > 0)
