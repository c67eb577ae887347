import itertools
from collections.abc import Mapping
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fcn_core.models.fcn import FCN
from fcn_core.optim import (
    MovingAverage,
    build_optimizer,
    mean_from_sum,
    schedule,
    set_learning_rate,
)
from fcn_core.settings import Model, Optim

SGD = Optim(learning_rate=0.1, weight_decay=0.5, momentum=0.9)
ADAMW = Optim(method="adamw", learning_rate=0.1, weight_decay=0.5)
Method = Literal["sgd", "adamw"]

both_methods = pytest.mark.parametrize("optim", [SGD, ADAMW], ids=["sgd", "adamw"])
devices = pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])


def network(upsampling: Literal["fixed", "learned", "learned_but_last"] = "learned_but_last") -> FCN:
    torch.manual_seed(0)
    return FCN(Model(trunk="vgg16_bn", width=0.02, fc_channels=3, upsampling=upsampling), 2)


def rates(model: nn.Module, optim: Optim) -> Mapping[str, tuple[float, float]]:
    """Return the learning rate and weight decay of each parameter that learns, by name."""
    optimizer = build_optimizer(model, optim)
    set_learning_rate(optimizer, optim, 0, 10)
    groups = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    found = {id(parameter): (group["lr"], group["weight_decay"]) for parameter, group in groups}
    assert len(found) == len(groups), "each parameter is in one group"
    return {name: found[id(each)] for name, each in model.named_parameters() if id(each) in found}


@pytest.mark.parametrize(("optim", "bias_rate"), [(SGD, 0.2), (ADAMW, 0.1)], ids=["sgd", "adamw"])
def test_biases_learn_twice_as_fast_with_sgd_and_only_weights_are_decayed(optim: Optim, bias_rate: float) -> None:
    found = rates(network(), optim)
    assert found["trunk.stages.0.conv1_1.weight"] == (0.1, 0.5)
    assert found["trunk.stages.0.conv1_1.bias"] == (bias_rate, 0)
    assert found["trunk.stages.0.bn1_1.weight"] == (0.1, 0)
    assert found["scores.score_fr.weight"] == (0.1, 0.5)
    assert found["scores.score_fr.bias"] == (bias_rate, 0)
    assert found["upscores.upscore2.weight"] == (0.1, 0.5)


@both_methods
def test_without_a_gradient_only_weights_shrink(optim: Optim) -> None:
    model = network("learned")
    optimizer = build_optimizer(model, optim)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, torch.ones_like(parameter))
    }
    assert shrunk == {name for name, parameter in model.named_parameters() if parameter.dim() > 1}


def test_frozen_upsampling_is_not_optimised() -> None:
    frozen = {
        policy: {name for name, _ in network(policy).named_parameters()} - rates(network(policy), SGD).keys()
        for policy in ("fixed", "learned", "learned_but_last")
    }
    assert frozen == {
        "fixed": {f"upscores.{name}.weight" for name in ("upscore2", "upscore_pool4", "upscore8")},
        "learned_but_last": {"upscores.upscore8.weight"},
        "learned": set(),
    }


@pytest.mark.parametrize(
    ("name", "just_after_warm_up", "half", "last"),
    [
        ("poly", 0.9**0.9, 0.5**0.9, 0.1**0.9),
        ("cosine", 0.975528, 0.5, 0.024472),
        ("fixed", 1, 1, 1),
    ],
)
def test_schedules_by_hand(
    name: Literal["poly", "cosine", "fixed"], just_after_warm_up: float, half: float, last: float
) -> None:
    optim = Optim(schedule=name, warmup_steps=4)
    shares = [schedule(optim, step, 14) for step in range(14)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert [shares[5], shares[9], shares[13]] == pytest.approx([just_after_warm_up, half, last], rel=1e-4)
    assert all(before >= after > 0 for before, after in itertools.pairwise(shares[4:]))
    assert schedule(Optim(schedule=name), 0, 14) == 1


def test_a_run_may_end_within_its_warm_up() -> None:
    assert [schedule(Optim(warmup_steps=4), step, 2) for step in range(2)] == pytest.approx([0.2, 0.4])


def test_the_rate_of_a_step_reaches_every_group() -> None:
    optim = Optim(learning_rate=0.1, warmup_steps=4)
    optimizer = build_optimizer(network(), optim)
    assert set_learning_rate(optimizer, optim, 1, 14) == pytest.approx(0.04)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.04, 0.08, 0.04])


def test_the_published_rate_converted_to_the_mean_loss_of_camvid() -> None:
    assert mean_from_sum(1e-10, 1.66e5) == pytest.approx(1.66e-5)


def test_converted_rates_take_the_same_step() -> None:
    scores, labels = torch.randn(50, 3, requires_grad=True), torch.arange(50) % 3
    (by_sum,) = torch.autograd.grad(functional.cross_entropy(scores, labels, reduction="sum"), scores)
    (by_mean,) = torch.autograd.grad(functional.cross_entropy(scores, labels), scores)
    torch.testing.assert_close(1e-3 * by_sum, mean_from_sum(1e-3, 50) * by_mean)


def test_the_moving_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1)
    average = MovingAverage(model, 0.9)
    for weight in (2.0, 4.0, -1.0):
        nn.init.constant_(model.weight, weight)
        average.update()
    # 1; 0.9 + 0.2 = 1.1; 0.99 + 0.4 = 1.39; 1.251 - 0.1 = 1.151.
    assert average.average[0].item() == pytest.approx(1.151)
    assert model.weight.item() == -1


def test_swapping_puts_the_average_into_the_model_and_swapping_again_puts_it_back() -> None:
    model = network()
    average = MovingAverage(model, 0.9)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    average.update()
    weights, averaged = _copy(model), [each.clone() for each in average.average]
    average.swap()
    assert _same(_copy(model), averaged)
    assert _same(average.average, weights)
    average.swap()
    assert _same(_copy(model), weights)
    assert _same(average.average, averaged)


def test_a_restored_average_goes_on_as_before() -> None:
    model = nn.Linear(2, 2)
    average, restored = MovingAverage(model, 0.9), MovingAverage(nn.Linear(2, 2), 0.9)
    restored.load(average.average)
    assert _same(restored.average, average.average)
    restored.average[0].zero_()
    assert average.average[0].any(), "the two share no memory"


@both_methods
@devices
def test_found_inf_holds_back_a_step(optim: Optim, device: str) -> None:
    """A fused optimiser reads this flag on the device; here it is made sure that this version of torch still does."""
    model = network().to(device)
    optimizer = build_optimizer(model, optim)
    _step(model, optimizer, gradient=1.0, found_inf=0.0)
    after_one, state = _copy(model), _state(optimizer)
    _step(model, optimizer, gradient=float("nan"), found_inf=1.0)
    assert _same(_copy(model), after_one)
    assert _same(_state(optimizer), state)
    _step(model, optimizer, gradient=1.0, found_inf=0.0)
    assert not _same(_copy(model), after_one)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, gradient: float, found_inf: float) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.found_inf = torch.tensor(found_inf, device=next(model.parameters()).device)  # type: ignore[attr-defined]
    optimizer.step()


def _copy(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [tensor.clone() for state in optimizer.state.values() for tensor in state.values()]


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
