"""What the functions of torch that networks are made of do to space: their kind, and which units see which."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from torch import Tensor

from fcn_core.receptive_field.intervals import IDENTITY, Everywhere, Sight, Spread, Window


class Input(NamedTuple):
    """Stands for a tensor that depends on the image among the arguments of a call."""

    number: int


Pair = tuple[int, int]
Shape = tuple[int, ...]


class Kind(StrEnum):
    """What an operation does to space."""

    INPUT = "input"
    CONVOLUTION = "convolution"
    TRANSPOSED = "transposed convolution"
    MAX_POOL = "max pooling"
    AVERAGE_POOL = "average pooling"
    POINTWISE = "pointwise"
    ADD = "add"
    MULTIPLY = "multiply"
    JOIN = "join"
    """Another function of two tensors, unit by unit."""
    CONCATENATE = "concatenate"
    PAD = "pad"
    SLICE = "slice"
    RESIZE = "resize"
    GLOBAL = "global"
    """Each unit sees all units, or the operation is not understood."""


class Call(NamedTuple):
    """One call of a function of torch."""

    function: str
    """Its name without underscores around it."""
    options: Mapping[str, Any]
    """Its arguments by name, without the inputs; positional ones that have no name in `SIGNATURES` are `args`."""
    inputs: Sequence[Shape]
    """Shapes of the tensors that depend on the image, without the batch."""
    output: Shape


class Meaning(NamedTuple):
    """What a call does to space."""

    kind: Kind
    sees: tuple[tuple[Sight, Sight], ...]
    """For each input, how rows see rows and how columns see columns."""
    options: Mapping[str, Any]
    """The call's, with sizes as pairs (rows, columns) and `padding` as pairs of (before, after)."""


SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "conv_transpose2d": ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "interpolate": ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
    "pad": ("input", "pad", "mode", "value"),
    "softmax": (
        "input",
        "dim",
    ),
    "log_softmax": (
        "input",
        "dim",
    ),
    "cat": (
        "tensors",
        "dim",
    ),
    "chunk": ("input", "chunks", "dim"),
    "split": ("input", "split_size_or_sections", "dim"),
    "concat": ("tensors", "dim"),
}
"""Names of positional arguments."""


def interpret(call: Call) -> Meaning:
    """Return what a call does to space; `Kind.GLOBAL` if it is not known."""
    rule = RULES.get(call.function)
    known = rule(call) if rule else None
    return known or Meaning(Kind.GLOBAL, tuple(_everywhere(shape, call.output) for shape in call.inputs), call.options)


def extents(shape: Shape) -> Pair:
    """Return rows and columns of a layer's shape (C, H, W); what is no map is taken as a single unit."""
    return (shape[1], shape[2]) if len(shape) == 3 else (1, 1)


def _everywhere(shape: Shape, output: Shape) -> tuple[Sight, Sight]:
    rows, columns = zip(extents(shape), extents(output), strict=True)
    return Everywhere(*rows), Everywhere(*columns)


def _convolution(call: Call) -> Meaning | None:
    if len(call.inputs) != 1:  # The kernel depends on the image.
        return None
    weight: Tensor = call.options["weight"]
    dilation, stride = (_pair(call.options.get(name, 1)) for name in ("dilation", "stride"))
    kernel = (weight.shape[2], weight.shape[3])
    padding = _sides(call.options.get("padding", 0), kernel, dilation)
    options = {"bias": None, "groups": 1, **call.options, "stride": stride, "padding": padding, "dilation": dilation}
    return Meaning(Kind.CONVOLUTION, (_windows(kernel, stride, padding, dilation),), options)


def _transposed(call: Call) -> Meaning | None:
    if len(call.inputs) != 1:
        return None
    weight: Tensor = call.options["weight"]
    dilation, stride = (_pair(call.options.get(name, 1)) for name in ("dilation", "stride"))
    kernel = (weight.shape[2], weight.shape[3])
    padding = _sides(call.options.get("padding", 0), kernel, dilation)
    options = {"bias": None, "groups": 1, **call.options, "stride": stride, "padding": padding, "dilation": dilation}
    options["output_padding"] = _pair(call.options.get("output_padding", 0))
    rows, columns = _windows(kernel, stride, padding, dilation)
    return Meaning(Kind.TRANSPOSED, ((Spread(rows), Spread(columns)),), options)


def _pooling(call: Call) -> Meaning:
    kernel = _pair(call.options["kernel_size"])
    stride = _pair(call.options.get("stride") or kernel)
    dilation = _pair(call.options.get("dilation", 1))
    padding = _sides(call.options.get("padding", 0), kernel, dilation)
    options = {"ceil_mode": False, **call.options, "kernel_size": kernel, "stride": stride, "padding": padding}
    sees = (_windows(kernel, stride, padding, dilation),)
    if call.function == "max_pool2d":
        return Meaning(Kind.MAX_POOL, sees, {**options, "dilation": dilation})
    return Meaning(Kind.AVERAGE_POOL, sees, {"count_include_pad": True, "divisor_override": None, **options})


def _pointwise(call: Call) -> Meaning | None:
    if len(call.inputs) != 1 or extents(call.inputs[0]) != extents(call.output):
        return None
    return Meaning(Kind.POINTWISE, ((IDENTITY, IDENTITY),), call.options)


def _batch_norm(call: Call) -> Meaning | None:
    return None if call.options.get("training") else _pointwise(call)


def _over_channels(call: Call) -> Meaning | None:
    return _pointwise(call) if call.options.get("dim") in (1, -3) and len(call.output) == 3 else None


def _arithmetic(call: Call) -> Meaning | None:
    arguments = [*call.options["args"], *call.options.values()]
    constants = [value for value in arguments if isinstance(value, Tensor)]
    if len(call.output) == 3 and any(value.shape[-2:].numel() > 1 for value in constants):
        return None  # A constant that differs from place to place.
    if len(call.inputs) == 1:
        return _pointwise(call)
    kinds = {"mul": Kind.MULTIPLY} if "alpha" in call.options else {"add": Kind.ADD, "mul": Kind.MULTIPLY}
    pairs = [zip(extents(shape), extents(call.output), strict=True) for shape in call.inputs]
    # An axis of one unit is repeated.
    sights = [[IDENTITY if before == after else Everywhere(before, after) for before, after in pair] for pair in pairs]
    return Meaning(
        kinds.get(call.function, Kind.JOIN), tuple((rows, columns) for rows, columns in sights), call.options
    )


def _concatenate(call: Call) -> Meaning | None:
    if call.options.get("dim", 0) not in (1, -3) or len(call.output) != 3:
        return None
    if not all(isinstance(tensor, Input) for tensor in call.options["tensors"]):
        return None
    return Meaning(Kind.CONCATENATE, ((IDENTITY, IDENTITY),) * len(call.inputs), call.options)


def _pad(call: Call) -> Meaning | None:
    sides = [*call.options["pad"], 0, 0, 0, 0][:4]
    if call.options.get("mode", "constant") != "constant" or any(call.options["pad"][4:]) or len(call.output) != 3:
        return None
    left, right, top, bottom = sides
    options = {"value": 0.0, **call.options, "padding": ((top, bottom), (left, right))}
    return Meaning(Kind.PAD, ((Window(start=-top), Window(start=-left)),), options)


def _getitem(call: Call) -> Meaning | None:
    (index,) = call.options["args"]
    index = index if isinstance(index, tuple) else (index,)
    if len(call.inputs[0]) != 3 or len(call.output) != 3:
        return None
    dots = [place for place, cut in enumerate(index) if cut is Ellipsis]
    for place in dots:
        index = (*index[:place], *[slice(None)] * (5 - len(index)), *index[place + 1 :])
    index = (*index, *[slice(None)] * (4 - len(index)))
    if len(index) != 4 or not all(isinstance(cut, slice) for cut in index) or index[0] != slice(None):
        return None
    cuts = [cut.indices(extent) for cut, extent in zip(index[2:], call.inputs[0][1:], strict=True)]
    rows, columns = (Window(step=step, start=start) for start, _, step in cuts)
    return Meaning(Kind.SLICE, ((rows, columns),), call.options)


def _part(call: Call) -> Meaning | None:
    if call.options.get("dim", 0) not in (1, -3) or len(call.output) != 3:
        return None
    return Meaning(Kind.SLICE, ((IDENTITY, IDENTITY),), call.options)


def _resize(call: Call) -> Meaning | None:
    if len(call.output) != 3 or call.options.get("antialias"):
        return None
    mode, corners = call.options.get("mode", "nearest"), call.options.get("align_corners")
    factor = call.options.get("scale_factor")
    sights = []
    for axis, (before, after) in enumerate(zip(extents(call.inputs[0]), extents(call.output), strict=True)):
        scale = factor[axis] if isinstance(factor, Sequence) else factor
        if mode not in ("nearest", "bilinear") or (scale is not None and before * scale != after):
            return None
        if mode == "nearest":
            sights.append(Window(1, before, 0, after))
        elif not corners:
            sights.append(Window(2, 2 * before, before - after, 2 * after))
        elif before == 1 or after == 1:
            return None
        else:
            sights.append(Window(2, before - 1, 0, after - 1))
    rows, columns = sights
    return Meaning(Kind.RESIZE, ((rows, columns),), call.options)


def _windows(kernel: Pair, stride: Pair, padding: tuple[Pair, Pair], dilation: Pair) -> tuple[Window, Window]:
    rows, columns = (Window(dilation[a] * (kernel[a] - 1) + 1, stride[a], -padding[a][0]) for a in (0, 1))
    return rows, columns


def _sides(padding: Any, kernel: Pair, dilation: Pair) -> tuple[Pair, Pair]:  # noqa: ANN401
    if padding == "same":
        rows, columns = (
            (d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True)
        )
        return rows, columns
    top, left = (0, 0) if padding == "valid" else _pair(padding)
    return (top, top), (left, left)


def _pair(size: Any) -> Pair:  # noqa: ANN401
    sizes = tuple(size) if isinstance(size, Sequence) else (size,)
    return sizes[0], sizes[-1]


_ACTIVATIONS = (
    "relu relu6 hardtanh leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid logsigmoid hardsigmoid hardswish "
    "tanh tanhshrink hardshrink softshrink softplus softsign threshold clamp clamp_min clamp_max clip exp log log1p "
    "expm1 sqrt rsqrt square reciprocal abs neg sign dropout dropout2d alpha_dropout feature_alpha_dropout "
    "local_response_norm contiguous clone detach to type type_as float double half bfloat16 nan_to_num"
)
_ARITHMETIC = "add sub rsub mul div rdiv true_divide rtruediv pow rpow maximum minimum"
RULES: Mapping[str, Callable[[Call], Meaning | None]] = {
    **dict.fromkeys(_ACTIVATIONS.split(), _pointwise),
    **dict.fromkeys(_ARITHMETIC.split(), _arithmetic),
    "conv2d": _convolution,
    "conv_transpose2d": _transposed,
    "max_pool2d": _pooling,
    "avg_pool2d": _pooling,
    "batch_norm": _batch_norm,
    "softmax": _over_channels,
    "log_softmax": _over_channels,
    "cat": _concatenate,
    "concat": _concatenate,
    "pad": _pad,
    "getitem": _getitem,
    "chunk": _part,
    "split": _part,
    "interpolate": _resize,
}
