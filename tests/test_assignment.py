"""docs/assignment.md: its Python runs, and what it says agrees with the data."""

import doctest
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fcn_core.ceiling import best_through_grid, through_grid
from fcn_core.compute import decide
from fcn_core.data.audit import audit
from fcn_core.data.base import Dataset
from fcn_core.data.files import camvid
from fcn_core.data.streets import CLASSES, StreetScenes
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.rules import scores
from fcn_core.models.fcn import FCN
from fcn_core.predict import Predictor
from fcn_core.settings import Compute, Model, Run, Streets, setting_names

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/assignment.md"
TEXT = PAGE.read_text()
CAMVID_FOLDER = ROOT.parent / "shared/data/camvid"
Labels = NDArray[np.uint8]
needs_camvid = pytest.mark.skipif(
    not CAMVID_FOLDER.is_dir(),
    reason="no CamVid in shared/data/camvid beside this checkout: nothing is checked against real data",
)


def row(start: str) -> list[float]:
    """Return the numbers of the one table row that begins so."""
    (found,) = re.findall(rf"^\| {re.escape(start)} \|(.+)\|$", TEXT, re.MULTILINE)
    return [float(cell) for cell in found.split("|") if cell.strip()]


def mean_iou(through: Callable[[Labels, int, int], Labels], stride: int, dataset: Dataset) -> float:
    """Return the mean IoU in % of the truth brought through the grid."""
    num_classes = len(dataset.classes)
    masks = [dataset.read(index).mask for index in range(len(dataset.names))]
    found = torch.from_numpy(np.stack([through(mask, stride, num_classes) for mask in masks]))
    score = scores(confusion(found, torch.from_numpy(np.stack(masks)), num_classes).numpy()).mean_iou
    assert score is not None
    return 100 * score


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runner, names = doctest.DocTestRunner(), dict[str, Any]()
    for block in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        line = TEXT.count("\n", 0, block.start()) + 1
        test = doctest.DocTestParser().get_doctest(block[1], names, "page", str(PAGE), line)
        runner.run(test, clear_globs=False)
        names = test.globs
    results = runner.summarize(verbose=False)
    assert results.failed == 0, capsys.readouterr().out
    assert results.attempted > 50


def test_every_picture_is_there_and_those_drawn_for_the_page_are_small() -> None:
    shown = re.findall(r"!\[.+?\]\((.+?)\)", TEXT)
    drawn = re.findall(r'IMAGES / "(.+?)"', (ROOT / "docs/figures.py").read_text())
    assert {f"images/{name}" for name in drawn} <= set(shown)
    for path in shown:
        assert (ROOT / "docs" / path).is_file(), path
    for name in drawn:
        assert (ROOT / "docs/images" / name).stat().st_size < 200_000, name


def test_every_command_and_setting_is_there() -> None:
    jobs = set(re.findall(r"jobs/\w+\.py", TEXT))
    assert len(jobs) >= 5
    assert not [job for job in jobs if not (ROOT / job).is_file()]
    settings = set(re.findall(r"--(\w+\.\w+)", TEXT))
    assert settings <= set(setting_names(Run()))


@needs_camvid
def test_the_frequencies_and_what_they_hide_are_those_of_camvid() -> None:
    pixels = np.array(
        audit(camvid(str(CAMVID_FOLDER), "train"), camvid(str(CAMVID_FOLDER), "val"), "fail").train.class_pixels
    )
    (said,) = re.findall(r"frequencies = \[(.+)\]", TEXT)
    assert row("17.54") == [float(share) for share in said.split(", ")[1:]]
    assert [float(share) for share in said.split(", ")] == pytest.approx(100 * pixels / pixels.sum(), abs=0.0051)
    rare = np.argsort(pixels)[:5]
    assert f"five of the eleven classes have {100 * pixels[rare].sum() / pixels.sum():.1f} % together" in TEXT.replace(
        "\n", " "
    )
    everything_road = np.full(11, 3)
    rare_are_building = np.where(np.isin(np.arange(11), rare), 1, np.arange(11))
    for predicted in (everything_road, rare_are_building):
        matrix = np.zeros((12, 11), np.int64)
        np.add.at(matrix, (np.arange(11), predicted), pixels)
        found = scores(matrix)
        assert f"'pixel accuracy {found.pixel_accuracy:.1%}, mean IoU {found.mean_iou:.1%}'" in TEXT


@needs_camvid
def test_the_ceilings_are_those_of_camvid() -> None:
    dataset = camvid(str(CAMVID_FOLDER), "val")
    said = row("CamVid, validation: averages")
    for stride, value in ((32, said[0]), (8, said[2])):
        assert mean_iou(through_grid, stride, dataset) == pytest.approx(value, abs=0.051)


def test_the_ceilings_are_those_of_the_street_scenes() -> None:
    scenes = StreetScenes(Streets(), "val")
    averages, best = (row(f"street scenes, validation: {what}") for what in ("averages", "best scores found"))
    for stride, value in zip((32, 16, 8, 4), averages, strict=True):
        assert mean_iou(through_grid, stride, scenes) == pytest.approx(value, abs=0.051)
    assert mean_iou(best_through_grid, 32, scenes) == pytest.approx(best[0], abs=0.3)


def test_scores_agree_with_the_lab_log() -> None:
    lab = (ROOT / "docs/lab.md").read_text()
    means = row("street scenes, validation: trained FCN-32s, 16s, 8s")
    for stride, mean in zip((32, 16, 8), means, strict=True):
        assert re.search(rf"^\| FCN-{stride}s \|.*\| {mean} ±", lab, re.MULTILINE)
        assert row(f"FCN-{stride}s")[1] == mean


def test_the_figures_of_networks_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / "docs/figures.py"))
    few = Streets(num_val=25)
    monkeypatch.setitem(script["skips"].__globals__, "Streets", lambda: few)
    networks = [untrained(stride) for stride in (32, 16, 8)]
    script["kernels"](networks[-1], tmp_path / "kernels.png")
    script["skips"](networks, tmp_path / "skips.png")
    assert {path.name for path in tmp_path.iterdir()} == {"kernels.png", "skips.png"}


def untrained(stride: int) -> Predictor:
    model = Model.model_validate({"trunk": "vgg16_bn", "width": 0.05, "fc_channels": 8, "stride": stride})
    return Predictor(FCN(model, len(CLASSES)), CLASSES, model, 1.0, decide(Compute(), torch.device("cpu")))


@needs_camvid
def test_the_figure_of_camvid_can_be_drawn(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "docs/figures.py"))["frequencies"](str(CAMVID_FOLDER), tmp_path / "frequencies.png")
    assert (tmp_path / "frequencies.png").is_file()
