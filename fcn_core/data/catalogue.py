"""Every kind of data set, and how it is opened."""

from collections.abc import Callable

from fcn_core.data.base import Dataset
from fcn_core.data.files import camvid, folder, sbd, voc
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
