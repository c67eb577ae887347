"""Precision, memory layout and determinism on a device."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch.utils import deterministic

from fcn_core.settings import Compute


class Numerics(NamedTuple):
    """`settings.Compute` with every 'auto' decided for one device."""

    device: torch.device
    bf16: bool
    channels_last: bool
    compile: bool

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the network runs."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def describe(self) -> str:
        """Name all that decides the last bits of a sum, but for the number of threads and workers."""
        layout = "channels last" if self.channels_last else "channels first"
        precision, compiled = ("bf16" if self.bf16 else "fp32"), (", compiled" if self.compile else "")
        return f"{self.device.type}, {precision}, {layout}{compiled}, torch {torch.__version__}"

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def decide(settings: Compute, device: torch.device) -> Numerics:
    """Decide what 'auto' means: fast on CUDA, plain elsewhere."""
    cuda = device.type == "cuda"
    return Numerics(
        device=device,
        bf16=cuda if settings.precision == "auto" else settings.precision == "bf16",
        channels_last=cuda if settings.channels_last == "auto" else settings.channels_last,
        compile=cuda if settings.compile == "auto" else settings.compile,
    )


def make_deterministic(settings: Compute, seed: int) -> None:
    """Seed torch and, if the settings say so, allow only algorithms that give the same bits again."""
    torch.manual_seed(seed)
    # cuBLAS reads this when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(settings.deterministic)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # torch makes it by a trick.
    torch.backends.cudnn.benchmark = not settings.deterministic
    # Convolutions in TF32 have 10 bits of mantissa: not what fp32 means, in training, evaluation or serving.
    torch.backends.cudnn.allow_tf32 = False
