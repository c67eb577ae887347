"""Notice to leave: what was trained is saved at once, and nothing is done again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.runtime import DistributedRuntime, LocalRuntime
from fcn_core.settings import Run
from fcn_core.training import PreemptedError, Progress
from tests.tiny import TINY, assert_same_bits, changed, train

AVERAGED = changed({"optim.ema_decay": 0.9})


class Noticed(LocalRuntime):
    """Has notice from the end of a step on, or from the n-th time that it is asked after it."""

    def __init__(self, step: int, questions: int = 0) -> None:
        super().__init__()
        self.step, self.questions = step, questions
        self.steps: list[int] = []

    def show(self, progress: Progress) -> None:
        self.steps.append(progress.step)

    def has_notice(self) -> bool:
        if not self.steps or self.steps[-1] < self.step:
            return False
        self.questions -= 1
        return self.questions < 0


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(AVERAGED, tmp_path_factory.mktemp("never_stopped"))


def test_without_notice_saving_costs_no_bit(never_stopped: RunFolder, tmp_path: Path) -> None:
    assert_same_bits(train(AVERAGED, tmp_path, save_every=1), never_stopped)


# The step with the notice is taken to its end. Validation follows on the third and the ninth, the last.
@pytest.mark.parametrize(
    ("step", "questions", "saved"),
    [(1, 0, 2), (2, 0, 3), (3, 0, 3), (3, 1, 4), (8, 0, 9), (9, 0, 9)],
    ids=["within an epoch", "its last step", "validation", "after it", "the last step", "the last validation"],
)
def test_a_run_with_notice_is_saved_at_once_and_does_nothing_again(
    step: int, questions: int, saved: int, never_stopped: RunFolder, tmp_path: Path
) -> None:
    runtime, after = Noticed(step, questions), Noticed(100)
    with pytest.raises(PreemptedError, match=f"stopped at step {saved} of 9, which is saved"):
        train(AVERAGED, tmp_path, runtime)
    folder = RunFolder(str(tmp_path))
    assert folder.steps()[-1] == saved
    storage.verify(folder.checkpoint(saved))
    assert_same_bits(train(AVERAGED, tmp_path, after), never_stopped)
    assert runtime.steps + after.steps == list(range(1, 10))


def test_what_goes_on_from_a_run_that_was_not_scored_yet_does_not_score_it(
    never_stopped: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(PreemptedError):
        train(AVERAGED, tmp_path / "first", Noticed(2))
    second = changed({"optim.ema_decay": 0.9, "optim.continue_from": str(tmp_path / "first")})
    epochs = train(second, tmp_path / "second").read_epochs()
    assert [epoch.epoch for epoch in epochs] == [2, 3]
    assert [epoch.train_loss for epoch in epochs] == [epoch.train_loss for epoch in never_stopped.read_epochs()[1:]]


def test_two_workers_leave_at_the_same_step_though_one_alone_had_notice(tmp_path: Path) -> None:
    for name, notice in (("whole", None), ("left", 4), ("left", None)):
        spawn(_work, args=(TINY, str(tmp_path / name), str(tmp_path / f"group-{name}-{notice}"), notice), nprocs=2)
        if notice:
            assert RunFolder(str(tmp_path / name)).steps()[-1] == notice + 1
    assert_same_bits(RunFolder(str(tmp_path / "left")), RunFolder(str(tmp_path / "whole")))


class NoticedSecond(DistributedRuntime):
    """The second of two workers has notice from a step on."""

    def __init__(self, rank: int, notice: int | None) -> None:
        super().__init__("cpu", rank, 2)
        self.notice = notice
        self.step = 0

    def show(self, progress: Progress) -> None:
        self.step = progress.step

    def has_notice(self) -> bool:
        return self.rank == 1 and self.notice is not None and self.step >= self.notice


def _work(rank: int, run: Run, folder: str, group: str, notice: int | None) -> None:
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"init_method": f"file://{group}", "rank": rank, "world_size": 2}
    distributed.init_process_group("gloo", **settings)
    try:
        train(run, folder, NoticedSecond(rank, notice))
    except PreemptedError:
        assert notice is not None
    distributed.destroy_process_group()
