import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io.matlab import savemat

from fcn_core import storage
from fcn_core.data.base import Dataset, Subset
from fcn_core.data.catalogue import open_dataset
from fcn_core.data.decode import SampleError
from fcn_core.data.files import Entry, FileDataset, camvid, colour_map, folder, sbd, voc
from fcn_core.data.streets import StreetScenes
from fcn_core.settings import VOID, Classes, Data

MASK = np.array([[0, 1, 2], [11, 255, 5]], np.uint8)
PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
TWO = Classes(names=("ground", "sky"), colours=((0, 0, 0), (255, 255, 255)))


def write(path: Path, image: NDArray[np.generic] = PIXELS, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, kind)


def write_camvid(root: Path, split: str, names: Sequence[str]) -> None:
    for name in names:
        write(root / split / f"{name}.png")
        write(root / f"{split}annot" / f"{name}.png", MASK)


def test_camvid_pairs_files_and_makes_void_of_label_11(tmp_path: Path) -> None:
    write_camvid(tmp_path, "train", ["0016E5_00031", "0001TP_00001"])
    dataset: Dataset = camvid(str(tmp_path), "train")
    assert dataset.names == ("0001TP_00001", "0016E5_00031")
    assert [dataset.sequence(index) for index in (0, 1)] == ["0001TP", "0016E5"]
    image, mask = dataset.read(0)
    assert image.tolist() == PIXELS.tolist()
    assert mask.tolist() == [[0, 1, 2], [VOID, VOID, 5]]
    assert image.flags.writeable


def test_the_same_files_read_from_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    write_camvid(tmp_path / "camvid", "val", ["0016E5_07959"])
    for path in (tmp_path / "camvid").rglob("*.png"):
        storage.write_bytes(f"memory://test_files/{path.relative_to(tmp_path / 'camvid')}", path.read_bytes())
    dataset = camvid("memory://test_files", "val")
    assert dataset.image_url(0) == "memory://test_files/val/0016E5_07959.png"
    assert dataset.mask_url(0) == "memory://test_files/valannot/0016E5_07959.png"
    assert dataset.read(0).mask.tolist() == [[0, 1, 2], [VOID, VOID, 5]]
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 2


def test_a_missing_split_names_those_that_are_there(tmp_path: Path) -> None:
    write_camvid(tmp_path, "val", ["a_1"])
    with pytest.raises(FileNotFoundError, match=r"no split 'test' in .*expected folders test and testannot; .*: val$"):
        camvid(str(tmp_path), "test")
    with pytest.raises(FileNotFoundError, match="no split is there, so check the path"):
        camvid(str(tmp_path / "nowhere"), "train")


def test_files_without_a_partner_are_kept_for_the_audit(tmp_path: Path) -> None:
    write_camvid(tmp_path, "train", ["a_1"])
    write(tmp_path / "train" / "a_2.png")
    write(tmp_path / "trainannot" / "a_3.png", MASK)
    dataset = camvid(str(tmp_path), "train")
    assert dataset.names == ("a_1",)
    assert dataset.unpaired == (
        (f"{tmp_path}/train/a_2.png", f"{tmp_path}/trainannot/a_2.png"),
        (f"{tmp_path}/trainannot/a_3.png", f"{tmp_path}/train/a_3.*"),
    )


def test_folder_takes_classes_void_and_sequence_from_classes_json(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(
        json.dumps({"names": ["a", "b", "c"], "void": 1, "sequence": r"^clip(\d+)-"}),
    )
    for name, kind in (("clip7-001.jpg", "JPEG"), ("still.webp", "WEBP")):
        write(tmp_path / "train" / "images" / name, kind=kind)
        write(tmp_path / "train" / "masks" / f"{Path(name).stem}.png", MASK)
    dataset = folder(str(tmp_path), "train")
    assert dataset.names == ("clip7-001", "still")
    assert (dataset.sequence(0), dataset.sequence(1)) == ("7", None)
    assert dataset.read(0).mask.tolist() == [[0, VOID, 2], [VOID, VOID, VOID]]
    assert dataset.read(1).image.shape == (2, 3, 3)
    assert len(set(dataset.classes.colours)) == 3
    with pytest.raises(FileNotFoundError, match=r"expected folders val/images and val/masks; splits there: train"):
        folder(str(tmp_path), "val")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"names": ["a"], "colors": []}', "colors: Extra inputs"),
        ('{"names": ["a", "a"]}', "class names repeat: a, a"),
        ('{"names": ["a"], "colours": [[1, 2, 3], [4, 5, 6]]}', "1 class names but 2 colours"),
        ('{"names": ["a"], "sequence": "a+"}', "has no group"),
        ('{"names": ["a"], "sequence": "("}', "is no regular expression"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_wrong_classes_json_is_explained_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        folder(str(tmp_path), "train")
    assert "classes.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_without_classes_json_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'no .*/classes.json: write \{"names": \[...\]\}'):
        folder(str(tmp_path), "train")


def test_names_that_differ_in_their_ending_only_are_refused(tmp_path: Path) -> None:
    write_camvid(tmp_path, "train", ["a_1"])
    write(tmp_path / "train" / "a_1.jpg", kind="JPEG")
    with pytest.raises(ValueError, match="names without the ending must be unique"):
        camvid(str(tmp_path), "train")


def write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def test_voc_reads_the_index_of_palette_masks_and_never_the_palette(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    write_list(base / "ImageSets" / "Segmentation" / "val.txt", ["2007_1", "2007_2"])
    write(base / "JPEGImages" / "2007_1.jpg", kind="JPEG")
    write(base / "JPEGImages" / "2007_2.jpg", kind="JPEG")
    mask = Image.fromarray(MASK, "P")
    mask.putpalette([level for colour in colour_map(256) for level in colour])
    (base / "SegmentationClass").mkdir()
    mask.save(base / "SegmentationClass" / "2007_1.png")
    dataset = voc(str(tmp_path), "val")
    assert dataset.read(0).mask.tolist() == MASK.tolist()
    assert dataset.sequence(0) is None
    listed, missing = dataset.unpaired[0]
    assert (Path(listed).name, Path(missing).name) == ("val.txt", "2007_2.png")
    with pytest.raises(FileNotFoundError, match=r"expected the list train.txt; splits there: val"):
        voc(str(tmp_path), "train")


def test_the_voc_colour_map_is_the_published_one() -> None:
    names, colours = voc_classes()
    assert len(names) == 21
    assert colours[names.index("person")] == (192, 128, 128)
    assert colours[names.index("tvmonitor")] == (0, 64, 128)
    assert colour_map(256)[255] == (224, 224, 192)


def voc_classes() -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    from fcn_core.data.files import _voc_classes

    return _voc_classes().names, _voc_classes().colours


def test_sbd_reads_matlab_masks(tmp_path: Path) -> None:
    write_list(tmp_path / "train_noval.txt", ["2008_1", "2008_2"])
    for name in ("2008_1", "2008_2"):
        write(tmp_path / "img" / f"{name}.jpg", kind="JPEG")
    (tmp_path / "cls").mkdir()
    mat = {"GTcls": {"Segmentation": MASK, "Boundaries": 0}}
    savemat(tmp_path / "cls" / "2008_1.mat", mat)  # type: ignore[no-untyped-call]
    (tmp_path / "cls" / "2008_2.mat").write_bytes(b"not a MATLAB file")
    dataset = sbd(str(tmp_path), "train_noval")
    assert dataset.read(0).mask.tolist() == MASK.tolist()
    with pytest.raises(SampleError, match=r"2008_2.mat: cannot be decoded"):
        dataset.read(1)


def test_names_must_be_unique() -> None:
    with pytest.raises(ValueError, match="names of samples must be unique"):
        FileDataset(TWO, [Entry("a", "1", "1"), Entry("a", "2", "2")])


def test_a_dataset_survives_pickling(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"names": ["a"], "sequence": "(.)"}')
    write(tmp_path / "train" / "images" / "x.png")
    write(tmp_path / "train" / "masks" / "x.png", MASK)
    again: FileDataset = pickle.loads(pickle.dumps(folder(str(tmp_path), "train")))  # noqa: S301
    assert again.sequence(0) == "x"
    assert again.read(0).image.tolist() == PIXELS.tolist()


def test_subset_keeps_the_samples_asked_for_in_that_order(tmp_path: Path) -> None:
    write_camvid(tmp_path, "train", ["a_1", "b_2", "c_3"])
    dataset = camvid(str(tmp_path), "train")
    subset: Dataset = Subset(dataset, [2, 0])
    assert subset.names == ("c_3", "a_1")
    assert subset.sequence(0) == "c"
    assert subset.read(1).mask.tolist() == dataset.read(0).mask.tolist()
    with pytest.raises(ValueError, match="no sample 3 in a data set of 3"):
        Subset(dataset, [3])


def test_the_catalogue_opens_every_kind(tmp_path: Path) -> None:
    write_camvid(tmp_path, "train", ["a_1"])
    assert isinstance(open_dataset(Data(), "train"), StreetScenes)
    assert open_dataset(Data(kind="camvid", path=str(tmp_path)), "train").names == ("a_1",)
    for kind in ("folder", "voc", "sbd"):
        with pytest.raises(FileNotFoundError):
            open_dataset(Data.model_validate({"kind": kind, "path": str(tmp_path / "nowhere")}), "train")
