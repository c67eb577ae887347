"""What the job kept of looks at units, over HTTP."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from fcn_core import storage
from services._fields import FOLDER
from services._service import Service
from tests.services.serving import client_of, opened, problem, serving
from tests.services.test_access import bearer, write

ROUTE = "/v1/receptive-fields"


@pytest.fixture(scope="module")
def asked(place: Path) -> Service:
    return serving(place)


@pytest.fixture(scope="module")
def client(asked: Service) -> Iterator[TestClient]:
    with client_of(asked) as client:
        yield client


@pytest.fixture
def folder(place: Path) -> Path:
    (folder,) = (place / FOLDER).glob("resnet18-*/")
    return folder


def test_looks_are_listed_and_described(client: TestClient, folder: Path) -> None:
    assert client.get(ROUTE).json() == {"receptive_fields": [folder.name]}
    found = client.get(f"{ROUTE}/{folder.name}").json()
    question = json.loads((folder / "numbers.json").read_text())["question"]
    for name in ("model", "weights", "layer", "units", "images", "num_images"):
        assert found[name] == question[name]
    kinds = {file["name"]: file["media_type"] for file in found["files"]}
    assert kinds["index.html"] == "text/html"
    assert kinds["layer2-5.png"] == "image/png"
    assert set(kinds) == {path.name for path in folder.iterdir()} - {storage.MANIFEST, storage.COMMIT}


def test_files_come_as_they_were_published(client: TestClient, folder: Path) -> None:
    for file in client.get(f"{ROUTE}/{folder.name}").json()["files"]:
        answer = client.get(f"{ROUTE}/{folder.name}/{file['name']}")
        assert answer.headers["content-type"].partition(";")[0] == file["media_type"]
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        assert len(answer.content) == file["size"]
    assert opened(client.get(f"{ROUTE}/{folder.name}/layer2-4.png").content).width > 100
    with np.load(io.BytesIO(client.get(f"{ROUTE}/{folder.name}/layer2-4.npz").content)) as arrays:
        assert "falls_00" in arrays


def test_the_gallery_is_kept_apart_from_the_page(client: TestClient, folder: Path) -> None:
    policy = client.get(f"{ROUTE}/{folder.name}/index.html").headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'; ")
    assert "connect-src" not in policy
    assert "allow-same-origin" not in policy
    other = client.get(f"{ROUTE}/{folder.name}/numbers.json").headers["content-security-policy"]
    assert other == "default-src 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize(
    "path",
    [
        *("nothing", "torn", "parts", "..", "%2e%2e", "..%2f", ".", "resnet18-theory.png", "nothing/numbers.json"),
        *(
            "../secret.json",
            "%2e%2e/secret.json",
            "..%2fsecret.json",
            "..%5csecret.json",
            "%00",
            "a" * 300,
            "%F0%9F%90%88" * 100,
            "%C3%A4" * 200,
        ),
        *("LOOK/nothing.png", "LOOK/manifest.json", "LOOK/COMMIT", "LOOK/..%2f..%2fsecret.json", "LOOK/%2e%2e"),
        *("LOOK/%2fetc%2fpasswd", "LOOK/../../secret.json"),
    ],
)
def test_nothing_else_can_be_asked_for(client: TestClient, folder: Path, path: str) -> None:
    answer = client.get(f"{ROUTE}/{path.replace('LOOK', folder.name)}")
    if answer.status_code == 200:
        # What a client makes of dots is another route.
        assert "receptive_fields" in answer.json()
        return
    assert problem(answer, 404)
    assert str(folder.parent) not in answer.text


def test_damaged_files_are_not_given(place: Path, folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / FOLDER / folder.name
    shutil.copytree(folder, copy)
    (tmp_path / "models").symlink_to(place / "models")
    (copy / "layer2-4.png").write_bytes(b"other")
    with client_of(serving(tmp_path)) as client:
        detail = problem(client.get(f"{ROUTE}/{folder.name}/layer2-4.png"), 404)
        assert detail == f"there is no receptive field {folder.name}/layer2-4.png, or it is not whole"
        assert client.get(f"{ROUTE}/{folder.name}/layer2-5.png").status_code == 200
        (copy / "numbers.json").unlink()
        problem(client.get(f"{ROUTE}/{folder.name}"), 404)
        (copy / "COMMIT").unlink()
        problem(client.get(f"{ROUTE}/{folder.name}/layer2-5.png"), 404)
        assert client.get(ROUTE).json() == {"receptive_fields": []}


def test_where_nothing_was_looked_at_the_list_is_empty(lab: Path) -> None:
    with client_of(serving(lab)) as client:
        assert client.get(ROUTE).json() == {"receptive_fields": []}
        problem(client.get(f"{ROUTE}/streets-conv4_3-1-0123456789"), 404)


def test_a_storage_that_fails_or_hangs_is_told(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go = threading.Event()

    def fail(_: str) -> list[str]:
        raise PermissionError("the key of this bucket")

    def hang(_: str) -> list[str]:
        assert go.wait(60)
        return []

    with client_of(serving(lab, deadline_s=0.1)) as client:
        monkeypatch.setattr(storage, "list_folder", fail)
        answer = client.get(ROUTE)
        assert problem(answer, 503) == "the storage cannot be read at present"
        assert answer.headers["retry-after"] == "5"
        monkeypatch.setattr(storage, "list_folder", hang)
        assert problem(client.get(ROUTE), 504) == "there was no answer within 0.1 s"
        go.set()


def test_tokens_are_asked_for(place: Path, folder: Path, tmp_path: Path) -> None:
    tokens = write(tmp_path / "tokens.json", alice="fcn_secret")
    with client_of(serving(place, tokens=str(tokens))) as client:
        for path in (ROUTE, f"{ROUTE}/{folder.name}", f"{ROUTE}/{folder.name}/index.html"):
            problem(client.get(path), 401)
            assert client.get(path, headers=bearer("fcn_secret")).status_code == 200
