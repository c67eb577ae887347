import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fcn_core import storage
from fcn_core.data.decode import SampleError
from fcn_core.data.pictures import UPRIGHT, open_pictures
from tests.jobs.commands import write_images

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def write(path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)


def test_images_below_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.PNG", "a/b.png", "ab.png", ".hidden/c.png", "a/.c.png"):
        write(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    pictures = open_pictures(str(tmp_path))
    assert pictures.names == ("a/b.png", "a/z.PNG", "ab.png", "b.png")
    assert pictures.place == str(tmp_path)
    assert np.array_equal(pictures.read(3), PIXELS)
    assert pickle.loads(pickle.dumps(pictures)).names == pictures.names  # noqa: S301


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    write(tmp_path / "photo.png", orientation)
    with Image.open(tmp_path / "photo.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(open_pictures(str(tmp_path)).read(0), expected)


def test_a_changed_image_has_another_version(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    before = open_pictures(str(tmp_path)).versions
    assert before == open_pictures(str(tmp_path)).versions
    Image.fromarray(PIXELS[:2]).save(tmp_path / "b.png")
    after = open_pictures(str(tmp_path)).versions
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_images_of_a_bucket(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    storage.write_bytes("memory://pictures/deep/a.png", (tmp_path / "a.png").read_bytes())
    pictures = open_pictures("memory://pictures")
    assert pictures.names == ("deep/a.png",)
    assert np.array_equal(pictures.read(0), PIXELS)


def test_images_of_data_sets(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", ["everything"], {"train": 2, "val": 1})
    pictures = open_pictures(f"folder:{root}/train")
    assert pictures.names == ("train_0", "train_1")
    assert pictures.place == f"folder:{root}/train"
    assert pictures.read(1).shape == (40, 48, 3)
    assert open_pictures("streets").names[0] == "val-00000"
    train = open_pictures("streets:train")
    assert len(set(train.versions)) == len(train.names) == 256
    assert train.read(3).shape == (96, 128, 3)


def test_what_cannot_be_opened_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is not there$"):
        open_pictures(f"{tmp_path}/nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no image \(.jpeg, .jpg, .png, .webp\)"):
        open_pictures(str(tmp_path))
    with pytest.raises(ValueError, match="names no split: write camvid:PATH/SPLIT"):
        open_pictures("camvid:")
    with pytest.raises(FileNotFoundError, match="no split 'val'"):
        open_pictures(f"camvid:{tmp_path}/val")
    with pytest.raises(ValueError, match="no split 'test'; splits are train, val"):
        open_pictures("streets:test")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SampleError, match=r"torn\.png: cannot be decoded"):
        open_pictures(str(tmp_path)).read(0)
