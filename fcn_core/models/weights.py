"""Weights from elsewhere: classifiers of torchvision, and coarser FCNs for staged training."""

import re
from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from fcn_core import storage
from fcn_core.models.fcn import FCN
from fcn_core.models.trunks import VGG16, ResNet, TrunkNetwork

Weights = Mapping[str, Tensor]


def load_classifier(network: FCN, source: str, trunk: str) -> None:
    """Put an ImageNet classifier's weights into the trunk of `network`.

    A VGG16's fully connected layers become fc6 and fc7 if those have 4096 channels, and stay random otherwise.

    Args:
        network: changed in place.
        source: 'imagenet' for torchvision's weights (downloaded once), or a file or URL of a torchvision state dict.
        trunk: torchvision's name of the classifier.

    Raises:
        ValueError: the weights do not fit the trunk, or are not finite.
    """
    weights = imagenet_weights(trunk, "--model.weights") if source == "imagenet" else read_weights(source)
    adapted = _adapt(weights, network.trunk, source)
    missing, unexpected = _load(network.trunk, adapted, source)
    missing = [name for name in missing if not name.startswith(("fc6.", "fc7."))]
    if missing or unexpected:
        raise ValueError(
            f"{source} does not fit trunk {trunk}: {len(missing)} tensors missing, {len(unexpected)} unknown"
        )
    check_trunk(network, source)


def start_from(network: FCN, weights: Weights, source: str) -> list[str]:
    """Take over trunk, scores and intermediate upsampling of a coarser FCN.

    New score layers stay zero and the last upsampling bilinear.

    Returns:
        The names of tensors that stay as they were.

    Raises:
        ValueError: the trunk or its score layer is another one.
    """
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    fitting = {name: value for name, value in weights.items() if shapes.get(name) == value.shape}
    # A name that only the weights have counts too: a ResNet-18 is a part of a ResNet-34.
    unfit = sorted((shapes.keys() | weights.keys()) - fitting.keys())
    if foreign := [name for name in unfit if name.startswith(("trunk.", "scores.score_fr"))]:
        raise ValueError(f"{source} is of another network: {foreign[0]} and {len(foreign) - 1} more tensors do not fit")
    missing, _ = network.load_state_dict(fitting, strict=False)
    check_trunk(network, source)
    return list(missing)


def check_trunk(network: FCN, source: str) -> None:
    """Refuse weights that cannot be trained from.

    Raises:
        ValueError: a layer is all zero, so that no gradient passes it, or a weight or statistic is not finite.
    """
    for name, value in network.trunk.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{source} has values in trunk.{name} that are not finite")
        if value.dim() > 1 and not value.any():
            raise ValueError(f"{source} leaves trunk.{name} all zero: no gradient would pass it")


def read_weights(url: str) -> Weights:
    """Return the tensors of a .safetensors file or of a state dict saved by torch; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    path = storage.cached(url)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{url} holds no tensors that can be read: {str(error).splitlines()[0]}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{url} is no plain state dict of tensors")
    return weights


def imagenet_weights(name: str, option: str) -> Weights:
    """Return torchvision's first weights of a network that were trained on ImageNet, downloaded once.

    Args:
        name: torchvision's.
        option: of the command that takes a file instead.

    Raises:
        ValueError: there are none, or they cannot be downloaded.
    """
    try:
        weights: Weights = get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True)
    except KeyError as error:
        raise ValueError(f"torchvision has no weights IMAGENET1K_V1 of {name}; give a file: {option} PATH") from error
    except (OSError, RuntimeError) as error:
        # The second is a file whose hash is wrong.
        raise ValueError(f"cannot download torchvision's {name}: {error}; give a file: {option} PATH") from error
    return weights


def _adapt(weights: Weights, trunk: TrunkNetwork, source: str) -> dict[str, Tensor]:
    if isinstance(trunk, VGG16):
        return _adapt_vgg(weights, trunk, source)
    if isinstance(trunk, ResNet):
        kept = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        return {re.sub(r"^(layer\d)", r"layers.\1", name): value for name, value in kept.items()}
    raise TypeError(f"no rule for weights of {type(trunk).__name__}")


def _adapt_vgg(weights: Weights, trunk: VGG16, source: str) -> dict[str, Tensor]:
    """Rename features.0 to stages.0.conv1_1 and so on, by order; view fully connected layers as convolutions."""
    numbers = sorted({int(found[1]) for name in weights if (found := re.match(r"features\.(\d+)\.", name))})
    layers = [name for name, layer in trunk.stages.named_modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    if len(numbers) != len(layers):
        raise ValueError(f"{source} has {len(numbers)} feature layers with weights, this VGG16 has {len(layers)}")
    adapted: dict[str, Tensor] = {}
    for number, layer in zip(numbers, layers, strict=True):
        prefix = f"features.{number}."
        adapted |= {
            f"stages.{layer}.{name.removeprefix(prefix)}": value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
    for name, convolution in (("classifier.0", trunk.fc6), ("classifier.3", trunk.fc7)):
        weight = weights.get(f"{name}.weight")
        if weight is not None and weight.numel() == convolution.weight.numel():
            layer = "fc6" if convolution is trunk.fc6 else "fc7"
            adapted |= {f"{layer}.weight": weight.view_as(convolution.weight), f"{layer}.bias": weights[f"{name}.bias"]}
    return adapted


def _load(trunk: TrunkNetwork, weights: Weights, source: str) -> tuple[list[str], list[str]]:
    try:
        missing, unexpected = trunk.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit the trunk: {str(error).splitlines()[-1].strip()}") from error
    return list(missing), list(unexpected)
