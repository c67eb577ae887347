from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from fcn_core.models.classifiers import build_classifier, classifier_names, imagenet_classes


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
