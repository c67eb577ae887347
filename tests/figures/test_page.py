from pathlib import Path

from matplotlib.figure import Figure

from fcn_core.figures.page import LINES, MARGIN, WIDTH, Page, literal, sentences
from tests.figures.looking import assert_readable, read, texts


def test_text_that_fits_stays_as_it_is_and_other_text_is_cut() -> None:
    page = Page()
    assert page.fit("sky", page.width("sky", 11), 11) == "sky"
    cut = page.fit("a name that is longer than there is room", 100, 11)
    assert cut.endswith("…")
    assert "a name that is longer".startswith(cut[:-1])
    assert 85 < page.width(cut, 11) <= 100
    assert page.fit("sky", 0, 11) == ""
    assert not page.figure.texts, "measuring leaves nothing behind"


def test_the_page_is_as_wide_as_a_readme_and_as_high_as_its_head_needs(tmp_path: Path, saved: list[Figure]) -> None:
    for title, rule, height in [
        ("", "", 114),
        ("a title", "", 140),
        ("", "a rule", 128),
        ("long " * 25, "rule " * 99, 210),
    ]:
        page = Page()
        page.head(100, title, rule)
        page.save(tmp_path / "page.png")
        assert read(tmp_path / "page.png").shape == (2 * height, 1600, 3)
        assert_readable(saved[-1])
        assert all(box.y0 > 2 * 100 and box.x1 <= 2 * (WIDTH - MARGIN) for _, box in texts(saved[-1]))


def test_lines_of_21_classes_differ() -> None:
    assert len(set(LINES)) == len(LINES) == 21


def test_sentences_leave_out_what_is_empty() -> None:
    assert sentences("", "One.", "", "Two.") == "One. Two."


def test_formulas_are_literal() -> None:
    assert literal("$a$") == r"\$a\$"
