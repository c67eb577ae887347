from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model, get_model_weights, resnet18

from fcn_core.models.classifiers import build_classifier, classifier_names, imagenet_classes, preprocessing_of
from fcn_core.models.preprocessing import STATISTICS, preprocess
from fcn_core.models.weights import imagenet_weights


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = build_classifier("resnet18", None), build_classifier("resnet18", None)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.conv1.weight, other.conv1.weight)  # type: ignore[arg-type, union-attr]
    assert not one.training
    assert not torch.equal(one.fc.weight, build_classifier("resnet18", None, seed=1).fc.weight)  # type: ignore[arg-type, union-attr]


def test_weights_of_a_file_are_taken(tmp_path: Path) -> None:
    theirs = resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build_classifier("resnet18", str(tmp_path / "weights.pth"))
    assert torch.equal(ours.fc.weight, theirs.fc.weight)  # type: ignore[arg-type, union-attr]


def test_what_is_not_there_or_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no classifier 'resnet19': there are resnet18"):
        build_classifier("resnet19", None)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth does not fit resnet18: "):
        build_classifier("resnet18", str(tmp_path / "weights.pth"))
    with pytest.raises(FileNotFoundError):
        build_classifier("resnet18", str(tmp_path / "nowhere.pth"))


def test_classifiers_and_their_classes_have_names() -> None:
    assert {"resnet18", "vgg16", "convnext_tiny"} <= set(classifier_names())
    assert not any("fcn" in name or "/" in name for name in classifier_names())
    assert (len(imagenet_classes("vgg16")), imagenet_classes("vgg16")[0]) == (1000, "tench")


@pytest.mark.parametrize("name", classifier_names())
def test_preprocessing_is_that_of_torchvisions_weights(name: str) -> None:
    try:
        weights = get_model_weights(name)["IMAGENET1K_V1"]
    except KeyError:
        with pytest.raises(ValueError, match=f"no weights IMAGENET1K_V1 of {name}; give a file: --weights PATH"):
            imagenet_weights(name, "--weights")
        return
    theirs = weights.transforms()
    ours = STATISTICS[preprocessing_of(name, "imagenet")]
    mean, std = [value / 255 for value in ours.mean], [value / 255 for value in ours.std]
    # Where torchvision's network itself goes on from its usual statistics to these, ours does not.
    if name not in ("googlenet", "inception_v3"):
        assert mean == pytest.approx(theirs.mean)
        assert std == pytest.approx(theirs.std)
        return
    network: Any = get_model(name, weights=None, transform_input=True, init_weights=False)
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    usual = preprocess(image, "torchvision")
    torch.testing.assert_close(network._transform_input(usual), preprocess(image, "inception"), rtol=0, atol=1e-5)


def test_a_download_that_is_damaged_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", damaged)
    with pytest.raises(ValueError, match="cannot download torchvision's resnet18: invalid hash value; give a file"):
        build_classifier("resnet18", "imagenet")
