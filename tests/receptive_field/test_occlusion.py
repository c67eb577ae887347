import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models import resnet18

from fcn_core.receptive_field.empirical import extent, field_mask, recentred_mean, segment, spread
from fcn_core.receptive_field.occlusion import (
    Discrepancy,
    Maps,
    Occlusion,
    Site,
    discrepancies,
    fill_image,
    replicas,
    strongest,
)


def an_image(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def box_unit(size: int, stride: int) -> nn.Conv2d:
    """Return a layer whose only unit at (0, 0) sees the whole box of `size` at the top left and nothing else."""
    layer = nn.Conv2d(3, 1, size, stride=stride, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def test_grid_is_that_of_the_paper() -> None:
    paper = Occlusion()
    batches = list(replicas(an_image(224, 227), torch.zeros(1, 3, 224, 227), paper.model_copy()))
    assert (paper.size, paper.stride, paper.fill) == (11, 3, "random")
    assert sum(len(batch) for batch in batches) == 72 * 73


@pytest.mark.parametrize(("height", "width"), [(5, 40), (23, 30), (24, 31), (25, 11)])
def test_grid_covers_every_pixel_even_where_the_last_occluder_is_cut_off(height: int, width: int) -> None:
    occlusion = Occlusion(size=7, stride=4, fill="grey", batch_size=3)
    image = torch.ones(1, 3, height, width)
    everything = torch.cat(list(replicas(image, fill_image(image, occlusion), occlusion)))
    assert (everything.amin(0) == 0).all()
    assert (everything.sum((1, 2, 3)) < image.sum()).all()


def test_a_stride_that_leaves_pixels_out_is_refused() -> None:
    with pytest.raises(ValidationError, match="stride 12 above size 11"):
        Occlusion(stride=12)


@pytest.mark.parametrize("fill", ["random", "mean", "grey", "blur"])
def test_fills_stay_in_the_range_of_the_image(fill: str) -> None:
    image = an_image() + torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    occlusion = Occlusion.model_validate({"fill": fill})
    shown = fill_image(image, occlusion)
    assert shown.shape == image.shape
    assert torch.equal(shown, fill_image(image, occlusion))
    assert (shown >= image.amin((2, 3), keepdim=True)).all()
    assert (shown <= image.amax((2, 3), keepdim=True)).all()


def test_random_pixels_follow_the_seed() -> None:
    image = an_image()
    one, other = (fill_image(image, Occlusion(seed=seed)) for seed in (1, 2))
    assert not torch.equal(one, other)


def test_maps_stop_at_the_layer_and_leave_no_hook() -> None:
    network = resnet18(weights=None)
    network.fc = nn.Linear(1, 1)  # would fail if it were reached
    assert Maps(network, "layer4")(an_image()).shape == (1, 512, 2, 2)
    assert Maps(network, "avgpool")(an_image()).shape == (1, 512, 1, 1)
    with pytest.raises(RuntimeError):
        Maps(network, "layer4")(torch.zeros(1, 5, 64, 64))
    assert not any(layer._forward_hooks for layer in network.modules())


def test_maps_of_a_vector_are_of_one_position() -> None:
    assert Maps(resnet18(weights=None, num_classes=7), "fc")(an_image()).shape == (1, 7, 1, 1)


def test_layers_and_units_that_do_not_exist_are_named() -> None:
    network = resnet18(weights=None)
    with pytest.raises(KeyError, match="no layer 'layer5'; layers are conv1, bn1"):
        Maps(network, "layer5")
    with pytest.raises(ValueError, match="no unit 512: the layer has 512, from 0 to 511"):
        strongest(Maps(network, "layer4")(an_image()), [512])
    with pytest.raises(ValueError, match=r"no unit 0 at \(2, 0\) in maps of shape \(512, 2, 2\)"):
        discrepancies(Maps(network, "layer4"), an_image(), [Site(0, 2, 0)])
    network.add_module("unused", nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="does not use this layer"):
        Maps(network, "unused")(an_image())


def test_an_empty_layer_name_is_refused() -> None:
    with pytest.raises(KeyError, match="no layer ''"):
        Maps(nn.Sequential(nn.ReLU()), "")


def test_discrepancy_is_by_how_much_the_activation_falls() -> None:
    image = torch.ones(1, 3, 16, 16)
    occlusion = Occlusion(size=4, stride=4, fill="grey")
    (found,) = discrepancies(Maps(nn.Sequential(box_unit(8, 8)), "0"), image, [Site(0, 0, 0)], occlusion)
    expected = torch.zeros(4, 4)
    expected[:2, :2] = 3 * 16
    assert found.base == 3 * 64
    assert torch.equal(found.falls, expected)


def test_following_compares_maxima() -> None:
    image = torch.ones(1, 3, 16, 16)
    image[..., :8, :8] = 2
    occlusion = Occlusion(size=8, stride=8, fill="grey", follow=True)
    (found,) = discrepancies(Maps(nn.Sequential(box_unit(8, 8)), "0"), image, [Site(0, 0, 0)], occlusion)
    assert found.base == 2 * 3 * 64
    assert torch.equal(found.falls, torch.tensor([[3.0 * 64, 0.0], [0.0, 0.0]]))


def test_a_planted_field_is_recovered_exactly() -> None:
    """Of images of two sizes, each with the strongest activation elsewhere, by an occluder of one pixel."""
    occlusion = Occlusion(size=1, stride=1, fill="grey")
    maps, centres, images = [], [], []
    for height, width, row, column in ((24, 30, 1, 2), (31, 20, 2, 0)):
        image = torch.ones(1, 3, height, width)
        image[..., 6 * row : 6 * row + 5, 6 * column : 6 * column + 5] = 2
        features = Maps(nn.Sequential(box_unit(5, 6)), "0")
        sites = strongest(features(image), [0])
        assert sites == [Site(0, row, column)]
        (found,) = discrepancies(features, image, sites, occlusion)
        maps.append(spread(found.falls, occlusion, (height, width)))
        centres.append((6.0 * row + 2, 6.0 * column + 2))
        images.append((height, width))
    mask = field_mask(recentred_mean(maps, centres))
    assert extent(mask) == (-2, -2, 5, 5, 25)
    assert extent(mask).size == 5
    for size, centre in zip(images, centres, strict=True):
        expected = torch.zeros(size, dtype=torch.bool)
        top, left = int(centre[0]) - 2, int(centre[1]) - 2
        expected[top : top + 5, left : left + 5] = True
        assert torch.equal(segment(mask, centre, size), expected)


def test_spread_gives_each_pixel_the_mean_of_the_occluders_that_cover_it() -> None:
    occlusion = Occlusion(size=3, stride=2)
    found = spread(torch.tensor([[1.0, 3.0]]), occlusion, (2, 5))
    assert found.dtype == torch.float64
    assert found.tolist() == [[1, 1, 2, 3, 3]] * 2


def test_a_pixel_counts_only_where_it_is_seen() -> None:
    empirical = recentred_mean([torch.full((3, 3), 2.0), torch.full((3, 3), 4.0)], [(0.5, 0.0), (2.0, 2.0)])
    assert empirical.mean.shape == (5, 5)
    assert empirical.counts[2, 2] == 2
    assert empirical.mean[2, 2] == 3
    assert empirical.mean[4, 4] == 2
    assert empirical.mean[0, 0] == 4
    assert empirical.mean[0, 4] == empirical.counts[0, 4] == 0


def test_a_mean_that_is_positive_nowhere_has_no_field() -> None:
    nothing = field_mask(recentred_mean([torch.zeros(4, 4)], [(1.0, 1.0)]))
    assert extent(nothing) == (0, 0, 0, 0, 0)
    assert not segment(nothing, (1.0, 1.0), (4, 4)).any()
    with pytest.raises(ValueError, match="no maps"):
        recentred_mean([], [])


def test_segment_is_cut_off_by_the_image() -> None:
    mask = torch.ones(5, 5, dtype=torch.bool)
    assert segment(mask, (0.0, 3.5), (4, 4)).sum() == 3 * 3


def test_moving_an_image_by_the_stride_leaves_the_recentred_map_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2)).double()
    scene = torch.zeros(1, 3, 80, 80, dtype=torch.float64)
    scene[..., 40:60, 40:60] = an_image(20, 20).double()
    occlusion = Occlusion(size=4, stride=4, fill="grey")

    def recentred(image: Tensor, row: int, column: int) -> tuple[Discrepancy, Tensor]:
        (found,) = discrepancies(Maps(network, "2"), image, [Site(1, row, column)], occlusion)
        centre = (4 * row + 3, 4 * column + 3)
        return found, recentred_mean([spread(found.falls, occlusion, (60, 60))], [centre]).mean

    first, still = recentred(scene[..., :60, :60], 11, 11)
    second, moved = recentred(scene[..., 12:72, 8:68], 8, 9)
    assert first.base == pytest.approx(second.base)
    around = 12
    for one in (still, moved):
        assert one.abs().max() > 0.01
    ours, theirs = (
        one[
            one.shape[0] // 2 - around : one.shape[0] // 2 + around + 1,
            one.shape[1] // 2 - around : one.shape[1] // 2 + around + 1,
        ]
        for one in (still, moved)
    )
    torch.testing.assert_close(ours, theirs)
