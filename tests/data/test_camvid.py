"""What is known of CamVid, against the real files."""

from pathlib import Path

import numpy as np
import pytest

from fcn_core.data.audit import Audit, audit, class_weights
from fcn_core.data.files import CAMVID, FileDataset, camvid

CAMVID_FOLDER = Path(__file__).parents[3] / "shared/data/camvid"

pytestmark = pytest.mark.skipif(
    not CAMVID_FOLDER.is_dir(),
    reason="no CamVid in shared/data/camvid beside this checkout: nothing is checked against real data",
)


@pytest.fixture(scope="module")
def real() -> tuple[FileDataset, FileDataset, Audit]:
    train, val = camvid(str(CAMVID_FOLDER), "train"), camvid(str(CAMVID_FOLDER), "val")
    return train, val, audit(train, val, "fail")


def test_camvid_has_the_published_counts(real: tuple[FileDataset, FileDataset, Audit]) -> None:
    train, val, result = real
    assert (len(result.train.kept), len(result.val.kept)) == (367, 101)
    assert (len(train.names), len(val.names)) == (367, 101)
    assert result.train.sizes == result.val.sizes == ((360, 480),)
    labelled = sum(result.train.class_pixels)
    percent = [100 * pixels / labelled for pixels in result.train.class_pixels]
    assert percent == pytest.approx([17.5, 24.2, 1.0, 33.0, 4.7, 10.1, 1.2, 1.2, 6.1, 0.67, 0.30], abs=0.1)
    assert CAMVID.names[int(np.argmax(percent))] == "road"
    assert 100 * result.train.void_pixels / (367 * 360 * 480) == pytest.approx(3.95, abs=0.01)
    assert 100 * result.val.void_pixels / (101 * 360 * 480) == pytest.approx(1.70, abs=0.01)


def test_camvid_has_the_known_median_frequency_weights(real: tuple[FileDataset, FileDataset, Audit]) -> None:
    expected = [0.279, 0.202, 4.787, 0.149, 1.000, 0.422, 3.847, 1.974, 0.789, 6.375, 8.859]
    assert class_weights(real[2].train, "median_frequency") == pytest.approx(expected, abs=0.0006)


def test_the_only_finding_in_camvid_is_that_the_validation_clip_flatters(
    real: tuple[FileDataset, FileDataset, Audit],
) -> None:
    (found,) = real[2].findings
    assert (found.kind, found.file) == ("sequence", "0016E5")
    assert found.reason == (
        "(101 frames) is a sequence of the training set too (204 frames); frames 7959 to 8159 lie inside 390 to 8640 "
        "of it, nearest training frame 31 frames away: scores on it flatter"
    )
