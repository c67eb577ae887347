import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fcn_core import fit, saving, storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.runtime import LocalRuntime
from fcn_core.saving import snapshot, together
from fcn_core.training import PreemptedError, Progress
from tests.faulty import Fault, Proxy, faulty_s3
from tests.test_checkpoint import CLASSES
from tests.tiny import TINY, assert_same_bits, train


@pytest.fixture(scope="module")
def s3() -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as patch, faulty_s3(patch, deadline_s=20.0, patience_s=90.0) as proxy:
        yield proxy


@pytest.fixture
def url(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert not s3.faults
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    return f"s3://lab/{tmp_path.name}"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(TINY, tmp_path_factory.mktemp("local"))


class Watching(LocalRuntime):
    """Notes which steps were taken when an epoch was told of, and whether its checkpoint was there by then."""

    def __init__(self, wait_at: int | None = None, released: threading.Event | None = None) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.told: list[tuple[int, int, bool]] = []
        self._wait_at = wait_at
        self._released = released

    def show(self, progress: Progress) -> None:
        self.steps.append(progress.step)
        if progress.step == self._wait_at and self._released is not None:
            self._released.set()

    def finish_epoch(self, epoch: Epoch, checkpoint: str) -> None:
        self.told.append((epoch.epoch, self.steps[-1], storage.exists(storage.join(checkpoint, storage.COMMIT))))


def test_steps_go_on_while_a_checkpoint_goes_up_and_the_bits_are_the_same(
    s3: Proxy, url: str, local: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    runtime = Watching(wait_at=5, released=released)
    save = RunFolder.save

    def save_when_released(folder: RunFolder, *args: object) -> str:
        # Published only when two steps of the next epoch have been taken; waiting for it would last for ever.
        assert released.wait(100)
        return save(folder, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(RunFolder, "save", save_when_released)
    folder = train(TINY, url, runtime)
    assert [epoch for epoch, _, _ in runtime.told] == [1, 2, 3]
    assert runtime.told[0][1] >= 5
    assert all(published for _, _, published in runtime.told)
    assert_same_bits(folder, local)
    assert s3.requests


@pytest.mark.slow
def test_a_save_waits_for_the_one_before_and_the_end_for_the_last(s3: Proxy, url: str, local: RunFolder) -> None:
    runtime = Watching()
    with s3.failing(Fault("slow", "PUT .*COMMIT")):
        folder = train(TINY, url, runtime, save_every=2)
    assert [epoch for epoch, _, _ in runtime.told] == [1, 2, 3]
    commits = [request.split("/")[-2] for request in s3.requests if "PUT" in request and "COMMIT" in request]
    assert commits[-5:] == [f"{step:08d}" for step in (2, 3, 4, 6, 8, 9)][-5:]
    assert_same_bits(folder, local)


@pytest.mark.slow
def test_an_outage_is_survived(s3: Proxy, url: str, local: RunFolder) -> None:
    with s3.failing(Fault("503", ".", times=8, after=15)):
        folder = train(TINY, url)
    assert_same_bits(folder, local)


def test_an_upload_that_is_refused_ends_the_run_with_its_cause(s3: Proxy, url: str) -> None:
    runtime = Watching()
    with (
        s3.failing(Fault("403", "PUT .*00000006/COMMIT")),
        pytest.raises(storage.RefusedError, match=r"00000006 refuses put_file: .*AccessDenied on purpose"),
    ):
        train(TINY, url, runtime)
    assert [epoch for epoch, _, _ in runtime.told] == [1]
    said: list[str] = []
    restored = RunFolder(url).latest(TINY.run_id, said.append)
    assert restored is not None
    assert restored.step == 3
    assert "00000006 was never completed: it lacks COMMIT" in said[0]


def test_who_looks_and_finds_a_refusal_does_not_wait_for_the_others_who_have_left_for_it() -> None:
    class Left(LocalRuntime):
        heard = False

        def sum_over_workers(self, tensor: Tensor) -> Tensor:
            assert not self.heard, "nobody else is there any more"
            self.heard = True
            return tensor

    saver, refused = saving.Saver(RunFolder("memory://run"), CLASSES, 2, Left()), Future[None]()
    refused.set_exception(storage.RefusedError("no access"))
    saver._begun = saving._Begun(refused, "memory://run/checkpoints/00000001", None)
    with pytest.raises(storage.RefusedError, match="no access"):
        saver.look()


def test_what_was_begun_before_a_failure_is_published(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(LocalRuntime):
        def show(self, progress: Progress) -> None:
            if progress.step == 4:
                raise ArithmeticError

    with pytest.raises(ArithmeticError):
        train(TINY, url, Failing())
    assert [epoch.step for epoch in RunFolder(url).read_epochs()] == [3]
    monkeypatch.undo()
    assert storage.verify(RunFolder(url).checkpoint(3))


def test_a_run_with_notice_to_leave_waits_for_its_checkpoint(url: str) -> None:
    class Noticed(LocalRuntime):
        def has_notice(self) -> bool:
            return True

    with pytest.raises(PreemptedError, match="stopped at step 1 of"):
        train(TINY, url, Noticed())
    assert storage.verify(RunFolder(url).checkpoint(1))


def test_a_checkpoint_that_is_published_again_leaves_the_one_before(s3: Proxy, url: str, local: RunFolder) -> None:
    class NoticedAtTheEndOfAnEpoch(Watching):
        def has_notice(self) -> bool:
            return self.steps[-1:] == [2]

    with pytest.raises(PreemptedError, match="stopped at step 3 of"):
        train(TINY, url, NoticedAtTheEndOfAnEpoch(), save_every=1, keep_last=1)
    folder = RunFolder(url)
    assert folder.steps() == [2, 3]
    # Scored now, it goes up again.
    with s3.failing(Fault("403", "PUT .*00000003/COMMIT")), pytest.raises(storage.RefusedError):
        train(TINY, url, save_every=1, keep_last=1)
    assert folder.newest() == folder.checkpoint(2)
    assert_same_bits(train(TINY, url, save_every=1, keep_last=1), local)
    assert len(folder.steps()) <= 2


def test_a_checkpoint_of_another_run_is_passed_over(
    tmp_path: Path, local: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = train(TINY.model_copy(), tmp_path / "run", keep_last=1)
    with storage.publishing(folder.checkpoint(100)) as place:
        for path in storage.fetch(local.checkpoint(6)).iterdir():
            if path.name not in (storage.MANIFEST, storage.COMMIT):
                (place / path.name).write_bytes(path.read_bytes())
    with caplog.at_level(logging.INFO):
        train(TINY, tmp_path / "run", keep_last=1)
    assert "00000100 is not what its place says: it is step 6 of tiny-" in caplog.text


def test_a_snapshot_stays_as_it_is() -> None:
    state: dict[str, Any] = {
        "a": torch.ones(2, 3).t(),
        "b": [torch.zeros(1), 5, ("x", torch.ones(1, requires_grad=True))],
    }
    copy = snapshot(state)
    state["a"].zero_()
    assert copy["a"].tolist() == [[1, 1]] * 3
    assert copy["a"].stride() == (1, 3)
    assert copy["b"][1:] == [5, ("x", torch.ones(1))]
    assert not copy["b"][2][1].requires_grad


class Meeting(LocalRuntime):
    """Two workers in two threads."""

    def __init__(self, rank: int, barrier: threading.Barrier, numbers: list[int]) -> None:
        super().__init__(rank=rank, workers=2)
        self._barrier = barrier
        self._numbers = numbers
        self.met = 0

    def sum_over_workers(self, tensor: Tensor) -> Tensor:
        self.met += 1
        self._numbers[self.rank] = int(tensor)
        self._barrier.wait(60)
        total = torch.tensor(sum(self._numbers))
        self._barrier.wait(60)
        return total


def meet(*works: Callable[[], object]) -> list[Any]:
    barrier, numbers = threading.Barrier(2), [0, 0]
    runtimes = [Meeting(rank, barrier, numbers) for rank in range(2)]

    def carry_out(rank: int) -> Any:  # noqa: ANN401
        try:
            return together(runtimes[rank], works[rank])
        except OSError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(carry_out, range(2)))
    assert runtimes[0].met == runtimes[1].met
    return [*found, runtimes[0].met]


def test_workers_meet_while_one_waits_for_the_storage() -> None:
    waiting = threading.Event()
    threading.Timer(2.5, waiting.set).start()
    first, second, met = meet(lambda: waiting.wait(60), lambda: 7)
    assert (first, second) == (True, 7)
    assert met >= 3


def test_what_one_worker_is_refused_ends_all() -> None:
    def refuse() -> None:
        raise storage.RefusedError("no access")

    first, second, _ = meet(refuse, lambda: 7)
    assert str(first) == "no access"
    assert isinstance(second, storage.RefusedError)
    assert "another worker" in str(second)


@pytest.mark.parametrize("name", ["open_train_val", "build_network", "training_batches", "preloaded"])
def test_workers_meet_while_one_waits_for_data_or_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(LocalRuntime):
        met = 0

        def sum_over_workers(self, tensor: Tensor) -> Tensor:
            self.met += 1
            return tensor

    runtime, function = Counting(), getattr(fit, name)

    def slow(*args: object, **kwargs: object) -> object:
        enough, deadline = runtime.met + 3, time.monotonic() + 60
        while runtime.met < enough:
            assert time.monotonic() < deadline, "nobody meets"
            time.sleep(0.01)
        return function(*args, **kwargs)

    monkeypatch.setattr(saving, "BEAT_S", 0.02)
    monkeypatch.setattr(fit, name, slow)
    train(TINY, tmp_path, runtime)
