import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fcn_core import storage
from services import tokens as command
from services._access import Access, Token, Tokens, check_exposure, digest_of
from services._problems import Problem
from tests.services.serving import client_of, encoded, problem, scene, serving

SECRET = "fcn_" + "s" * 40
OPEN = ("/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json")
CLOSED = (
    *("/v1/models", "/v1/models/streets", "/v1/models/streets/example", "/v1/receptive-fields", "/metrics"),
    *("/v2/models/streets", "/v2/models/streets/ready"),
)


def write(file: Path, days: float = 1, **secrets: str) -> Path:
    expires = datetime.now(UTC) + timedelta(days=days)
    kept = [Token(name=name, sha256=digest_of(secret), expires=expires) for name, secret in secrets.items()]
    Tokens(tokens=tuple(kept)).write(str(file))
    return file


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tokens.json", alice=SECRET, bob="fcn_other")


@pytest.fixture
def guarded(lab: Path, file: Path) -> TestClient:
    return TestClient(client_of(serving(lab, tokens=str(file))).app, base_url="http://lab.example")


@pytest.mark.parametrize("path", OPEN)
def test_health_and_description_are_open(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("fcn_wrong"), bearer(""), {"authorization": SECRET}, {"authorization": f"Basic {SECRET}"}],
)
def test_everything_else_wants_a_token(guarded: TestClient, headers: dict[str, str]) -> None:
    answers = [guarded.get(path, headers=headers) for path in CLOSED]
    answers += [guarded.post(path, headers=headers) for path in ("/v1/segment", "/v1/segment:batch")]
    for answer in answers:
        assert problem(answer, 401) == "a valid token is needed: Authorization: Bearer TOKEN"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_opens(guarded: TestClient) -> None:
    for path in CLOSED:
        assert guarded.get(path, headers=bearer(SECRET)).status_code == 200
    answer = guarded.post("/v1/segment", content=encoded(scene()), headers=bearer("fcn_other"))
    assert answer.status_code == 200


def test_tokens_expire_and_only_their_hashes_are_kept(file: Path) -> None:
    tokens, now = Tokens.read(str(file)), datetime.now(UTC)
    found = tokens.find(SECRET, now)
    assert found is not None
    assert found.name == "alice"
    assert not found.may_act
    assert tokens.find(SECRET, now + timedelta(days=2)) is None
    assert SECRET not in file.read_text()


def test_changed_tokens_are_taken_up_and_broken_ones_are_not(lab: Path, file: Path) -> None:
    service = serving(lab, tokens=str(file))
    client = client_of(service)
    write(file, carol="fcn_new")
    service.access.refresh()
    assert client.get("/metrics", headers=bearer(SECRET)).status_code == 401
    assert client.get("/metrics", headers=bearer("fcn_new")).status_code == 200
    file.write_text("{")
    service.access.refresh()
    assert client.get("/metrics", headers=bearer("fcn_new")).status_code == 200


def test_tokens_are_read_again_whatever_fails_and_while_a_champion_loads(
    lab: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, loads, go = serving(lab, tokens=str(file), refresh_s=0.02), threading.Event(), threading.Event()
    failures = iter([RuntimeError("no credentials"), OSError("no network")])

    def refresh() -> None:
        loads.set()
        assert go.wait(60)

    def read(url: str, whole: Callable[[str], bytes] = storage.read_bytes) -> bytes:
        if failure := next(failures, None):
            raise failure
        return whole(url)

    monkeypatch.setattr(service.models, "refresh", refresh)
    monkeypatch.setattr(storage, "read_bytes", read)
    with client_of(service) as client:
        assert loads.wait(60)
        write(file, carol="fcn_new")
        deadline = time.monotonic() + 60
        while client.get("/metrics", headers=bearer("fcn_new")).status_code == 401:
            assert time.monotonic() < deadline
        assert client.get("/metrics", headers=bearer(SECRET)).status_code == 401
        go.set()


@pytest.mark.parametrize("contents", ["", "{}", '{"tokens": [{"name": "a", "secret": "b"}]}'])
def test_a_service_does_not_start_with_broken_tokens(lab: Path, tmp_path: Path, contents: str) -> None:
    (tmp_path / "tokens.json").write_text(contents)
    with pytest.raises(ValueError, match="validation error"):
        serving(lab, tokens=str(tmp_path / "tokens.json"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.8.8.8"])
def test_loopback_needs_no_tokens(host: str) -> None:
    check_exposure(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "lab.example", ""])  # noqa: S104 -- refused.
def test_other_addresses_need_tokens(host: str) -> None:
    with pytest.raises(ValueError, match="set FCN_SERVE_TOKENS"):
        check_exposure(host, None)
    check_exposure(host, "tokens.json")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("127.0.0.1", 200), ("localhost:8000", 200), ("[::1]:8000", 200), ("LOCALHOST", 200)),
        *(("evil.example", 421), ("127.0.0.1.evil.example", 421), ("[", 421), ("localhost@evil.example", 421)),
    ],
)
def test_without_tokens_only_loopback_names_are_answered(client: TestClient, host: str, status: int) -> None:
    assert client.get("/v1/models", headers={"host": host}).status_code == status


def test_a_token_may_ask_so_often_and_not_more() -> None:
    now = 0.0
    access = Access(None, 0.5, clock=lambda: now)
    for _ in range(5):
        access.spend("alice", 1)
    with pytest.raises(Problem) as refused:
        access.spend("alice", 1)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "2")
    access.spend("bob", 1)
    now = 2.0
    access.spend("alice", 1)
    now = 100.0
    access.spend("alice", 8)
    with pytest.raises(Problem) as refused:
        access.spend("alice", 1)
    assert refused.value.headers["Retry-After"] == "8"


def test_too_often_is_told_before_anything_is_read(lab: Path) -> None:
    with client_of(serving(lab, rate_per_s=0.01)) as client:
        assert client.post("/v1/segment", content=encoded(scene())).status_code == 200
        answer = client.post("/v1/segment", content=b"whatever")
    assert problem(answer, 429) == "anybody asks for more than 0.01 images per second"
    assert answer.headers["retry-after"] == "100"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["tokens", *map(str, arguments)])
    command.main()


def test_tokens_are_made_listed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens.json"
    run(monkeypatch, "add", file, "alice", "--days", "7")
    secret = capsys.readouterr().out.strip()
    found = Tokens.read(str(file)).find(secret, datetime.now(UTC))
    assert found is not None
    assert (found.name, found.may_act) == ("alice", False)
    assert secret.startswith("fcn_")
    assert [*json.loads(file.read_text())["tokens"][0]] == ["name", "sha256", "expires", "may_act"]
    run(monkeypatch, "list", file)
    assert f"alice  until {datetime.now(UTC) + timedelta(days=7):%Y-%m-%d}" in capsys.readouterr().out
    run(monkeypatch, "add", file, "bob", "--act")
    capsys.readouterr()
    run(monkeypatch, "list", file)
    assert capsys.readouterr().out.splitlines()[1].endswith(", may act")
    run(monkeypatch, "remove", file, "alice")
    run(monkeypatch, "remove", file, "bob")
    assert not Tokens.read(str(file)).tokens


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "FILE", "alice"), "there is a token 'alice' already"),
        (("add", "FILE"), "say whose token it is"),
        (("remove", "FILE", "bob"), "there is no token 'bob'"),
        (("list", "MISSING"), "No such file"),
        (("burn", "FILE"), "'add', 'remove' or 'list'"),
    ],
)
def test_mistakes_with_tokens_get_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    file = write(tmp_path / "tokens.json", alice=SECRET)
    places = {"FILE": file, "MISSING": tmp_path / "missing.json"}
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, *(places.get(argument, argument) for argument in arguments))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
