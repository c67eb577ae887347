"""Every kind of data set, and how it is opened."""

from collections.abc import Callable

from fcn_core.data.base import Dataset
from fcn_core.data.files import camvid, folder, sbd, voc
from fcn_core.data.folds import fold_of
from fcn_core.data.streets import StreetScenes
from fcn_core.settings import Data

# `Data` refuses a kind that is read from files and has no path, so that the empty path is never opened.
OPENERS: dict[str, Callable[[Data, str], Dataset]] = {
    "streets": lambda data, split: StreetScenes(data.streets, split),
    "camvid": lambda data, split: camvid(data.path or "", split),
    "folder": lambda data, split: folder(data.path or "", split),
    "voc": lambda data, split: voc(data.path or "", split),
    "sbd": lambda data, split: sbd(data.path or "", split),
}


def open_dataset(data: Data, split: str) -> Dataset:
    """Open one split of the data set that the settings name.

    Raises:
        FileNotFoundError: the folder, the split or one of its lists is not there; the message says which splits are.
        ValueError: what describes the data set cannot be used.
    """
    return OPENERS[data.kind](data, split)


def open_train_val(data: Data) -> tuple[Dataset, Dataset]:
    """Open what to train and to validate on: two splits, or the parts of a fold.

    Raises:
        FileNotFoundError: as `open_dataset`.
        ValueError: as `open_dataset`, or there are fewer sequences than folds.
    """
    train, val = open_dataset(data, data.train_split), open_dataset(data, data.val_split)
    return (train, val) if data.folds is None else fold_of(train, val, data.folds, data.fold or 0)


def open_split(data: Data, split: str) -> Dataset:
    """Open "train" or "val", what a run trains and validates on; or any other split of its data.

    Raises:
        FileNotFoundError: as `open_dataset`.
        ValueError: as `open_train_val`.
    """
    parts = {"train": 0, "val": 1}
    return open_train_val(data)[parts[split]] if split in parts else open_dataset(data, split)
