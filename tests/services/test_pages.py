"""What pages are served with; tests/services/test_page.py opens one in a browser."""

import re
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
