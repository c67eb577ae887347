import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fcn_core.ceiling import best_through_grid, through_grid
from fcn_core.data.base import Dataset
from fcn_core.data.catalogue import open_split
from fcn_core.experiments import EXPERIMENTS
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.rules import scores
from jobs._ceiling import WAYS, main, measure
from jobs._console import Console
from tests.jobs.commands import Here, Refused, write_images

STRIDES = (32, 8, 3)


def directly(dataset: Dataset, indexes: range, stride: int, way: str) -> NDArray[np.int64]:
    total = np.zeros((len(dataset.classes) + 1, len(dataset.classes)), np.int64)
    for index in indexes:
        mask = dataset.read(index).mask
        through = WAYS[way](mask, stride, len(dataset.classes))
        total += confusion(torch.from_numpy(through)[None], torch.from_numpy(mask)[None], len(dataset.classes))[
            0
        ].numpy()
    return total


@pytest.fixture(scope="module")
def streets() -> Dataset:
    return open_split(EXPERIMENTS["streets"]().data, "val")


def test_the_ways_are_those_of_the_core() -> None:
    assert WAYS["average"] is through_grid
    assert WAYS["search"] is best_through_grid


@pytest.mark.parametrize(("way", "indexes"), [("average", range(0, 40, 5)), ("search", range(1))])
def test_matrices_are_those_of_each_image_alone(way: str, indexes: range, streets: Dataset) -> None:
    with Console() as console:
        found = measure(streets, indexes, STRIDES, way, console)
    for stride, matrices in zip(STRIDES, found, strict=True):
        assert (matrices == directly(streets, indexes, stride, way)).all()


def test_what_is_printed_are_the_scores_of_the_splits_that_are_asked_for(
    here: Here, streets: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    here(main, "streets", "--splits", "val", "--strides", "32,8,3", "--every", 10)
    printed = capsys.readouterr().out
    assert "streets val, 4 images: IoU of the truth through the grid, average" in printed
    assert "streets train" not in printed
    found = [scores(directly(streets, range(0, 40, 10), stride, "average")) for stride in STRIDES]
    rows = {name: [one.class_iou[label] for one in found] for label, name in enumerate(streets.classes.names)}
    rows |= {"mean IoU": [one.mean_iou for one in found], "pixel accuracy": [one.pixel_accuracy for one in found]}
    for name, values in rows.items():
        numbers = " +".join("-" if value is None else f"{100 * value:.1f}" for value in values)
        assert re.search(rf"^ *{name} +{numbers} *$", printed, re.MULTILINE), (name, numbers)
    assert re.search(r"in % +1/32 +1/8 +1/3", printed)
    assert "void excluded" in printed


def test_finer_grids_cost_less(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here(main, "streets", "--every", 40)
    printed = capsys.readouterr().out
    assert "streets train, 7 images" in printed
    assert "streets val, 1 images" in printed
    for line in re.findall(r"mean IoU +(\S+) +(\S+) +(\S+)", printed):
        assert sorted(map(float, line)) == [float(number) for number in line]


def test_images_of_any_size_and_one_class_are_measured(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "da ta", ["every [/b] thing"], {"odd": 3}, ((33, 50), (64, 32), (7, 9)))
    here(main, "folder", "--data", f"{data}/", "--splits=odd")
    assert re.search(r"every \[/b\] thing +100.0 +100.0 +100.0", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("streetz", "no experiment 'streetz'; experiments are streets, camvid"),
        ("streets --strides 0", "strides are pixels from 1 to 256, not 0"),
        ("streets --strides 32,-8", "strides are pixels from 1 to 256, not -8"),
        ("streets --strides 100000", "strides are pixels from 1 to 256, not 100000"),
        ("streets --strides []", "strides: List should have at least 1 item"),
        ("streets --splits []", "splits: List should have at least 1 item"),
        ("streets --splits test", "have no split 'test'; splits are train, val"),
        ("streets --data somewhere", "'streets' is drawn, not read"),
        ("streets --every 0", "every: Input should be greater than or equal to 1"),
        ("streets --way guess", "way: Input should be 'average' or 'search'"),
        ("streets --stride 8", "no setting 'stride'; did you mean strides?"),
        ("camvid --data /nowhere", "no split 'train' in /nowhere"),
        ("voc --data /nowhere", "no split 'train' in /nowhere"),
        ("folder --data /nowhere", "no /nowhere/classes.json"),
    ],
)
def test_what_the_user_can_mend_gets_one_line(arguments: str, message: str, refused: Refused) -> None:
    assert message in refused(main, *arguments.split())


def test_a_broken_mask_is_named(refused: Refused, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", ["one", "two"], {"train": 1, "val": 2})
    (data / "val" / "masks" / "val_1.png").write_bytes(b"broken")
    said = refused(main, "folder", "--data", data, "--splits", "val")
    assert f"{data}/val/masks/val_1.png: is not PNG" in said
