import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fcn_core import storage
from fcn_core.storage.calls import Limits, open_url
from tests.faulty import Fault, Kind, Proxy, faulty_s3


@pytest.fixture(scope="module")
def s3() -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as patch, faulty_s3(patch, deadline_s=2.0, patience_s=60.0) as proxy:
        yield proxy


@pytest.fixture
def root(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert not s3.faults
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    return f"s3://lab/{tmp_path.name}"


@pytest.mark.parametrize("kind", ["500", "reset", "hang", "truncated"])
def test_what_passes_is_waited_for(s3: Proxy, root: str, kind: Kind) -> None:
    times = 1 if kind == "hang" else 3
    with s3.failing(Fault(kind, "PUT .*file", times)):
        storage.write_bytes(f"{root}/file", b"contents" * 1000)
    with s3.failing(Fault(kind, "GET .*file", times)):
        assert storage.read_bytes(f"{root}/file") == b"contents" * 1000


@pytest.mark.parametrize("kind", ["503", "hang"])
def test_what_does_not_pass_is_given_up_with_its_cause(
    s3: Proxy, root: str, kind: Kind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "2.5")
    start = time.monotonic()
    with s3.failing(Fault(kind, "PUT")), pytest.raises(storage.UnavailableError) as failed:
        storage.write_bytes(f"{root}/file", b"contents")
    # Far from the minutes that the client of the store takes for it.
    assert time.monotonic() - start < 60
    cause = {"503": "SlowDown on purpose", "hang": "no answer within 2 s"}[kind]
    assert str(failed.value).startswith(f"{root}/file: pipe_file failed ")
    assert cause in str(failed.value)
    assert "\n" not in str(failed.value)
    assert any("trying again" in record.message for record in caplog.records)
    assert not storage.exists(f"{root}/file")


@pytest.mark.parametrize(
    "use",
    [
        lambda url: storage.write_bytes(url, b""),
        lambda url: storage.create_bytes(url, b""),
        storage.read_bytes,
        storage.list_folder,
        storage.exists,
        storage.fetch,
        storage.cached,
        storage.remove_folder,
        storage.check_access,
    ],
    ids=["write", "create", "read", "list", "exists", "fetch", "cached", "remove", "check"],
)
def test_a_refusal_is_told_at_once(s3: Proxy, root: str, use: Callable[[str], object]) -> None:
    s3.requests.clear()
    with s3.failing(Fault("403", ".")), pytest.raises(OSError, match=r"s3://lab/.* refuses ") as failed:
        use(f"{root}/file")
    assert "\n" not in str(failed.value)
    assert len(s3.requests) <= 2
    if use is not storage.check_access:
        assert isinstance(failed.value, storage.RefusedError)


@pytest.mark.parametrize("use", [lambda url: storage.write_bytes(url, b""), storage.list_folder, storage.check_access])
def test_a_bucket_that_is_not_there_is_no_empty_folder(root: str, use: Callable[[str], object]) -> None:
    missing = root.replace("lab", "none")
    with pytest.raises(OSError, match=f"{missing}.* refuses .*bucket does not exist"):
        use(f"{missing}/file")


def test_access_is_checked_without_patience(s3: Proxy, root: str) -> None:
    storage.check_access(root)
    with s3.failing(Fault("503", ".")), pytest.raises(OSError, match=f"cannot use {root}: "):
        storage.check_access(root)
    tried = len(s3.requests)
    with s3.failing(Fault("503", ".")), pytest.raises(OSError, match=r"SlowDown|Service Unavailable"):
        storage.check_access(root)
    assert len(s3.requests) - tried <= 3


def test_a_call_with_contents_has_a_longer_deadline(s3: Proxy, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_STORAGE_DEADLINE_S", "0.5")
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "0.1")
    with s3.failing(Fault("slow", "PUT")):
        storage.write_bytes(f"{root}/large", bytes(16 * 2**20))
        with pytest.raises(storage.UnavailableError, match="no answer within"):
            storage.write_bytes(f"{root}/small", b"")


def test_a_filesystem_that_cannot_be_cancelled_has_a_deadline_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = open_url(f"memory://{tmp_path.name}/file")
    monkeypatch.setenv("FCN_STORAGE_DEADLINE_S", "0.2")
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "0.3")
    monkeypatch.setattr(place.filesystem, "cat_file", lambda _: time.sleep(2))
    with pytest.raises(storage.UnavailableError, match=r"no answer within 0\.2 s"):
        storage.read_bytes(place.url)


@pytest.mark.slow
def test_a_large_file_goes_up_in_parts_side_by_side(s3: Proxy, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_STORAGE_DEADLINE_S", "60")
    contents = bytes(range(256)) * (110 * 4096)
    s3.requests.clear()
    s3.crowds.clear()
    with s3.failing(Fault("slow", "partNumber=")), storage.publishing(f"{root}/folder") as folder:
        (folder / "large").write_bytes(contents)
    parts = [request for request in s3.requests if "partNumber=" in request]
    assert len(parts) == 3
    # The server had them at the same time.
    assert max(sum("partNumber=" in request for request in crowd) for crowd in s3.crowds) >= 2
    assert storage.verify(f"{root}/folder")["large"]["size"] == len(contents)
    assert (storage.fetch(f"{root}/folder") / "large").read_bytes() == contents


@pytest.mark.parametrize("value", ["none", "0", "-1"])
def test_a_limit_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", value)
    with pytest.raises(ValueError, match=f"FCN_STORAGE_PATIENCE_S is '{value}': give a number above 0"):
        Limits.read()


def test_nothing_is_said_while_all_goes_well(root: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        storage.write_bytes(f"{root}/file", b"")
        assert storage.list_folder(root) == ["file"]
    assert [record for record in caplog.records if record.name.startswith("fcn_core")] == []
