"""Receptive fields: the real command on a Ray of its own, and all that it decides without one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from matplotlib.figure import Figure
from PIL import Image

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.data.pictures import open_pictures
from fcn_core.data.streets import CLASSES
from fcn_core.models.classifiers import build_classifier
from fcn_core.receptive_field.activations import top_activations
from fcn_core.receptive_field.occlusion import Maps, Occlusion, Site, discrepancies
from fcn_core.receptive_field.subject import Subject, View
from jobs._cli import Resources
from jobs._console import Console
from jobs._crew import Arrays, Crew, Parts, Shared, Task
from jobs._receptive_field import ReceptiveFieldCommand, look, main, parse_units
from jobs._subjects import open_subject
from tests.figures.looking import words
from tests.jobs.commands import ROOT, Here, Refused, processes_of, ray_head, write_images, write_run
from tests.tiny import changed, train

RUN = changed({"data.streets.num_val": 7, "optim.epochs": 1})
RESNET: dict[str, Any] = {
    "model": "resnet18",
    "layer": "layer2",
    "unit": "5",
    "images": "streets",
    "size": 32,
    "most": 3,
}
SETTINGS = ("--layer=conv3_3", "--units=0..2", "--most=3")
BY_ONE_AND_TWO = """
import sys
from jobs._cli import Resources
from jobs._ray import cluster
from jobs._receptive_field import main
_, model, *rest = sys.argv
settings, places = rest[:-2], rest[-2:]
with cluster(Resources(workers=2)):
    for place, workers in zip(places, "12"):
        sys.argv = ["receptive_field.py", "--model", model, *settings, "--storage", place, "--workers", workers]
        main()
"""

pytestmark = pytest.mark.timeout(240)


class Counting(Crew):
    """Counts tasks, and is lost after some."""

    made = 0

    def __init__(self, parts: Parts, shared: Shared, console: Console, lost_after: int, step: int) -> None:
        super().__init__(parts, shared, console)
        self.lost_after, self.step = lost_after, step

    def _made(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Arrays]]:
        for made in super()._made(tasks[:: self.step]):
            Counting.made += 1
            if Counting.made == self.lost_after:
                raise KeyboardInterrupt
            yield made


def here_only(lost_after: int = -1, step: int = 1) -> Callable[..., Any]:
    @contextmanager
    def start(parts: Parts, shared: Shared, console: Console, resources: Resources) -> Iterator[Crew]:
        assert resources.workers
        Counting.made = 0
        yield Counting(parts, shared, console, lost_after, step)

    return start


def looked(place: Path, lost_after: int = -1, step: int = 1, **settings: Any) -> Path:  # noqa: ANN401
    """Look in this process and return the folder of what was found."""
    command = ReceptiveFieldCommand(**RESNET | {"storage": str(place)} | settings)
    with Console() as console:
        opened = open_subject(command.asked, console)
        return Path(look(opened, command, console, here_only(lost_after, step)))


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files, and the arrays of each .npz, which as a file has a time in it."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{path.name}/{name}": arrays[name].tobytes() for name in arrays}
        elif path.name not in {storage.MANIFEST, storage.COMMIT}:
            found[path.name] = path.read_bytes()
    return found


def numbers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "numbers.json").read_text())
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was trained without Ray."""
    folder = train(RUN, tmp_path_factory.mktemp("lab") / "runs" / RUN.run_id)
    return write_run(folder.url, RUN)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return looked(tmp_path_factory.mktemp("resnet"), minimal=True, removal={"num_segments": 4})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of three sizes."""
    pictures, folder = open_pictures("streets"), tmp_path / "photos"
    folder.mkdir()
    for index, (height, width) in enumerate(((50, 60), (64, 40), (70, 90), (50, 60))):
        Image.fromarray(pictures.read(index)[:height, :width]).save(folder / f"{index}.png")
    return folder


def test_any_number_of_workers_gives_the_bits_of_this_process(
    trained: RunFolder, environment: dict[str, str], tmp_path: Path
) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    command = [sys.executable, "-c", BY_ONE_AND_TWO, trained.url, *SETTINGS, *map(str, places)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("looking at 3 of the units of trunk.stages.2.conv3_3 with 7 images") == 2
    ours = looked(tmp_path / "here", model=trained.url, layer="conv3_3", unit="0..2", images=None, size=None)
    expected = contents(ours)
    assert len(expected) > 30
    for place in places:
        assert contents(place / "receptive_fields" / ours.name) == expected


def test_the_strongest_images_and_their_maps_are_those_of_the_plain_protocol(found: Path) -> None:
    network = build_classifier("resnet18", None)
    subject = Subject("", network, "torchvision", View(size=32), dense=False, classes=())
    pictures = open_pictures("streets")
    seen = [subject.tensor(subject.view.of(pictures.read(index))) for index in range(40)]
    top = top_activations(network, ["layer2"], ((index, image[0]) for index, image in enumerate(seen)), 3)["layer2"]
    images = numbers(found)["units"][0]["images"]
    assert [image["name"] for image in images] == [pictures.names[index] for index in top.images[5]]
    assert [image["activation"] for image in images] == top.values[5].tolist()
    with np.load(found / "layer2-5.npz") as arrays:
        for rank, (index, position) in enumerate(zip(top.images[5], top.positions[5].tolist(), strict=True)):
            site = Site(5, *position)
            (expected,) = discrepancies(Maps(network, "layer2"), seen[index], [site], Occlusion())
            assert np.allclose(arrays[f"falls_{rank:02d}"], expected.falls, atol=1e-5)


def test_a_look_leaves_all_that_it_promises(found: Path) -> None:
    storage.verify(str(found))
    names = {"layer2-5.png", "layer2-5.npz", "minimal.png", "minimal.npz", "numbers.json"}
    assert {path.name for path in found.iterdir()} == names | {"manifest.json", "COMMIT"}
    (unit,) = numbers(found)["units"]
    assert unit["theoretical_px"] == [99, 99]
    assert unit["stride_px"] == [8, 8]
    assert 0 < unit["effective_side_px"] < 99
    assert 0 < unit["empirical"]["side_px"] < 99
    for image in unit["images"]:
        assert image["centre_px"] == [8 * place for place in image["position"]]
    with np.load(found / "layer2-5.npz") as arrays:
        assert arrays["mean"].shape == arrays["counts"].shape == arrays["effective"].shape
        assert arrays["mean"].dtype == np.float64


def test_minimal_images_are_told_with_their_order_and_scores(found: Path) -> None:
    for image in numbers(found)["minimal"]:
        assert len(image["scores"]) == len(image["order"]) + 1
        assert image["class"].startswith("class "), "random weights have no names of classes"
        assert image["lost"] or image["share_kept"] == 0


def test_the_same_command_again_shows_what_is_kept(found: Path, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    place = found.parents[1]
    arguments = [f"--{name}={value}" for name, value in RESNET.items()]
    here(main, *arguments, "--minimal", "--removal.num_segments=4", "--storage", place)
    printed = capsys.readouterr().out
    assert "resnet18 has random weights (seed 0)" in printed
    assert f"looked at before: {found}\nunit 5: in theory 99 x 99 px, by gradient" in printed


def test_a_look_that_was_stopped_goes_on(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"minimal": True, "removal": {"num_segments": 4}}
    with pytest.raises(KeyboardInterrupt):
        looked(tmp_path, lost_after=42, **settings)
    assert not list(tmp_path.rglob("COMMIT"))
    (part,) = list(tmp_path.rglob("falls-*.npz"))[:1]
    again = looked(tmp_path, **settings)
    assert contents(again) == contents(found)
    printed = capsys.readouterr().out
    assert "looking for the strongest, part: 40 of 40 are there from before" in printed
    assert "occluding, image: 2 of 3 are there from before" in printed
    assert Counting.made == 1 + 3
    shutil.rmtree(again)
    part.write_bytes(part.read_bytes()[:100])
    assert contents(looked(tmp_path, **settings)) == contents(found)
    assert Counting.made == 1, "a damaged part is made again"


def test_the_order_in_which_tasks_are_done_is_of_no_importance(found: Path, tmp_path: Path) -> None:
    assert contents(looked(tmp_path, step=-1, minimal=True, removal={"num_segments": 4})) == contents(found)


def test_what_was_found_of_one_unit_serves_another(tmp_path: Path) -> None:
    looked(tmp_path)
    looked(tmp_path, unit="6")
    assert Counting.made == 3
    looked(tmp_path, unit="6", threshold=0.7)
    assert Counting.made == 0


def test_several_units_are_a_page_that_needs_nothing_else(tmp_path: Path, saved: list[Figure]) -> None:
    folder = looked(tmp_path, unit="1,4..6", most=2)
    page = (folder / "index.html").read_text()
    assert "http" not in page
    assert re.findall(r'data-unit="(\d+)"', page) == ["1", "4", "5", "6"]
    assert page.count("data:image/jpeg;base64,") == 4
    links = re.findall(r'<a href="([^"]+)"', page)
    assert links == [f"layer2-{unit}.png" for unit in (1, 4, 5, 6)]
    assert all((folder / link).exists() for link in links)
    assert [f"unit {unit}" in words(figure) for unit, figure in zip((1, 4, 5, 6), saved, strict=True)] == [True] * 4
    assert "resnet18, layer2" in words(saved[0])


def test_images_of_many_sizes_are_looked_at_as_they_are_by_an_fcn(
    trained: RunFolder, photos: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "model": trained.url,
        "layer": "conv2_2",
        "size": None,
        "most": 4,
        "images": str(photos),
    }
    folder = looked(tmp_path, **settings, minimal=True, removal={"num_segments": 4})
    (unit,) = numbers(folder)["units"]
    assert sorted(image["name"] for image in unit["images"]) == ["0.png", "1.png", "2.png", "3.png"]
    with np.load(folder / "trunk.stages.1.conv2_2-5.npz") as arrays:
        assert len({arrays[f"falls_{rank:02d}"].shape for rank in range(4)}) == 3
        assert (arrays["counts"].shape[0] % 2, arrays["counts"].shape[1] % 2) == (1, 1)
    assert {image["class"] for image in numbers(folder)["minimal"]} <= set(CLASSES.names)


def test_where_everything_must_be_computed_again_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = looked(tmp_path, model="efficientnet_b0", layer="features.2", most=1, occlusion={"stride": 11})
    assert re.search(r"computed the plain way: .*avgpool .* does not work window by window", capsys.readouterr().out)
    assert numbers(folder)["units"][0]["theoretical_px"] is None, "a unit sees everything"
    settings: dict[str, Any] = {"most": 1, "occlusion": {"stride": 11}}
    plain, exact = looked(tmp_path, plain=True, **settings), looked(tmp_path, **settings)
    assert "computed the plain way, as asked for" in capsys.readouterr().out
    with np.load(plain / "layer2-5.npz") as one, np.load(exact / "layer2-5.npz") as other:
        assert np.allclose(one["falls_00"], other["falls_00"], atol=1e-5)


def test_equal_images_come_in_the_order_of_their_names(photos: Path, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        shutil.copy(photos / "0.png", photos / f"{name}.png")
    (unit,) = numbers(looked(tmp_path, images=str(photos), most=7))["units"]
    names = [image["name"] for image in unit["images"]]
    first = names.index("0.png")
    assert names[first : first + 4] == ["0.png", "a.png", "b.png", "c.png"]


def test_parts_of_unequal_size_give_the_same(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(photos / "0.png", photos / "more.png")
    one = looked(tmp_path / "one", images=str(photos))
    monkeypatch.setattr("jobs._receptive_field.MOST_IN_A_PART", 2)
    other = looked(tmp_path / "other", images=str(photos))
    assert Counting.made == 3 + 3, "parts of two, two and one"
    assert contents(one) == contents(other)


def test_a_broken_image_is_one_line_or_left_out(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "2.png").write_bytes((photos / "2.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"2\.png: cannot be decoded: .*repair or remove it, or give --audit"):
        looked(tmp_path, images=str(photos))
    folder = looked(tmp_path, images=str(photos), audit="leave_out")
    assert sorted(image["name"] for image in numbers(folder)["units"][0]["images"]) == ["0.png", "1.png", "3.png"]
    assert re.search(r"left out: .*2\.png: cannot be decoded", capsys.readouterr().out)
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 4 images of .* can be read"):
        looked(tmp_path, images=str(photos), audit="leave_out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--layer layer9 --unit 1", "no layer 'layer9'; did you mean layer"),
        ("--layer conv1 --unit 64", "no unit 64: the layer has 64, from 0 to 63"),
        ("--layer conv1 --unit -1", "unit '-1' is not understood: write 10, or 3,7, or 0..31, or all"),
        ("--layer conv1 --unit 9..3", "unit '9..3' is not understood"),
        ("--layer conv1 --unit 1 --images nowhere", "nowhere is not there"),
        ("--layer conv1 --unit 1 --images camvid:/nowhere/val", "no split 'val' in /nowhere"),
        ("--layer conv1 --unit 1 --class car", "no class 'car' to keep; a classifier keeps what it gives"),
        ("--layer conv1 --units 1,2 --minimal", "--minimal draws what the images of one unit can do without"),
        ("--layer conv1 --unit 1 --weights nowhere.pth", "nowhere.pth"),
        ("--layer conv1 --unit 1 --step 5", "resnet18 is a classifier of torchvision and has no steps"),
        ("--layer conv1", "give both --layer and --unit, or neither"),
        ("", "say with --layer and --unit what to look at; or --theory for the layers there are"),
        ("--layer conv1 --unit 1 --occlusion.stride 20", "stride 20 above size 11"),
        ("--layer conv1 --unit 1 --size 4", "size: Input should be greater than or equal to 8"),
        ("--layer conv1 --unit 1 --lyaer 4", "no setting 'lyaer'; did you mean layer"),
    ],
)
def test_what_the_user_can_mend_gets_one_line_at_once(
    arguments: str, message: str, refused: Refused, tmp_path: Path
) -> None:
    images = [] if "--images" in arguments else ["--images", "streets"]
    given = ["--model", "resnet18", "--storage", tmp_path, *images, *arguments.split()]
    assert message in refused(main, *given)
    assert not list(tmp_path.iterdir())


def test_networks_images_and_classes_that_there_are_not_are_named(
    refused: Refused, trained: RunFolder, tmp_path: Path
) -> None:
    asked = ("--layer", "conv1_1", "--unit", "0", "--storage", tmp_path)
    assert "classifiers of torchvision: resnet18" in refused(main, "--model", "resnet19", *asked)
    assert "say with --images what to look at" in refused(main, "--model", "squeezenet1_1", *asked)
    (tmp_path / "empty").mkdir()
    assert "empty has no image (.jpeg" in refused(
        main, "--model", "squeezenet1_1", "--images", tmp_path / "empty", *asked
    )
    no_class = refused(main, "--model", trained.url, *asked, "--class", "rode")
    assert "no class 'rode' to keep; classes are sky, building" in no_class
    weights = refused(main, "--model", trained.url, *asked, "--weights", "imagenet")
    assert "--weights are for classifiers of torchvision" in weights


def test_a_storage_that_cannot_be_written_to_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "receptive_fields").write_text("in the way")
    Counting.made = 0
    with pytest.raises(OSError, match="receptive_fields"):
        looked(tmp_path)
    assert Counting.made == 0


def test_theory_needs_no_images(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    here(main, "--model", "resnet18", "--theory", "--storage", tmp_path)
    printed = capsys.readouterr().out
    assert re.search(r"layer4.1.add +add +7 x 7 +435 +32 +0 *\n", printed)
    assert re.search(r"maxpool +max pooling +56 x 56 +11 +4 +0 *\n", printed)
    assert "bn1" not in printed
    (picture,) = tmp_path.rglob("*.png")
    assert f"drawn        {picture}" in printed
    layers = json.loads(picture.with_suffix(".json").read_text())["layers"]
    assert [layer["rows"]["size_px"] for layer in layers if layer["layer"] == "conv1"] == [7]


def test_units_are_named_by_number_list_range_or_all() -> None:
    assert parse_units("3", 8) == (3,)
    assert parse_units("7, 1..3,2", 8) == (1, 2, 3, 7)
    assert parse_units("all", 3) == (0, 1, 2)


def test_an_object_store_holds_what_is_found(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    settings = RESNET | {"storage": "memory://lab", "minimal": True, "removal": {"num_segments": 4}}
    command = ReceptiveFieldCommand(**settings)
    with Console() as console:
        url = look(open_subject(command.asked, console), command, console, here_only())
        assert contents(storage.fetch(url)) == contents(found)
        look(open_subject(command.asked, console), command, console, here_only())
    assert f"looked at before: {url}" in capsys.readouterr().out
    MemoryFileSystem.store.clear()


@pytest.mark.slow
def test_a_submitted_job_finds_the_same(trained: RunFolder, environment: dict[str, str], tmp_path: Path) -> None:
    expected = looked(tmp_path / "here", model=trained.url, layer="conv3_3", unit="0..2", images=None, size=None)
    with ray_head(environment) as head:
        arguments = ["--model", trained.url, *SETTINGS, "--storage", str(tmp_path / "lab"), "--workers=2"]
        done = head.submit("jobs/receptive_field.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(tmp_path / "lab" / "receptive_fields" / expected.name) == contents(expected)


@pytest.mark.slow
def test_a_killed_worker_or_driver_changes_no_bit(
    trained: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    images = write_images(tmp_path / "data", ["everything"], {"val": 60}, ((64, 64),)) / "val" / "images"
    settings: dict[str, Any] = {
        "images": str(images),
        "model": trained.url,
        "layer": "conv3_3",
        "unit": "all",
        "size": None,
        "most": 3,
    }
    expected = contents(looked(tmp_path / "here", **settings))
    command = [sys.executable, "jobs/receptive_field.py", "--model", trained.url, "--layer=conv3_3", "--unit=all"]
    command += ["--images", str(images), "--most=3", "--workers=2", "--storage", str(tmp_path / "lab")]
    parts = tmp_path / "lab" / "receptive_fields" / "parts"
    with started(command, environment) as process:
        wait_for(lambda: len(list(parts.glob("[!.]*.npz"))) > 3)
        # A worker bears the name of its task only as long as it is at it.
        wait_for(lambda: kill_one(ray_folder, "ray::_work"))
        wait_for(lambda: len(list(parts.glob("[!.]*.npz"))) > 50)
        process.kill()
    with started(command, environment) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert "are there from before" in printed
    (folder,) = [path for path in parts.parent.iterdir() if path.name.startswith("tiny")]
    assert contents(folder) == expected


def started(command: Sequence[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def kill_one(ray_folder: Path, name: str) -> bool:
    found = [pid for pid, line in processes_of(ray_folder).items() if line.startswith(name)]
    if found:
        os.kill(found[0], signal.SIGKILL)
    return bool(found)
