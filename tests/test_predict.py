from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fcn_core.checkpoint import Card, RunFolder
from fcn_core.compute import Numerics, decide
from fcn_core.data.transforms import resize_image
from fcn_core.models.fcn import FCN
from fcn_core.models.preprocessing import preprocess
from fcn_core.predict import TTA_ZOOMS, Inference, Predictor
from fcn_core.settings import Classes, Compute, Model

MODEL = Model(trunk="vgg16_bn", width=0.05, fc_channels=8, dropout=0.5)
CLASSES = Classes(names=("road", "sky", "car"), colours=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def image(height: int, width: int) -> NDArray[np.uint8]:
    blocks = np.random.default_rng(height).integers(0, 2, (8, 8, 3), np.uint8) * 255
    return np.ascontiguousarray(blocks.repeat(16, 0).repeat(16, 1)[:height, :width])


def network(seed: int = 0) -> FCN:
    torch.manual_seed(seed)
    model = FCN(MODEL, len(CLASSES))
    for parameter in model.scores.parameters():
        nn.init.normal_(parameter)
    return model


def predictor(scale: float = 1.0) -> Predictor:
    return Predictor(network(), CLASSES, MODEL, scale, numerics())


def numerics(*, bf16: bool = False) -> Numerics:
    return decide(Compute(precision="bf16" if bf16 else "fp32"), torch.device("cpu"))


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.5])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47), (101, 31), (1, 1)])
def test_scores_and_labels_have_the_size_of_the_image(scale: float, height: int, width: int) -> None:
    scores, labels = predictor(scale).scores(image(height, width)), predictor(scale).labels(image(height, width))
    assert scores.shape == (3, height, width)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), scores.argmax(0))


def test_there_is_more_than_one_label_to_predict() -> None:
    assert len(predictor().labels(image(64, 96)).unique()) > 1


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_scores_are_those_of_the_network_on_the_scaled_and_preprocessed_image(scale: float) -> None:
    scaled = resize_image(torch.from_numpy(image(64, 96)).permute(2, 0, 1), scale)[None]
    with torch.no_grad():
        expected = network().eval()(preprocess(scaled, "torchvision"))
    assert expected.shape[-2:] == (64 * scale, 96 * scale)
    enlarged = functional.interpolate(expected, scale_factor=1 / scale, mode="bilinear")
    assert torch.equal(predictor(scale).scores(image(64, 96)), enlarged[0])


def test_a_prediction_does_not_depend_on_those_before() -> None:
    ours = predictor()
    first = ours.scores(image(33, 47)).clone()
    ours.scores(image(64, 96))
    ours.network.train()
    assert torch.equal(ours.scores(image(33, 47)), first)
    assert not first.requires_grad


@pytest.mark.parametrize("bf16", [False, True])
def test_a_run_is_loaded_with_the_scale_and_precision_of_its_best_checkpoint(tmp_path: Path, bf16: bool) -> None:
    folder = RunFolder(str(tmp_path))
    for step in (1, 2):
        card = Card(
            model=MODEL, classes=CLASSES, scale=0.5, bf16=bf16, run_id="run-0", step=step, epoch=step, mean_iou=None
        )
        folder.save(card, network(step).state_dict(), {})
    for url, seed in ((folder.url, 2), (folder.checkpoint(1), 1)):
        loaded = Predictor.load(url)
        expected = Predictor(network(seed), CLASSES, MODEL, 0.5, numerics(bf16=bf16))
        scores = loaded.scores(image(33, 47))
        assert loaded.classes == CLASSES
        assert scores.dtype == torch.float32
        assert torch.equal(scores, expected.scores(image(33, 47)))
    in_fp32 = Predictor(network(2), CLASSES, MODEL, 0.5, numerics()).scores(image(33, 47))
    assert torch.equal(Predictor.load(folder.url).scores(image(33, 47)), in_fp32) == (not bf16)


@pytest.mark.parametrize(
    "changes", [{}, {"stride": 32}, {"trunk": "resnet18"}, {"trunk": "vgg16", "geometry": "reference"}]
)
def test_tiles_give_the_scores_of_the_whole_image(changes: dict[str, object]) -> None:
    """In float64, where the order of sums inside a convolution does not show."""
    model = Model.model_validate(MODEL.model_dump() | changes)
    torch.manual_seed(1)
    tiled = FCN(model, len(CLASSES)).double().eval()
    for parameter in tiled.scores.parameters():
        nn.init.normal_(parameter)
    ours = Predictor(tiled, CLASSES, model, 1.0, numerics())
    pixels = torch.rand(1, 3, 701, 649, dtype=torch.float64)
    with torch.inference_mode():
        whole, pieces = tiled(pixels), ours._tiled(pixels, 256)
    assert whole.std() > 0
    torch.testing.assert_close(pieces.double(), whole, rtol=0, atol=float(whole.abs().max()) * 1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_tiles_give_the_labels_of_the_whole_image(scale: float) -> None:
    large = np.ascontiguousarray(image(128, 128).repeat(5, 0).repeat(5, 1)[:, :600])
    whole, pieces = (predictor(scale).labels(large, Inference(tile=tile)) for tile in (None, 128))
    assert len(whole.unique()) > 1
    assert (whole == pieces).double().mean() > 0.9999


def test_less_than_the_reach_around_a_tile_would_not_do() -> None:
    ours = predictor()
    pixels = torch.rand(1, 3, 640, 640)
    with torch.inference_mode():
        whole = ours.network.eval()(pixels)
        ours.network.reach -= 64
        assert not torch.allclose(ours._tiled(pixels, 64), whole, rtol=0, atol=float(whole.abs().max()) * 1e-6)


def test_test_time_augmentation_is_the_mean_of_the_views_probabilities() -> None:
    ours, picture = predictor(), image(64, 96)
    views = []
    for zoom in TTA_ZOOMS:
        zoomed = Predictor(network(), CLASSES, MODEL, zoom, numerics())
        views += [zoomed.scores(picture).softmax(0)]
        views += [zoomed.scores(np.ascontiguousarray(picture[:, ::-1])).softmax(0).flip(-1)]
    expected = torch.stack(views).mean(0)
    scores = ours.scores(picture, Inference(tta=True))
    torch.testing.assert_close(scores.softmax(0), expected)
    torch.testing.assert_close(scores.exp().sum(0), torch.ones(64, 96))
    mirrored = ours.scores(np.ascontiguousarray(picture[:, ::-1]), Inference(tta=True))
    torch.testing.assert_close(mirrored.flip(-1), scores)


@pytest.mark.parametrize("tile", [0, 16, 100])
def test_tiles_are_multiples_of_the_coarsest_stride(tile: int) -> None:
    with pytest.raises(ValueError, match="tile"):
        Inference(tile=tile)
