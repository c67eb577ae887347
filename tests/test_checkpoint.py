import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fcn_core import storage
from fcn_core.checkpoint import CARD, STATE, WEIGHTS, Card, Epoch, RunFolder, best_epoch, find, load, load_weights
from fcn_core.metrics.rules import Scores
from fcn_core.models.fcn import FCN
from fcn_core.settings import Classes, Model

MODEL = Model(trunk="resnet18", width=0.05, dropout=0, preprocessing="caffe")
CLASSES = Classes(names=("road", "sky"), colours=((128, 64, 128), (70, 130, 180)))


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    return RunFolder(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}")


def network(seed: int = 0) -> FCN:
    torch.manual_seed(seed)
    model = FCN(MODEL, len(CLASSES))
    for parameter in model.scores.parameters():
        nn.init.normal_(parameter)
    return model


def card(step: int) -> Card:
    return Card(
        model=MODEL, classes=CLASSES, scale=0.5, bf16=False, run_id="run-0", step=step, epoch=step // 2, mean_iou=0.25
    )


def save(folder: RunFolder, *steps: int) -> None:
    for step in steps:
        folder.save(card(step), network(step).state_dict(), {"step": step})


def epochs(*scored: tuple[int, float | None]) -> list[Epoch]:
    return [epoch(number, step, mean_iou) for number, (step, mean_iou) in enumerate(scored, start=1)]


def epoch(number: int, step: int, mean_iou: float | None) -> Epoch:
    scores = Scores(
        pixel_accuracy=0.5,
        mean_accuracy=0.5,
        mean_iou=mean_iou,
        frequency_weighted_iou=0.1 + 0.2,
        mean_dice=None,
        class_accuracy=(None, 0.5),
        class_iou=(0.0, 1 / 3),
        class_dice=(0.0, 0.5),
        labelled_pixels=2**40,
    )
    return Epoch(
        epoch=number, step=step, train_loss=0.3, learning_rate=1e-4, scores=scores, images_per_s=2.5, seconds=60.0
    )


def tear(folder: RunFolder, step: int) -> None:
    storage.write_bytes(storage.join(folder.checkpoint(step), WEIGHTS), b"torn")


def same_bits(ours: object, theirs: object) -> bool:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, check_stride=False)
    return True


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        model(torch.ones(2, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("method", [torch.optim.SGD, torch.optim.AdamW])
def test_a_checkpoint_gives_back_every_bit(folder: RunFolder, method: type[torch.optim.Optimizer]) -> None:
    def start() -> tuple[FCN, torch.optim.Optimizer]:
        model = network().to(memory_format=torch.channels_last)
        return model, method(model.parameters(), lr=0.1, **({"momentum": 0.9} if method is torch.optim.SGD else {}))  # type: ignore[arg-type, call-arg]

    model, optimizer = start()
    train(model, optimizer)
    folder.save(card(2), model.state_dict(), {"optimizer": optimizer.state_dict(), "losses": torch.rand(3)})
    restored = folder.latest("run-0", print)
    assert restored is not None
    assert restored.step == 2
    assert same_bits(restored.weights, model.state_dict())
    assert same_bits(restored.state["optimizer"], optimizer.state_dict())
    other, other_optimizer = start()
    other.load_state_dict(restored.weights)
    other_optimizer.load_state_dict(restored.state["optimizer"])
    for each in ((model, optimizer), (other, other_optimizer)):
        train(*each)
    assert same_bits(other.state_dict(), model.state_dict())


def test_the_latest_is_the_newest_that_is_whole_and_others_are_told(folder: RunFolder) -> None:
    told: list[str] = []
    assert folder.latest("run-0", told.append) is None
    save(folder, 9, 10, 100, 1000)
    tear(folder, 1000)
    storage.remove_folder(storage.join(folder.checkpoint(100), storage.COMMIT))
    restored = folder.latest("run-0", told.append)
    assert restored is not None
    assert (restored.step, restored.state) == (10, {"step": 10})
    assert [message.split(":")[0] for message in told] == ["passed over a checkpoint"] * 2
    assert "00001000 is damaged: model.safetensors" in told[0]
    assert "00000100 was never completed: it lacks COMMIT" in told[1]


def test_only_checkpoints_are_counted(folder: RunFolder) -> None:
    save(folder, 3, 20)
    storage.write_bytes(storage.join(folder.checkpoints, ".partial-x", WEIGHTS), b"")
    storage.write_bytes(storage.join(folder.checkpoints, "notes.txt"), b"")
    assert folder.steps() == [3, 20]


def test_the_best_is_by_mean_iou_the_first_of_equals_else_the_newest_whole(folder: RunFolder) -> None:
    with pytest.raises(FileNotFoundError, match=f"{folder.url} has no complete checkpoint"):
        folder.best()
    save(folder, 2, 4, 6, 8)
    assert folder.best() == folder.checkpoint(8)
    folder.write_epochs(epochs((2, None), (4, 0.5), (6, 0.5), (8, 0.4)))
    assert folder.best() == find(folder.url) == folder.checkpoint(4)
    tear(folder, 4)
    assert folder.best() == folder.checkpoint(8)
    tear(folder, 8)
    assert folder.best() == folder.checkpoint(6)


@pytest.mark.parametrize(
    ("scored", "best"),
    [([], None), ([(2, None)], 2), ([(2, 0.1), (4, 0.3), (6, 0.3)], 4), ([(2, 0.0), (4, None)], 2)],
)
def test_the_best_epoch(scored: Sequence[tuple[int, float | None]], best: int | None) -> None:
    found = best_epoch(epochs(*scored))
    assert (found.step if found else None) == best


@pytest.mark.parametrize(
    ("keep_last", "best", "kept"),
    [(2, 2, [2, 4, 5]), (2, None, [4, 5]), (1, 5, [5]), (9, None, [1, 2, 3, 4, 5])],
)
def test_pruning_keeps_the_last_and_the_best(
    folder: RunFolder, keep_last: int, best: int | None, kept: list[int]
) -> None:
    for step in range(1, 6):
        with storage.publishing(folder.checkpoint(step)):
            pass
    folder.prune(5, keep_last, best)
    assert folder.steps() == kept


@pytest.mark.parametrize(("keep_last", "kept"), [(1, [5]), (2, [4, 5]), (3, [2, 4, 5])])
def test_pruning_counts_only_what_is_whole_and_came_before(folder: RunFolder, keep_last: int, kept: list[int]) -> None:
    for step in (2, 3, 4, 5, 6, 7):
        with storage.publishing(folder.checkpoint(step)):
            pass
    for torn in (3, 6):
        storage.remove_folder(storage.join(folder.checkpoint(torn), storage.COMMIT))
        storage.write_bytes(storage.join(folder.checkpoint(torn), WEIGHTS), b"begun")
    folder.prune(5, keep_last, None)
    assert folder.steps() == kept


def test_a_checkpoint_is_found_by_its_own_url_or_that_of_its_run(folder: RunFolder) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{folder.url} is neither a checkpoint nor a run: .*manifest\.json"):
        find(folder.url)
    save(folder, 2, 4)
    assert find(folder.checkpoint(2)) == folder.checkpoint(2)
    assert find(folder.url) == folder.checkpoint(4)
    assert same_bits(load_weights(folder.url)[0], network(4).state_dict())


def test_a_checkpoint_rebuilds_its_network_by_itself(folder: RunFolder) -> None:
    model = network()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    url = folder.save(card(2), model.state_dict(), {})
    rebuilt, found = load(url)
    assert found == card(2)
    assert not any(module.training for module in rebuilt.modules())
    images = torch.randn(1, 3, 37, 41)
    assert torch.equal(rebuilt(images), model.eval()(images))


def test_a_damaged_network_is_not_loaded(folder: RunFolder) -> None:
    save(folder, 2)
    tear(folder, 2)
    with pytest.raises(storage.TornError, match=r"model\.safetensors has not the SHA-256"):
        load(folder.checkpoint(2))


def test_the_card_describes_the_network_and_its_use(folder: RunFolder) -> None:
    save(folder, 2)
    found = json.loads(storage.read_bytes(storage.join(folder.checkpoint(2), CARD)))
    assert found["format"] == 1
    assert found["model"] == MODEL.model_dump(mode="json")
    assert found["model"]["preprocessing"] == "caffe"
    assert found["classes"] == {"names": ["road", "sky"], "colours": [[128, 64, 128], [70, 130, 180]]}
    assert (found["void"], found["scale"], found["bf16"]) == (255, 0.5, False)
    assert (found["run_id"], found["step"], found["epoch"], found["mean_iou"]) == ("run-0", 2, 1, 0.25)


class Exploit:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_executed(folder: RunFolder, tmp_path: Path, zipped: bool) -> None:
    victim = tmp_path / "victim"
    with storage.publishing(folder.checkpoint(2)) as place:
        torch.save(Exploit(victim), place / STATE, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        folder.read(2)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        folder.latest("run-0", print)
    assert not victim.exists()
    with (storage.fetch(folder.checkpoint(2)) / STATE).open("rb") as file:
        torch.load(file, weights_only=False)
    assert victim.exists(), "the exploit works where it is let"


def test_epochs_are_written_one_per_line_and_read_back(folder: RunFolder) -> None:
    assert folder.read_epochs() == []
    written = epochs((2, 0.1), (4, None))
    folder.write_epochs(written)
    assert folder.read_epochs() == written
    lines = storage.read_bytes(storage.join(folder.url, "epochs.jsonl")).decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_the_facts_of_a_run_are_written_and_read_back(folder: RunFolder) -> None:
    assert folder.read_run() is None
    facts = {"run_id": "run-0", "settings": {"seed": 0}, "nothing": None}
    folder.write_run(facts)
    assert folder.read_run() == facts


def test_weights_and_state_are_taken_as_they_are_when_saved(folder: RunFolder) -> None:
    weights: dict[str, Tensor] = {"a": torch.ones(2, 3).t(), "b": torch.ones(2, requires_grad=True)}
    folder.save(card(2), weights, {})
    with torch.no_grad():
        weights["a"].zero_()
    assert folder.read(2).weights["a"].tolist() == [[1, 1]] * 3
