from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from fcn_core.models.batch_norm import GlobalBatchNorm2d, synchronise


class Result(NamedTuple):
    """What the network did on the images of one worker, or of all."""

    outputs: Tensor
    image_gradient: Tensor
    gradients: dict[str, Tensor]
    """Of this worker's loss."""
    state: dict[str, Tensor]
    """After two steps."""
    bf16: Tensor


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5, momentum=0.3)
    ).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def images() -> Tensor:
    # Far from zero and other for each image, so that a mean over half of them is another.
    scale = torch.arange(1, 5).view(4, 1, 1, 1)
    return 10 + scale * torch.randn(4, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run(model: nn.Module, batch: Tensor, weight: Tensor) -> Result:
    model(batch.flip(3) + 1)
    batch = batch.clone().requires_grad_()
    outputs = model(batch)
    (outputs * weight).sum().backward()
    assert batch.grad is not None
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        half = model.float()(batch.detach().float())
    return Result(outputs.detach(), batch.grad, gradients, state, half.detach())


def weights() -> Tensor:
    return torch.randn(4, 5, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def work(rank: int, folder: str, workers: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=workers)
    share = slice(rank, None, workers)
    torch.save(tuple(run(synchronise(network()), images()[share], weights()[share])), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def read(folder: Path, rank: int) -> Result:
    return Result(*torch.load(folder / f"{rank}.pt"))


close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def test_a_worker_of_its_own_normalises_as_torch_does(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    work(0, str(tmp_path), workers=1)
    torch.set_num_threads(threads)
    alone, one = read(tmp_path, 0), run(network(), images(), weights())
    close(alone[:-1], one[:-1])
    torch.testing.assert_close(alone.bf16, one.bf16, rtol=0.05, atol=0.05)


def test_two_workers_normalise_as_one_that_has_all_images(tmp_path: Path) -> None:
    spawn(work, args=(str(tmp_path), 2), nprocs=2)
    one = run(network(), images(), weights())
    first, second = read(tmp_path, 0), read(tmp_path, 1)
    for worker, share in ((first, slice(0, None, 2)), (second, slice(1, None, 2))):
        close(worker.outputs, one.outputs[share])
        close(worker.image_gradient, one.image_gradient[share])
        assert list(worker.state) == list(one.state)
        close(worker.state, one.state)
        assert worker.bf16.dtype == one.bf16.dtype
        torch.testing.assert_close(worker.bf16, one.bf16[share], rtol=0.05, atol=0.05)
    summed = {name: first.gradients[name] + second.gradients[name] for name in one.gradients}
    close(summed, one.gradients)


def test_a_synchronised_network_is_a_plain_one_outside_training() -> None:
    plain, model = network(), network()
    run(plain, images(), weights())
    model.load_state_dict(plain.state_dict())
    parameters = list(model.parameters())
    assert synchronise(model) is model
    assert [type(layer) for layer in model if isinstance(layer, nn.BatchNorm2d)] == [GlobalBatchNorm2d] * 2
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(plain.state_dict())
    # No process group is needed here: nothing is shared.
    assert torch.equal(model.eval()(images()), plain.double().eval()(images()))
