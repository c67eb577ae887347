import pytest
import torch

from fcn_core.checkpoint import Epoch
from fcn_core.metrics.rules import scores
from fcn_core.training import Progress
from jobs import _console
from jobs._console import Console, percent


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_console, "LINE_EVERY_S", 0.0)
    matrix = torch.tensor([[3, 1], [0, 4], [0, 0]])
    epoch = Epoch(
        epoch=2, step=8, train_loss=0.25, learning_rate=0.1, scores=scores(matrix), images_per_s=7.0, seconds=3.0
    )
    with Console() as console:
        console.show("starting [2] workers")
        console.show(Progress(epoch=1, epochs=3, step=4, steps=12, loss=0.5, images_per_s=7.25))
        console.done()
        console.show(epoch)
    said, counted, finished = capsys.readouterr().out.splitlines()
    assert said == "starting [2] workers"
    assert counted == "epoch 1 of 3, step 4 of 12, loss 0.500, 7.2 images/s"
    assert "loss 0.2500  mean IoU 77.5 %  pixel accuracy 87.5 %" in finished


def test_a_class_without_a_score_has_none() -> None:
    assert (percent(None), percent(0.5)) == ("none", "50.0 %")
