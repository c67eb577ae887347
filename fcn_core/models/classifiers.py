"""The classifiers of torchvision, by name."""

import difflib
import warnings

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from fcn_core.models.preprocessing import Preprocessing
from fcn_core.models.weights import imagenet_weights, read_weights

INCEPTION = ("efficientnet_v2_l", "googlenet", "inception_v3")
"""Classifiers whose first weights of torchvision take images from -1 to 1."""


def classifier_names() -> tuple[str, ...]:
    """Return the names of all classifiers of torchvision."""
    return tuple(list_models(module=torchvision.models))


def build_classifier(name: str, source: str | None, seed: int = 0) -> nn.Module:
    """Return a classifier of torchvision on the CPU, in evaluation mode.

    Args:
        name: torchvision's, such as resnet18.
        source: of its weights: 'imagenet' for torchvision's first ones (downloaded once), a file or URL of a state
            dict, or None for random ones.
        seed: of random weights.

    Raises:
        ValueError: there is no such classifier, or the weights cannot be had or do not fit it.
        FileNotFoundError: there is no such file.
    """
    if name not in classifier_names():
        near = difflib.get_close_matches(name, classifier_names(), n=3) or classifier_names()
        raise ValueError(f"torchvision has no classifier {name!r}: there are {', '.join(near)}")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore", category=FutureWarning):
        torch.default_generator.manual_seed(seed)
        network: nn.Module = get_model(name, weights=None)
    if source is not None:
        weights = imagenet_weights(name, "--weights") if source == "imagenet" else read_weights(source)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{source} does not fit {name}: {reason:.200}") from error
    return network.eval()


def imagenet_classes(name: str) -> tuple[str, ...]:
    """Return the names of the classes of a classifier that was trained on ImageNet."""
    return tuple(get_model_weights(name)["IMAGENET1K_V1"].meta["categories"])


def preprocessing_of(name: str, source: str | None) -> Preprocessing:
    """Return what a classifier expects of an image: with torchvision's weights, what these were trained with."""
    return "inception" if source == "imagenet" and name in INCEPTION else "torchvision"
