"""What changes while a run trains: network, optimiser, losses, and the step that changes them.

It knows the cluster only as a `Runtime`, and never makes the host wait for the device within a step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from fcn_core.checkpoint import Epoch, Restored
from fcn_core.compute import Numerics
from fcn_core.data.batches import Batch
from fcn_core.losses import SegmentationLoss
from fcn_core.models.fcn import FCN
from fcn_core.models.preprocessing import preprocess
from fcn_core.optim import MovingAverage, build_optimizer, set_learning_rate
from fcn_core.settings import Run


class Progress(NamedTuple):
    """Where a run stands within an epoch."""

    epoch: int
    """Being trained, counted from 1."""
    epochs: int
    step: int
    steps: int
    """Of the whole run."""
    loss: float
    """Of the last step."""
    images_per_s: float


class Runtime(Protocol):
    """What the loop knows of the cluster."""

    rank: int
    workers: int
    device: torch.device

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network such that gradients are averaged over the workers."""
        ...

    def sum_over_workers(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all workers, in place, and return it."""
        ...

    def say(self, message: str) -> None:
        """Tell people something; returns at once."""
        ...

    def show(self, progress: Progress) -> None:
        """Show progress; returns at once."""
        ...

    def begin(self, step: int) -> None:
        """Take note of the step that training starts from; returns at once."""
        ...

    def finish_epoch(self, epoch: Epoch, checkpoint: str) -> None:
        """Take note of a finished epoch whose checkpoint is published."""
        ...

    def has_notice(self) -> bool:
        """Tell whether this worker knows that it, or another, must soon leave; returns at once."""
        ...


class PreemptedError(Exception):
    """The workers had notice to leave; all that was trained is saved."""


class NonFiniteLossError(ArithmeticError):
    """The loss or its gradient was not finite; the step was not applied."""


class Training:
    """All that changes while a run trains.

    Args:
        run: the settings.
        network: on the runtime's device.
        loss: of the global batch.
        runtime: the cluster.
        numerics: precision and layout.
        steps_per_epoch: as `Order` has it.
    """

    def __init__(
        self, run: Run, network: FCN, loss: SegmentationLoss, runtime: Runtime, numerics: Numerics, steps_per_epoch: int
    ) -> None:
        self.run = run
        self.network = network
        self.loss = loss
        self.runtime = runtime
        self.numerics = numerics
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = steps_per_epoch * run.optim.epochs
        """Of the whole schedule."""
        self.last_step = steps_per_epoch * run.optim.last_epoch
        """After which the run ends."""
        self.wrapped = runtime.wrap(cast("nn.Module", torch.compile(network)) if numerics.compile else network)
        self.optimizer = build_optimizer(network, run.optim)
        self.average = MovingAverage(network, run.optim.ema_decay) if run.optim.ema_decay else None
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.step = 0
        self.epochs: list[Epoch] = []
        self.losses = torch.zeros(steps_per_epoch, device=runtime.device)
        """The loss of each step of the epoch, over all workers."""
        self.bad_steps = torch.zeros((), device=runtime.device)
        """Steps held back since the first whose loss or gradient was not finite."""
        self.notices = torch.zeros((), device=runtime.device)
        """Workers that had notice to leave by the last step."""
        self.unscored = False
        """Whether an epoch is trained to its end but not validated yet."""

    def take_step(self, batches: Sequence[Batch]) -> None:
        """Apply one step of the optimiser, unless the loss or gradient, or that of a step before, is not finite."""
        self.learning_rate = set_learning_rate(self.optimizer, self.run.optim, self.step, self.num_steps)
        loss = self._gradient([self._on_device(batch) for batch in batches])
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        if self.run.optim.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.run.optim.clip_norm, norm)
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        self.bad_steps += torch.where(finite & (self.bad_steps == 0), 0, 1)
        # Read on the device by the fused optimiser: a step that must not be applied is not, and nobody waited to know.
        self.optimizer.found_inf = self.bad_steps.clamp(max=1)  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self.losses[self.step % self.steps_per_epoch] = loss
        self.step += 1

    def check(self) -> None:
        """Stop if a step had to be held back; every worker finds the same.

        Raises:
            NonFiniteLossError: naming the step and the likely cause.
        """
        held_back = int(self.bad_steps)
        if held_back:
            raise NonFiniteLossError(self._diagnosis(self.step + 1 - held_back))

    def heed(self, notices: Tensor) -> None:
        """Stop if any worker had notice to leave; every worker finds the same.

        Args:
            notices: over all workers, how many had.

        Raises:
            PreemptedError: some had.
        """
        if notices > 0:
            raise PreemptedError(f"stopped at step {self.step} of {self.last_step}, which is saved")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights to be used, and all else that must be restored; the tensors change with the next step."""
        rest: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "unscored": self.unscored,
            "computed": self.numerics.describe(),
            "epochs": [epoch.model_dump(mode="json") for epoch in self.epochs],
        }
        weights = dict(self.network.state_dict())
        if self.average is not None:
            rest["raw_weights"] = weights
            names = [name for name, _ in self.network.named_parameters()]
            weights = weights | dict(zip(names, self.average.average, strict=True))
        return weights, rest

    def restore(self, restored: Restored) -> None:
        """Go back to a checkpoint: the same weights, optimiser, losses and history, bit by bit."""
        self.network.load_state_dict(restored.state.get("raw_weights", restored.weights))
        if self.average is not None:
            self.average.load([restored.weights[name] for name, _ in self.network.named_parameters()])
        self._load_optimizer(restored.state["optimizer"])
        self.losses.copy_(restored.state["losses"])
        self.epochs = [Epoch.model_validate(epoch) for epoch in restored.state["epochs"]]
        self.step = restored.step
        self.unscored = restored.state["unscored"]
        self.learning_rate = set_learning_rate(self.optimizer, self.run.optim, self.step - 1, self.num_steps)
        self.runtime.say(f"resumed at step {self.step} of {self.last_step}")
        if restored.state["computed"] != self.numerics.describe():
            began, now = restored.state["computed"], self.numerics.describe()
            self.runtime.say(f"not to the same bits as if never stopped: began on {began}, goes on on {now}")

    def continue_from(self, restored: Restored) -> None:
        """Go on from a checkpoint of another run, with the settings of this one; the history is this one's own.

        Raises:
            ValueError: what was trained there cannot go on here.
        """
        state = restored.state
        if state["losses"].shape != self.losses.shape:
            theirs = len(state["losses"])
            raise ValueError(f"an epoch has {theirs} steps there and {self.steps_per_epoch} here: use the same batches")
        if restored.step >= self.last_step:
            raise ValueError(f"it ended at step {restored.step}, and this run at {self.last_step}: raise optim.epochs")
        if _outline(state["optimizer"], averaged="raw_weights" in state) != _outline(
            self.optimizer.state_dict(), averaged=self.average is not None
        ):
            raise ValueError("its optimiser keeps another state: optim.method and optim.ema_decay must be as there")
        self.restore(restored)
        self.epochs, self.unscored = [], False

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Load moments and counts; rates and decays are those of our settings."""
        ours = [{name: value for name, value in group.items() if name != "params"} for group in self._groups]
        self.optimizer.load_state_dict(state)
        for group, settings in zip(self._groups, ours, strict=True):
            group.update(settings)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def _on_device(self, batch: Batch) -> Batch:
        return Batch(*(tensor.to(self.runtime.device, non_blocking=True) for tensor in batch))

    def _gradient(self, batches: Sequence[Batch]) -> Tensor:
        """Accumulate the gradient of the global batch's loss and return that loss."""
        weight = torch.stack([self.loss.labelled_weight(batch.masks) for batch in batches]).sum()
        weight = self.runtime.sum_over_workers(weight)
        total = torch.zeros((), device=self.runtime.device)
        self.wrapped.train()
        for number, batch in enumerate(batches, start=1):
            images = preprocess(batch.images, self.run.model.preprocessing).contiguous(
                memory_format=self.numerics.memory_format
            )
            # Workers exchange gradients once a step, in the last backward pass.
            self._exchange_gradients(number == len(batches))
            with self.numerics.autocast():
                predicted = self.wrapped(images, batch.seeds)
            share = self.loss.share(predicted, batch.masks, weight)
            # The workers' gradients are averaged but their shares add up.
            (share * self.runtime.workers).backward()
            total += share.detach()
        notice = torch.full_like(total, self.runtime.has_notice())
        sums = self.runtime.sum_over_workers(torch.stack([total, notice]))
        self.notices = sums[1]
        return sums[0]

    def _exchange_gradients(self, now: bool) -> None:
        if isinstance(self.wrapped, DistributedDataParallel):
            self.wrapped.require_backward_grad_sync = now

    def _diagnosis(self, step: int) -> str:
        optim, loss = self.run.optim, self.run.loss
        knob = f"lower optim.learning_rate (now {optim.learning_rate:g}; try {optim.learning_rate / 10:g})"
        if loss.reduction == "sum":
            knob = (
                f"with loss.reduction 'sum' the gradient grows with the number of pixels, so optim.learning_rate "
                f"{optim.learning_rate:g} must be about 1e5 times smaller than for 'mean'"
            )
        elif optim.clip_norm is None:
            knob += ", set optim.clip_norm (try 10) or optim.warmup_steps"
        where = f"at step {step} of {self.num_steps}"
        return f"the loss or its gradient is not finite {where}; the step was not applied; {knob}"


def _outline(optimizer: Mapping[str, Any], *, averaged: bool) -> tuple[object, ...]:
    """Return what must be alike for the state of an optimiser to be taken over."""
    groups = optimizer["param_groups"]
    return averaged, "betas" in groups[0], [len(group["params"]) for group in groups]
