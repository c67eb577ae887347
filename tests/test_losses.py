import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fcn_core.losses import SegmentationLoss, cross_entropy_sum, dice_losses
from fcn_core.settings import VOID, Loss

CLASSES = 4
WEIGHTS = torch.tensor([1.0, 0.5, 3.0, 2.0])

LOSSES = [
    Loss(),
    Loss(reduction="sum"),
    Loss(cross_entropy=0, dice=1),
    Loss(cross_entropy=0.7, dice=0.5),
]
every_loss = pytest.mark.parametrize("settings", LOSSES, ids=["mean", "sum", "dice", "both"])


def random_scores(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, CLASSES, 6, 5, generator=generator, dtype=torch.float64).float().requires_grad_()


def random_masks() -> Tensor:
    """Return masks whose share of void grows from none in the first image to all in the last."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(CLASSES, (8, 6, 5), generator=generator)
    shares = torch.linspace(0, 1, 8).view(8, 1, 1)
    return masks.where(torch.rand(masks.shape, generator=generator) >= shares, VOID).to(torch.uint8)


def loss_of(settings: Loss, weights: Tensor = WEIGHTS, batch_size: int = 8) -> SegmentationLoss:
    return SegmentationLoss(settings, weights, batch_size)


def whole_loss(settings: Loss, scores: Tensor, masks: Tensor, weights: Tensor = WEIGHTS) -> Tensor:
    loss = loss_of(settings, weights, len(masks))
    return loss.share(scores, masks, loss.labelled_weight(masks))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_that_of_torch_over_maps(weights: Tensor | None) -> None:
    scores, masks = random_scores(), random_masks()
    for reduction, ours in (
        ("sum", cross_entropy_sum(scores, masks, weights)),
        ("mean", whole_loss(Loss(), scores, masks, torch.ones(CLASSES) if weights is None else weights)),
    ):
        torchs = functional.cross_entropy(scores, masks.long(), weights, ignore_index=VOID, reduction=reduction)
        torch.testing.assert_close(ours, torchs)


@every_loss
def test_void_pixels_have_no_influence(settings: Loss) -> None:
    scores, masks = random_scores(), random_masks()
    loss = whole_loss(settings, scores, masks)
    loss.backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad.abs().sum(1) > 0, masks != VOID)
    others = scores.where((masks != VOID)[:, None], random_scores(seed=2))
    assert torch.equal(whole_loss(settings, others, masks), loss)


@every_loss
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_shares_add_up_to_the_loss_and_gradient_of_the_batch(settings: Loss, parts: int) -> None:
    scores, masks = random_scores(), random_masks()
    expected = whole_loss(settings, scores, masks)
    (expected_gradient,) = torch.autograd.grad(expected, scores)
    loss = loss_of(settings)
    scores_in_parts = [part.detach().requires_grad_() for part in scores.chunk(parts)]
    weight = torch.stack([loss.labelled_weight(part) for part in masks.chunk(parts)]).sum()
    shares = [loss.share(*part, weight) for part in zip(scores_in_parts, masks.chunk(parts), strict=True)]
    total = torch.stack(shares).sum()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(torch.cat(torch.autograd.grad(total, scores_in_parts)), expected_gradient)


@every_loss
def test_a_batch_that_is_all_void_has_loss_and_gradient_0(settings: Loss) -> None:
    scores = random_scores()
    loss = whole_loss(settings, scores, torch.full((8, 6, 5), VOID, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros_like(scores))


@every_loss
def test_a_perfect_prediction_has_loss_0(settings: Loss) -> None:
    masks = random_masks()
    scores = 100 * functional.one_hot(masks.where(masks != VOID, 0).long(), CLASSES).permute(0, 3, 1, 2).float()
    # An image without a labelled pixel has the loss 0 too.
    assert whole_loss(settings, scores, masks) == pytest.approx(0, abs=1e-6)
    assert whole_loss(settings, scores.roll(1, dims=1), masks) > 0.5


def test_dice_by_hand() -> None:
    probability = torch.tensor([[0.7, 0.4, 0.5], [0.2, 0.5, 0.5], [0.1, 0.1, 0.0]])  # (classes, pixels)
    masks = torch.tensor([[[0, 1, VOID]]], dtype=torch.uint8)
    first, second = 2 * 0.7 / (0.7 + 0.4 + 1), 2 * 0.5 / (0.2 + 0.5 + 1)
    dice = dice_losses(probability.clamp(min=1e-20).log()[None, :, None], masks)
    assert dice.tolist() == pytest.approx([1 - (first + second) / 2])


def test_dice_leaves_out_void_pixels_and_no_channel() -> None:
    scores, masks = random_scores(), random_masks() % CLASSES
    half = masks.clone()
    half[:, :, 3:] = VOID
    torch.testing.assert_close(dice_losses(scores, half), dice_losses(scores[..., :3], half[..., :3]))
    order = torch.tensor([2, 0, 3, 1])
    new_label = order.argsort().to(torch.uint8)
    torch.testing.assert_close(dice_losses(scores[:, order], new_label[masks.long()]), dice_losses(scores, masks))


def test_dice_of_an_image_does_not_depend_on_its_batch() -> None:
    scores, masks = random_scores(), random_masks()
    alone = [dice_losses(*image) for image in zip(scores.split(1), masks.split(1), strict=True)]
    torch.testing.assert_close(dice_losses(scores, masks), torch.cat(alone))


def test_the_mean_is_the_sum_over_the_labelled_weight() -> None:
    scores, masks = random_scores(), random_masks()
    mean, total = (whole_loss(Loss(reduction=reduction), scores, masks) for reduction in ("mean", "sum"))
    torch.testing.assert_close(total / loss_of(Loss()).labelled_weight(masks), mean)
    assert loss_of(Loss(reduction="sum")).share(scores, masks, torch.tensor(1e9)) == total


def test_both_losses_are_weighted() -> None:
    scores, masks = random_scores(), random_masks()
    both = whole_loss(Loss(cross_entropy=0.7, dice=0.5), scores, masks)
    torch.testing.assert_close(both, 0.7 * whole_loss(Loss(), scores, masks) + 0.5 * dice_losses(scores, masks).mean())


def test_labelled_weight_by_hand() -> None:
    masks = torch.tensor([[[0, 2, 2, VOID], [VOID, 1, 3, 3]]], dtype=torch.uint8)
    assert loss_of(Loss()).labelled_weight(masks) == 1 + 2 * 3 + 0.5 + 2 * 2
    assert loss_of(Loss(), torch.ones(CLASSES)).labelled_weight(masks) == 6


def test_the_void_label_has_no_weight_even_with_as_many_classes_as_there_can_be() -> None:
    masks = torch.tensor([[[VOID - 1, VOID]]], dtype=torch.uint8)
    scores = torch.zeros(1, VOID, 1, 2)
    weights = torch.arange(1.0, VOID + 1)
    assert loss_of(Loss(), weights).labelled_weight(masks) == VOID
    assert whole_loss(Loss(reduction="sum"), scores, masks, weights) == pytest.approx(VOID * math.log(VOID))


@every_loss
def test_bf16_scores_are_reduced_in_fp32(settings: Loss) -> None:
    scores, masks = random_scores().detach().to(torch.bfloat16).requires_grad_(), random_masks()
    loss = whole_loss(settings, scores, masks)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, whole_loss(settings, scores.float(), masks))
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.dtype == torch.bfloat16


def test_a_sum_over_a_large_image_is_exact() -> None:
    masks = torch.zeros(1, 360, 480, dtype=torch.uint8)
    loss = whole_loss(Loss(reduction="sum"), torch.zeros(1, 2, 360, 480, dtype=torch.bfloat16), masks, torch.ones(2))
    assert loss == pytest.approx(360 * 480 * math.log(2), rel=1e-5)
