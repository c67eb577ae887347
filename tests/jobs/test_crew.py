"""Parts of what was looked at, as others find them."""

from pathlib import Path

import numpy as np
import pytest

from jobs._crew import Parts


@pytest.mark.parametrize("place", range(40, 1200, 97))
def test_a_damaged_part_is_made_again_whatever_byte_it_is(place: int, tmp_path: Path) -> None:
    parts = Parts(str(tmp_path))
    values = np.random.default_rng(0).integers(0, 9, 4000)
    parts.write("part", {"values": values})
    found = parts.read("part")
    assert found is not None
    assert (found["values"] == values).all()
    (file,) = tmp_path.iterdir()
    contents = bytearray(file.read_bytes())
    assert place < len(contents)
    contents[place] ^= 0xFF
    file.write_bytes(contents)
    damaged = parts.read("part")
    # The archive has names and times twice, of which one is read.
    assert damaged is None or (damaged["values"] == values).all()
