import pytest

from services._negotiation import ARRAYS, JSON, MASK, OVERLAY, PROBABILITIES, negotiate
from services._problems import Problem

OFFERED = (MASK, OVERLAY, JSON, ARRAYS, PROBABILITIES)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, MASK),
        ("*/*", MASK),
        ("image/*", MASK),
        ("application/*", JSON),
        ("image/png", MASK),
        ("image/png;view=overlay", OVERLAY),
        ("IMAGE/PNG; View=Overlay", OVERLAY),
        ('image/png;view="overlay"', OVERLAY),
        ("application/json;charset=utf-8", JSON),
        ("application/x-npz;view=probabilities", PROBABILITIES),
        ("application/json;q=0.5, application/x-npz", ARRAYS),
        ("application/json, application/x-npz", JSON),
        ("application/json;q=0, */*", MASK),
        ("image/png;q=0, */*", JSON),
        ("*/*;q=0, image/png", MASK),
        ("image/png;q=0.1, */*;q=0.5", JSON),
        ("image/*;q=0, application/x-npz;q=0.2, */*;q=0.1", ARRAYS),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", MASK),
        ("nonsense, application/json", JSON),
        ("application/json;q=much, application/x-npz;q=0.1", ARRAYS),
    ],
)
def test_what_is_wanted_most_is_chosen(accept: str | None, wanted: str) -> None:
    assert negotiate(accept, OFFERED) == wanted


@pytest.mark.parametrize(
    "accept", ["text/html", "image/png;view=upside-down", "*/*;q=0", "image/png;q=0", "", "nonsense"]
)
def test_what_nobody_can_send_is_refused(accept: str) -> None:
    if not accept:
        assert negotiate(accept, OFFERED) == MASK
        return
    with pytest.raises(Problem, match="Accept allows none of image/png") as refused:
        negotiate(accept, OFFERED)
    assert refused.value.status == 406
