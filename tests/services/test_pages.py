"""What pages are served with; tests/services/test_page.py opens one in a browser."""

import re
import tomllib
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from services._app import create_app
from tests.services.serving import problem, serving
from tests.services.test_access import write

STATIC = Path(__file__).parents[2] / "services" / "static"
PAGES = sorted(STATIC.glob("*/index.html"))
BEYOND_THE_POLICY = re.compile(
    r"<style|style=|<script(?![^>]* src=)|\son\w+=|https?://(?!www\.w3\.org)|javascript:|innerHTML|\beval\b"
)


@pytest.mark.parametrize("path", sorted(STATIC.rglob("*.*")), ids=lambda path: path.name)
def test_files_keep_to_the_policy(path: Path) -> None:
    assert not BEYOND_THE_POLICY.findall(path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_pages_load_what_there_is(page: Path) -> None:
    links = re.findall(r'(?:src|href)="(static/[^"]+)"', page.read_text())
    assert links
    for link in links:
        assert (STATIC.parent / link).is_file(), link


def test_a_page_and_its_files_come_with_their_policy(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    for answer in (page, *(client.get(link) for link in links)):
        assert answer.status_code == 200
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["nothing.js", "../_app.py", "%2e%2e/_app.py", "..%2f_app.py", "segmentation/../../_app.py", "/etc/hosts", "."],
)
def test_there_is_no_way_out_of_the_files_of_a_page(client: TestClient, path: str) -> None:
    answer = client.get(f"/static/{path}")
    assert answer.status_code == 404
    assert problem(answer, 404).startswith("there is n")


def test_a_page_needs_no_token(lab: Path, tmp_path: Path) -> None:
    tokens = write(tmp_path / "tokens.json", alice="fcn_secret")
    client = TestClient(create_app(serving(lab, tokens=str(tokens))), base_url="http://lab.example")
    assert client.get("/").status_code == 200
    assert client.get("/static/api.js").status_code == 200


def test_all_files_are_part_of_the_package() -> None:
    patterns = tomllib.loads((STATIC.parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in patterns["services"] for path in STATIC.parent.glob(pattern) if path.is_file()}
    assert {path for path in STATIC.rglob("*") if path.is_file()} <= packed


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, after WCAG 2."""
    values = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        *(("text", "page", 7), ("text", "raised", 7), ("muted", "page", 4.5), ("muted", "raised", 4.5)),
        *(("accent", "page", 4.5), ("accent", "raised", 4.5), ("on-accent", "accent", 4.5)),
        *(("error", "error-page", 4.5), ("control", "page", 3), ("control", "raised", 3)),
    ],
)
def test_colours_can_be_told_apart(scheme: int, front: str, back: str, least: float) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (STATIC / "base.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", blocks[scheme]))
    dark, light = sorted((luminance(colours[front]), luminance(colours[back])))
    assert (light + 0.05) / (dark + 0.05) >= least
