import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_core import storage
from fcn_core.data.audit import Audit, AuditError, Policy, audit
from fcn_core.data.base import Dataset, Sample
from fcn_core.data.files import camvid
from fcn_core.data.streets import StreetScenes
from fcn_core.settings import Classes, Streets

SIZE = (24, 32)


def noise(seed: int, shape: tuple[int, ...] = (*SIZE, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def labels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 12, SIZE, np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training samples of sequence a and two validation samples of sequence b, all sound."""
    for number, name in enumerate(["train/a_1", "train/a_2", "train/a_3", "train/a_4", "val/b_1", "val/b_2"]):
        split, stem = name.split("/")
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / f"{split}annot").mkdir(exist_ok=True)
        Image.fromarray(noise(number)).save(tmp_path / f"{name}.png")
        Image.fromarray(labels(number)).save(tmp_path / f"{split}annot" / f"{stem}.png")
    return tmp_path


def run(root: Path, policy: Policy = "warn") -> Audit:
    return audit(camvid(str(root), "train"), camvid(str(root), "val"), policy)


def test_sound_data_give_no_finding(root: Path) -> None:
    result = run(root, "fail")
    assert result.findings == ()
    assert (result.train.kept, result.val.kept) == ((0, 1, 2, 3), (0, 1))
    assert (result.train.num_samples, result.train.sizes, result.train.num_sizes) == (4, (SIZE,), 1)
    masks = np.stack([labels(seed) for seed in range(4)])
    assert result.train.class_pixels == tuple(np.bincount(masks.ravel(), minlength=12)[:11].tolist())
    assert result.train.void_pixels == (masks == 11).sum()
    assert result.train.class_image_pixels == (masks.size,) * 11
    assert Audit.model_validate_json(result.model_dump_json()) == result


Break = Callable[[Path], None]


def remove(name: str) -> Break:
    return lambda root: (root / name).unlink()


def break_image(root: Path, contents: bytes) -> None:
    (root / "train" / "a_2.png").write_bytes(contents)


def save_mask(root: Path, mask: NDArray[np.generic]) -> None:
    Image.fromarray(mask).save(root / "trainannot" / "a_2.png")


def truncate(root: Path) -> None:
    break_image(root, (root / "train" / "a_2.png").read_bytes()[:-100])


def truncate_jpeg(root: Path) -> None:
    Image.fromarray(noise(1)).save(root / "train" / "a_2.png", "JPEG")
    truncate(root)


def save_as_gif(root: Path) -> None:
    Image.fromarray(noise(1)).save(root / "train" / "a_2.png", "GIF")


def rotate(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1)).save(root / "train" / "a_2.png", "JPEG", exif=exif)


def wrong_label(root: Path) -> None:
    mask = labels(1)
    mask[0, :5] = 77
    save_mask(root, mask)


def copy_to_val(root: Path) -> None:
    (root / "val" / "b_1.png").write_bytes((root / "train" / "a_2.png").read_bytes())


# Kind; how a training sample is broken; the file that is named; the reason; whether the sample can still be read.
ERRORS = [
    ("unpaired", remove("trainannot/a_2.png"), "train/a_2.png", "lacks its partner .*/trainannot/a_2.png", False),
    ("unpaired", remove("train/a_2.png"), "trainannot/a_2.png", r"lacks its partner .*/train/a_2\.\*", False),
    ("unreadable", lambda root: break_image(root, b""), "train/a_2.png", "is empty", False),
    ("unreadable", truncate, "train/a_2.png", "truncated", False),
    ("unreadable", truncate_jpeg, "train/a_2.png", "truncated", False),
    ("format", save_as_gif, "train/a_2.png", "is not JPEG or PNG or WEBP", False),
    ("format", lambda root: save_mask(root, noise(1)), "trainannot/a_2.png", "has mode RGB", False),
    ("size", lambda root: save_mask(root, labels(1)[:20]), "trainannot/a_2.png", "20 x 32 .* 24 x 32", False),
    ("label", wrong_label, "trainannot/a_2.png", r"77 \(5 pixels\); classes are 0 to 10, void is 11", True),
    ("orientation", rotate, "train/a_2.png", "EXIF orientation 6", True),
    ("duplicate", copy_to_val, "train/a_2.png", "the same image as .*/val/b_1.png", True),
]


@pytest.mark.parametrize(("kind", "break_it", "file", "reason", "readable"), ERRORS)
def test_each_error_is_found_once_and_each_policy_acts_on_it(
    root: Path, kind: str, break_it: Break, file: str, reason: str, readable: bool
) -> None:
    break_it(root)
    with pytest.raises(AuditError, match=f"the data have 1 error: .*\n.*{file} .*{reason}") as caught:
        run(root, "fail")
    assert [(found.kind, found.severity, found.split) for found in caught.value.findings] == [(kind, "error", "train")]
    assert names(root, run(root, "leave_out")) == {"a_1", "a_3", "a_4"}
    assert names(root, run(root, "warn")) == {"a_1", "a_3", "a_4", *(["a_2"] if readable else [])}
    assert run(root, "leave_out").val.kept == (0, 1)


def names(root: Path, result: Audit) -> set[str]:
    train = camvid(str(root), "train")
    return {train.names[index] for index in result.train.kept}


def test_under_warn_labels_that_are_no_class_are_void(root: Path) -> None:
    before = run(root).train
    wrong_label(root)
    after = run(root).train
    assert after.void_pixels + sum(after.class_pixels) == before.void_pixels + sum(before.class_pixels)
    assert after.void_pixels > before.void_pixels


def test_everything_wrong_is_told_at_once_errors_first(root: Path) -> None:
    wrong_label(root)
    (root / "train" / "a_1.png").write_bytes(b"")
    save_all_void(root)
    with pytest.raises(AuditError, match="2 errors") as caught:
        run(root, "fail")
    assert sorted(found.kind for found in caught.value.findings) == ["label", "unreadable", "void_only"]
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["error", "error", "notice"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_an_image_and_its_mask_may_both_be_broken(root: Path) -> None:
    break_image(root, b"")
    (root / "trainannot" / "a_2.png").write_bytes(b"")
    assert [Path(found.file).parent.name for found in run(root).findings] == ["train", "trainannot"]


def test_a_long_list_is_cut_in_the_message_only(root: Path) -> None:
    for number in range(30):
        (root / "train" / f"lonely_{number}.png").write_bytes(b"")
    with pytest.raises(AuditError, match=r"and 10 more$") as caught:
        run(root, "fail")
    assert len(caught.value.findings) == 30


def save_all_void(root: Path) -> None:
    Image.fromarray(np.full(SIZE, 11, np.uint8)).save(root / "valannot" / "b_1.png")


def test_a_mask_that_is_all_void_is_a_notice(root: Path) -> None:
    save_all_void(root)
    result = run(root, "fail")
    assert [(found.kind, found.severity) for found in result.findings] == [("void_only", "notice")]
    assert result.val.kept == (0, 1)


def test_an_image_that_was_only_encoded_again_is_a_notice(root: Path) -> None:
    Image.fromarray(noise(1)).save(root / "val" / "b_1.png", "JPEG", quality=90)
    (found,) = run(root, "fail").findings
    assert (found.kind, found.severity) == ("near_duplicate", "notice")
    assert found.file.endswith("val/b_1.png")
    assert "train/a_2.png" in found.reason


def test_many_near_duplicates_are_summed_up(root: Path) -> None:
    for number in range(14):
        for split, kind in (("train", "PNG"), ("val", "JPEG")):
            Image.fromarray(noise(50 + number)).save(root / split / f"{split}{number}_x.png", kind)
            Image.fromarray(labels(1)).save(root / f"{split}annot" / f"{split}{number}_x.png")
    found = run(root, "fail").findings
    assert len(found) == 10
    assert found[-1].reason.endswith("so are 4 further images")


def test_flat_images_of_different_grey_are_not_near_duplicates(root: Path) -> None:
    Image.fromarray(np.full((*SIZE, 3), 60, np.uint8)).save(root / "train" / "a_1.png")
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(root / "val" / "b_1.png")
    assert run(root).findings == ()


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        ("a_3x", r"^\(1 frames\) is a sequence of the training set too \(4 frames\): scores"),
        ("a_7", "too .4 frames., nearest training frame 3 frames away: scores on it flatter"),
    ],
)
def test_a_sequence_in_both_sets_is_a_notice(root: Path, stem: str, reason: str) -> None:
    for folder in ("val", "valannot"):
        (root / folder / "b_1.png").rename(root / folder / f"{stem}.png")
    (found,) = run(root, "fail").findings
    assert (found.kind, found.severity, found.file) == ("sequence", "notice", "a")
    assert re.search(reason, found.reason)


@pytest.mark.parametrize("policy", ["fail", "leave_out", "warn"])
def test_an_empty_set_always_stops(root: Path, policy: Policy) -> None:
    for path in (root / "valannot").iterdir():
        path.write_bytes(b"")
    with pytest.raises(AuditError, match=r"\n  error \(val\): the set is empty: 0 of its 2 samples can be used"):
        run(root, policy)


def test_a_set_without_labelled_pixels_always_stops(root: Path) -> None:
    save_all_void(root)
    (root / "val" / "b_2.png").unlink()
    with pytest.raises(AuditError, match="the set has no labelled pixel"):
        run(root, "warn")


def test_the_digest_tells_data_apart(root: Path) -> None:
    before = run(root).train.digest
    wrong_label(root)
    assert run(root).train.digest != before
    assert run(root, "leave_out").train.digest != run(root).train.digest


def test_progress_is_told_for_every_sample(root: Path) -> None:
    told: list[tuple[int, int]] = []
    audit(camvid(str(root), "train"), camvid(str(root), "val"), "fail", lambda *now: told.append(now))
    assert told == [(done, 6) for done in range(1, 7)]


def test_data_in_a_bucket_give_the_same_audit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE", str(root / "cache"))
    for path in root.rglob("*.png"):
        storage.write_bytes(f"memory://test_audit/{path.relative_to(root)}", path.read_bytes())
    there = audit(camvid("memory://test_audit", "train"), camvid("memory://test_audit", "val"), "fail")
    assert there == run(root)


def test_a_fault_of_the_storage_is_not_taken_for_bad_data(root: Path) -> None:
    def read_image(index: int) -> Sample:
        raise TimeoutError(f"no answer for sample {index}")

    train = camvid(str(root), "train")
    train.image = read_image  # type: ignore[assignment, method-assign]
    with pytest.raises(TimeoutError):
        audit(train, camvid(str(root), "val"), "leave_out")


def test_street_scenes_are_sound() -> None:
    settings = Streets(num_train=6, num_val=4, height=32, width=32)
    result = audit(StreetScenes(settings, "train"), StreetScenes(settings, "val"), "fail")
    assert [found for found in result.findings if found.severity == "error"] == []
    assert len(result.train.kept) == 6


class Drawn:
    """A data set without files, of one class: a sample with another label, one that cannot be read, and a sound one."""

    classes = Classes(names=("ground",), colours=((1, 2, 3),))
    names: tuple[str, ...] = ("wrong", "broken", "sound")

    def read(self, index: int) -> Sample:
        if index == 1:
            raise ValueError("cannot be drawn")
        return Sample(noise(index), np.full(SIZE, (4, 0, 0)[index], np.uint8))

    def sequence(self, index: int) -> str | None:  # noqa: ARG002
        return None


def test_a_set_without_files_is_audited_by_what_it_reads() -> None:
    drawn: Dataset = Drawn()
    settings = Streets(num_val=1, height=32, width=32)
    result = audit(drawn, StreetScenes(settings, "val"), "warn")
    assert [(found.file, found.kind) for found in result.findings] == [("wrong", "label"), ("broken", "unreadable")]
    assert result.train.kept == (0, 2)
    assert result.train.void_pixels == SIZE[0] * SIZE[1]
    assert audit(drawn, StreetScenes(settings, "val"), "leave_out").train.kept == (2,)


def test_the_pixels_of_a_class_are_set_against_those_of_the_images_that_show_it(root: Path) -> None:
    save_mask(root, np.full(SIZE, 3, np.uint8))
    result = run(root).train
    assert [pixels // (24 * 32) for pixels in result.class_image_pixels] == [3, 3, 3, 4, 3, 3, 3, 3, 3, 3, 3]
