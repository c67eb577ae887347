"""A network as the graph of what it does to an image of one size, found by letting it run on no numbers at all.

`trace` calls the network on an image of torch's meta device, which has a shape and no content, and notes each function
of torch that is called. So a forward may look at sizes, crop and branch by them as it likes, as `FCN` does; torch.fx,
which follows a forward for all sizes at once, cannot follow such a one.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fcn_core.receptive_field.nodes import Graph, Node, exchange
from fcn_core.receptive_field.operations import SIGNATURES, Call, Input, Kind, Pair, interpret

__all__ = ["Graph", "Node", "trace"]

_DEVICE: Any = torch.Tensor.device


def trace(
    network: nn.Module, target: str | None = None, *, size: Pair = (224, 224), channels: int | None = None
) -> Graph:
    """Return what a network does in evaluation mode to an image (channels, *size), up to a layer or to its end.

    The network is called once on an image without content and is left as it was.

    Args:
        network: takes images (N, channels, H, W).
        target: name of a module or node; by default what the network returns, of several tensors the first.
        size: rows and columns of the image.
        channels: of the image; those of the network's first convolution by default.

    Raises:
        ValueError: there is no such layer, or the network cannot be followed at this size.
    """
    if channels is None:
        convolutions = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
        channels = next((layer.in_channels for layer in convolutions), 3)
    first = next((tensor for tensor in network.parameters() if tensor.is_floating_point()), torch.empty(0))
    image = torch.empty((1, channels, *size), dtype=first.dtype, device="meta")
    recorder = _Recorder(network, image, first.device)
    try:
        with _evaluating(network), recorder.listening(), recorder, torch.no_grad():
            result = network(image)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"cannot follow {type(network).__name__} on an image of {size}: {reason}") from error
    graph, end = recorder.graph(result)
    return graph.until(target or end)


class _Recorder(TorchFunctionMode):
    """Notes each function of torch that takes what depends on the image."""

    def __init__(self, network: nn.Module, image: Tensor, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.device = device
        self.scopes: list[tuple[str, bool]] = []
        """Dotted names of the modules that are being called, and whether they have no parts."""
        self.nodes = [Node("input", Kind.INPUT, "input", (), tuple(image.shape[1:]), (), {}, (_no_call, (), {}, None))]
        self.places: dict[int, int] = {id(image): 0}
        self.constants = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self.alive: list[object] = [image]
        """What was made, since an object's id is its own only as long as it lives."""
        self.ends: dict[str, int] = {}
        """Nodes whose results modules returned."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        kwargs = kwargs or {}
        inputs: list[int] = []
        noted, named = (
            exchange(values, Tensor, lambda tensor: self._note(tensor, inputs)) for values in (args, kwargs)
        )
        if not inputs:
            result = func(*args, **kwargs)
            self.constants.update(map(id, self._keep(result)))
            return result
        if func == _DEVICE.__get__:
            return self.device
        result = func(*exchange(args, Tensor, _weightless), **exchange(kwargs, Tensor, _weightless))
        name = func.__name__
        named |= {"inplace": False} if "inplace" in named else {}
        made = [args[0]] if name == "__setitem__" else self._keep(result)
        for index, tensor in enumerate(made):
            call = (_pure(func), noted, named, index if isinstance(result, list | tuple) else None)
            self._add(name.strip("_"), call, inputs, tensor)
        return result

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Know, as long as this lasts, which module is being called and what it returned."""
        handles = []
        for name, module in self.network.named_modules():
            scope = (name, not any(True for _ in module.children()))

            def enter(_module: nn.Module, _args: object, scope: tuple[str, bool] = scope) -> None:
                self.scopes.append(scope)

            def leave(_module: nn.Module, _args: object, result: object, name: str = name) -> None:
                self.scopes.pop()
                if id(result) in self.places:
                    self.ends[name] = self.places[id(result)]

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def graph(self, result: object) -> tuple[Graph, str]:
        """Return what was noted until the network returned, and the name of the first node that it returned."""
        returned: list[int] = []
        exchange(result, Tensor, lambda tensor: returned.append(self.places.get(id(tensor), -1)))
        if not returned or returned[0] < 0:
            raise ValueError(f"{type(self.network).__name__} returned nothing that depends on the image")
        times = Counter(node.name for node in self.nodes)
        counters = {name: itertools.count(1) for name in times}
        unique = [
            replace(node, name=f"{node.name}:{next(counters[node.name])}") if times[node.name] > 1 else node
            for node in self.nodes
        ]
        names: dict[str, int] = {}
        for index, node in enumerate(unique):
            parts = node.name.partition(":")[0].split(".")
            names |= {".".join(parts[: end + 1]): index for end in range(len(parts))}
        names |= {name: index for name, index in self.ends.items() if name}
        names |= {node.name: index for index, node in enumerate(unique)}
        return Graph(tuple(unique), names), unique[returned[0]].name

    def _note(self, tensor: Tensor, inputs: list[int]) -> Tensor | Input:
        """Return a placeholder of what depends on the image, and any other tensor as it is."""
        if id(tensor) in self.places:
            inputs.append(self.places[id(tensor)])
            return Input(len(inputs) - 1)
        if tensor.device.type == "meta" and id(tensor) not in self.constants:
            raise RuntimeError("it computes with a tensor that no function of torch has made")
        return tensor

    def _keep(self, result: object) -> list[Tensor]:
        kept = [one for one in (result if isinstance(result, list | tuple) else [result]) if isinstance(one, Tensor)]
        self.alive.extend(kept)
        return kept

    def _add(
        self,
        function: str,
        call: tuple[Callable[..., Any], Any, Any, int | None],
        inputs: Sequence[int],
        tensor: Tensor,
    ) -> None:
        _, args, kwargs, _ = call
        shape = tuple(tensor.shape[1:]) if tensor.shape[:1] == (1,) else ()
        options = _by_name(SIGNATURES.get(function, ()), args, kwargs)
        shapes = [self.nodes[source].shape for source in inputs]
        meaning = interpret(Call(function, options, shapes, shape))
        scope, whole_module = self.scopes[-1] if self.scopes else ("", False)
        name = scope if whole_module and scope else f"{scope}.{function}".lstrip(".")
        node = Node(name, meaning.kind, function, tuple(inputs), shape, meaning.sees, meaning.options, call)
        self.places[id(tensor)] = len(self.nodes)
        self.nodes.append(node)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _by_name(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    named = {**dict(zip(names, args, strict=False)), **kwargs, "args": tuple(args[len(names) :])}
    named["args"] = tuple(value for value in named["args"] if not isinstance(value, Input))
    return {name: value for name, value in named.items() if not isinstance(value, Input)}


def _weightless(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "meta" else tensor.detach().to("meta")


def _pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that gives the same and leaves its input alone."""
    name = function.__name__
    if name == "__setitem__":
        return _with_item
    return getattr(Tensor, name[:-1], function) if name.endswith("_") and not name.endswith("__") else function


def _with_item(tensor: Tensor, index: Any, value: Tensor | float) -> Tensor:  # noqa: ANN401
    copy = tensor.clone()
    copy[index] = value
    return copy


def _no_call() -> None:
    raise TypeError("the image is given, not computed")
