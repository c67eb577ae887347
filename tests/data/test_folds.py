import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold

from fcn_core.data.audit import audit
from fcn_core.data.base import Dataset
from fcn_core.data.catalogue import open_train_val
from fcn_core.data.files import Entry, FileDataset, Unpaired
from fcn_core.data.folds import fold_of, grouped
from fcn_core.settings import Classes, Data, Streets

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"
ROAD = Classes(names=("road",), colours=((0, 0, 0),))


def files(*names: str) -> FileDataset:
    entries = tuple(Entry(name, f"{name}.png", f"{name}_mask.png") for name in names)
    return FileDataset(ROAD, entries, sequence_of=lambda name: name[0])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=8), st.integers(2, 4))
def test_parts_hold_every_image_once_and_no_sequence_twice(groups: list[str], folds: int) -> None:
    groups = [*groups, *"abcd"]
    parts = grouped(groups, folds)
    assert sorted(index for part in parts for index in part) == list(range(len(groups)))
    assert sum(len({groups[index] for index in part}) for part in parts) == len(set(groups))
    assert all(parts)


@given(
    st.permutations([name for name, size in zip("abcdefg", (1, 2, 4, 7, 11, 16, 22), strict=True) for _ in range(size)])
)
def test_parts_are_those_of_scikit_learn(groups: list[str]) -> None:
    theirs = [test.tolist() for _, test in GroupKFold(3).split(np.zeros(len(groups)), groups=groups)]
    assert sorted(grouped(groups, 3)) == sorted(theirs)


def test_more_folds_than_sequences_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"3 folds ask for as many sequences, and there are 2: a \(2 images\), b \(1 images\)"
    ):
        grouped(["a", "b", "a"], 3)


def test_both_splits_are_parted_by_sequence() -> None:
    first, second = files("a1", "a2", "b1"), files("a3", "c1")
    first = dataclasses.replace(first, unpaired=(Unpaired("x", "y"),))
    seen: list[str] = []
    for fold in range(3):
        train, val = fold_of(first, second, 3, fold)
        assert isinstance(val, FileDataset)
        assert sorted([*train.names, *val.names]) == ["a1", "a2", "a3", "b1", "c1"]
        assert not {name[0] for name in train.names} & {name[0] for name in val.names}
        assert val.unpaired == first.unpaired
        seen += val.names
    assert sorted(seen) == ["a1", "a2", "a3", "b1", "c1"]


def test_a_name_that_is_in_both_splits_is_refused() -> None:
    with pytest.raises(ValueError, match="names of samples must be unique"):
        fold_of(files("a1"), files("a1"), 2, 0)


def test_images_without_sequences_stand_for_themselves() -> None:
    data = Data(folds=3, fold=2, streets=Streets(num_train=7, num_val=3, height=32, width=32))
    train, val = open_train_val(data)
    plain = list(open_train_val(data.model_copy(update={"folds": None})))
    by_name = {name: dataset.read(index) for dataset in plain for index, name in enumerate(dataset.names)}
    assert {len(train.names), len(val.names)} <= {3, 4, 6, 7}
    assert set(train.names) | set(val.names) == set(by_name)
    for part in (train, val):
        for index, name in enumerate(part.names):
            assert (part.read(index).image == by_name[name].image).all()
            assert part.sequence(index) is None


def sequences(dataset: Dataset) -> set[str | None]:
    return {dataset.sequence(index) for index in range(len(dataset.names))}


@pytest.mark.skipif(not CAMVID.exists(), reason="CamVid is not here")
def test_the_folds_of_camvid_share_no_sequence_and_the_audit_agrees() -> None:
    sizes = []
    pairs = [open_train_val(Data(kind="camvid", path=str(CAMVID), folds=3, fold=fold)) for fold in range(3)]
    for train, val in pairs:
        assert not sequences(train) & sequences(val)
        sizes.append(len(val.names))
    assert sizes == [305, 101, 62]
    last = audit(*pairs[-1], "fail")
    assert not [finding for finding in last.findings if finding.kind == "sequence"]
    plain = audit(*open_train_val(Data(kind="camvid", path=str(CAMVID))), "fail")
    assert [finding.file for finding in plain.findings if finding.kind == "sequence"] == ["0016E5"]
