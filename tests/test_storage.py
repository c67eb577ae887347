import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from fcn_core import storage
from fcn_core.storage import COMMIT, MANIFEST, TornError

FILES = {"a.bin": bytes(range(256)) * 40, "b.txt": b"some text"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # An open connection to another module's server is no use here.
    s3: Any = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    s3.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a folder that no other test uses, on each kind of storage."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    if request.param == "s3":
        return storage.join(str(request.getfixturevalue("bucket")), tmp_path.name)
    return str(tmp_path / "root") if request.param == "local" else f"memory://{tmp_path.name}"


class BrokenOffError(Exception):
    """What no second try mends, such as the end of the process."""


class Others:
    """Another process that uses the same folder."""

    def __init__(self, url: str) -> None:
        # Not the object that storage.py uses, which would notice.
        self.files, self.path = fsspec.core.url_to_fs(url, use_listings_cache=True)

    def read(self, name: str) -> bytes:
        return bytes(self.files.cat_file(f"{self.path}/{name}"))

    def write(self, name: str, contents: bytes) -> None:
        self.files.pipe_file(f"{self.path}/{name}", contents)

    def remove(self, name: str) -> None:
        self.files.rm_file(f"{self.path}/{name}")


def publish(url: str, files: dict[str, bytes] = FILES) -> None:
    with storage.publishing(url) as folder:
        for name, contents in files.items():
            (folder / name).write_bytes(contents)


def fail_in_the_middle(url: str, error: type[BaseException]) -> None:
    with storage.publishing(url) as folder:
        (folder / "a.bin").write_bytes(b"half")
        raise error


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (MANIFEST, COMMIT)}


def files_in_cache() -> list[Path]:
    return [path for path in storage.cache_folder().glob("entries/**/*") if path.is_file()]


def nothing_is_left(root: str) -> bool:
    return storage.list_folder(root) == [] and not any(Path(tempfile.gettempdir()).iterdir())


def test_what_is_published_is_fetched(root: str) -> None:
    url = storage.join(root, "deep", "folder")
    publish(url)
    assert storage.list_folder(url) == [COMMIT, "a.bin", "b.txt", MANIFEST]
    assert {name: facts["size"] for name, facts in storage.verify(url).items()} == {"a.bin": 10240, "b.txt": 9}
    assert contents(storage.fetch(url)) == FILES
    assert storage.list_folder(storage.join(root, "deep")) == ["folder"]


def test_publishing_again_replaces_all(root: str) -> None:
    publish(root)
    storage.fetch(root)
    publish(root, {"b.txt": b"another text"})
    assert storage.verify(root).keys() == {"b.txt"}
    assert contents(storage.fetch(root)) == {"b.txt": b"another text"}
    assert not storage.exists(storage.join(root, "a.bin"))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_publishes_nothing_and_leaves_nothing(root: str, error: type[BaseException]) -> None:
    url = storage.join(root, "folder")
    with pytest.raises(error):
        fail_in_the_middle(url, error)
    assert not storage.exists(url)
    assert nothing_is_left(root)


def test_an_exception_leaves_what_was_published_before(root: str) -> None:
    publish(root)
    with pytest.raises(OSError, match=r"^$"):
        fail_in_the_middle(root, OSError)
    assert contents(storage.fetch(root)) == FILES


def flip(others: Others) -> None:
    changed = bytearray(others.read("a.bin"))
    changed[1000] ^= 1
    others.write("a.bin", bytes(changed))


def truncate(others: Others) -> None:
    others.write("a.bin", FILES["a.bin"][:-1])


def lie_about_sizes(others: Others) -> None:
    others.write(MANIFEST, others.read(MANIFEST).replace(b'"size": 9', b'"size": 8'))


def name_a_file_outside(others: Others) -> None:
    manifest = json.loads(others.read(MANIFEST))
    manifest["files"]["../x"] = manifest["files"].pop("a.bin")
    edited = json.dumps(manifest).encode()
    others.write(MANIFEST, edited)
    others.write(COMMIT, hashlib.sha256(edited).hexdigest().encode())


DAMAGES: dict[str, tuple[Callable[[Others], None], str]] = {
    "no COMMIT": (lambda others: others.remove(COMMIT), "was never completed: it lacks COMMIT"),
    "no manifest": (lambda others: others.remove(MANIFEST), "was never completed: it lacks manifest.json"),
    "empty COMMIT": (lambda others: others.write(COMMIT, b""), "is damaged: COMMIT does not fit manifest.json"),
    "other COMMIT": (lambda others: others.write(COMMIT, b"\xff"), "is damaged: COMMIT does not fit manifest.json"),
    "no file": (lambda others: others.remove("b.txt"), "is damaged: b.txt is missing"),
    "empty file": (lambda others: others.write("b.txt", b""), "is damaged: b.txt has not the SHA-256"),
    "truncated file": (truncate, "is damaged: a.bin has not the SHA-256"),
    "flipped bit": (flip, "is damaged: a.bin has not the SHA-256"),
    "edited manifest": (lie_about_sizes, "is damaged: COMMIT does not fit manifest.json"),
    "foreign file": (name_a_file_outside, r"is damaged: manifest.json names files outside the folder: \.\./x"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_torn_folder_is_never_read_but_can_be_published_again(
    root: str, damage: Callable[[Others], None], message: str
) -> None:
    url = storage.join(root, "folder")
    publish(url)
    damage(Others(url))
    for read in (storage.verify, storage.fetch):
        with pytest.raises(TornError, match=f"{url} {message}"):
            read(url)
    assert files_in_cache() == []
    publish(url)
    assert contents(storage.fetch(url)) == FILES


def test_a_folder_that_is_not_there_is_torn(root: str) -> None:
    with pytest.raises(TornError, match=r"it lacks manifest\.json"):
        storage.fetch(root)


@pytest.mark.parametrize("uploaded", range(len(FILES) + 2))
def test_an_upload_that_breaks_off_is_never_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uploaded: int
) -> None:
    url = f"memory://{tmp_path.name}"
    publish(url)
    files = storage.calls.open_url(url).filesystem
    put_file, calls = files.put_file, iter(range(uploaded))

    def put_some(*args: object) -> None:
        if next(calls, None) is None:
            raise BrokenOffError
        put_file(*args)

    monkeypatch.setattr(files, "put_file", put_some)
    with pytest.raises(BrokenOffError):
        publish(url)
    assert len(storage.list_folder(url)) == uploaded
    assert not storage.exists(storage.join(url, COMMIT))
    with pytest.raises(TornError):
        storage.verify(url)


PUBLISH_UNTIL_KILLED = """
    import itertools, os, random, signal, sys, time
    from pathlib import Path
    from fcn_core import storage

    def publish(number):
        with storage.publishing(f"{sys.argv[1]}/{number % 5}") as folder:
            for name in range(30):
                (folder / str(name)).write_bytes(os.urandom(10_000))

    start = time.monotonic()
    for number in range(5):
        publish(number)
    duration = time.monotonic() - start
    for _ in range(20):
        child = os.fork()
        if child == 0:
            for number in itertools.count():
                publish(number)
        time.sleep(random.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for commit in Path(sys.argv[1]).glob("[!.]*/COMMIT"):
            print(len(storage.verify(str(commit.parent))))
"""


def test_what_a_killed_process_was_about_to_upload_is_removed_and_what_a_live_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = """
import os, signal
from fcn_core import storage
with storage.publishing("memory://killed") as folder:
    (folder / "a.bin").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    here = os.environ | {"TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", killed], env=here, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    publish("memory://other")
    assert list(tmp_path.iterdir()) == [left], "it may be new"
    with storage.publishing("memory://living") as living:
        for folder in (left, living):
            os.utime(folder, (0, 0))
        publish("memory://other")
        assert list(tmp_path.iterdir()) == [living]


def test_links_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("text")
    (tmp_path / "deep" / "round").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "other").symlink_to(tmp_path / "deep" / "file")
    assert list(storage.find_files(str(tmp_path))) == ["deep/file", "other"]
    assert storage.find_files(str(tmp_path / "nowhere")) == {}


def test_whenever_publishing_is_killed_every_folder_with_a_commit_is_whole(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PUBLISH_UNTIL_KILLED), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert set(child.stdout.split()) == {"30"}
    assert len(child.stdout.split()) > 20


def test_removing_leaves_nothing(root: str) -> None:
    publish(storage.join(root, "folder"))
    storage.remove_folder(storage.join(root, "folder"))
    assert nothing_is_left(root)
    storage.remove_folder(storage.join(root, "folder"))


def test_a_removal_that_breaks_off_leaves_nothing_to_be_read(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(root)

    def fail(*_: object, **__: object) -> None:
        raise BrokenOffError

    monkeypatch.setattr(storage.calls.open_url(root).filesystem, "rm", fail)
    with pytest.raises(BrokenOffError):
        storage.remove_folder(root)
    assert storage.list_folder(root) == ["a.bin", "b.txt", MANIFEST]
    with pytest.raises(TornError, match="it lacks COMMIT"):
        storage.verify(root)


def test_a_file_is_written_and_replaced(root: str) -> None:
    url = storage.join(root, "deep", "file.json")
    for text in (b"{}", b'{"longer": 1}', b""):
        storage.write_bytes(url, text)
        assert storage.read_bytes(url) == text
    assert storage.list_folder(storage.join(root, "deep")) == ["file.json"]


def test_a_file_that_is_not_there_cannot_be_read(root: str) -> None:
    for read in (storage.read_bytes, storage.cached):
        with pytest.raises(FileNotFoundError):
            read(storage.join(root, "nothing"))
    assert not storage.exists(storage.join(root, "nothing"))


def test_a_reader_sees_the_old_contents_or_the_new(tmp_path: Path) -> None:
    url = str(tmp_path / "file")
    versions = [bytes([number]) * 3_000_000 for number in range(2)]
    storage.write_bytes(url, versions[0])
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(lambda: list(map(storage.write_bytes, [url] * 20, versions * 10)))
        while not writing.done():
            assert storage.read_bytes(url) in versions


def test_a_write_that_fails_changes_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int) -> None:
        raise OSError("no space left on device")

    storage.write_bytes(str(tmp_path / "file"), b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        storage.write_bytes(str(tmp_path / "file"), b"new")
    assert storage.read_bytes(str(tmp_path / "file")) == b"old"
    assert storage.list_folder(str(tmp_path)) == ["file"]


def test_a_file_is_created_once(root: str) -> None:
    url = storage.join(root, "deep", "file.json")
    storage.create_bytes(url, b"first")
    with pytest.raises(FileExistsError, match=r"file\.json"):
        storage.create_bytes(url, b"second")
    assert storage.read_bytes(url) == b"first"
    assert storage.list_folder(storage.join(root, "deep")) == ["file.json"]


@pytest.fixture
def _as_a_store_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto looks whether a key is taken and then takes it; S3 does both at once."""
    lock, put_object = threading.Lock(), S3Response.put_object

    def put(response: S3Response) -> Any:  # noqa: ANN401
        with lock:
            return put_object(response)

    monkeypatch.setattr(S3Response, "put_object", put)


@pytest.mark.usefixtures("_as_a_store_does")
@pytest.mark.parametrize("root", ["local", "s3"], indirect=True)
def test_of_many_who_create_a_file_at_once_one_does(root: str) -> None:
    def create(writer: int) -> bytes | None:
        contents = bytes([writer]) * 1000
        start.wait()
        try:
            storage.create_bytes(url, contents)
        except FileExistsError:
            return None
        return contents

    with ThreadPoolExecutor(8) as threads:
        for number in range(10):
            start, url = threading.Barrier(8), storage.join(root, str(number))
            winners = [contents for contents in threads.map(create, range(8)) if contents]
            assert winners == [storage.read_bytes(url)]
    assert storage.list_folder(root) == sorted(map(str, range(10)))


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
def test_a_writer_whose_request_was_repeated_finds_its_own_file(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = storage.calls.open_url(root).filesystem
    pipe_file = filesystem.pipe_file

    def pipe_twice(path: str, contents: bytes, mode: str, **_: object) -> None:
        pipe_file(path, contents, mode=mode)
        # What s3fs makes of a server that does not say which condition failed.
        raise OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(filesystem, "pipe_file", pipe_twice)
    storage.create_bytes(f"{root}/ours", b"ours")
    Others(root).write("theirs", b"theirs")
    monkeypatch.setattr(filesystem, "pipe_file", lambda *_, **__: pipe_twice(f"{root}/another", b"", "create"))
    with pytest.raises(FileExistsError, match="theirs is there already"):
        storage.create_bytes(f"{root}/theirs", b"ours")
    assert Others(root).read("theirs") == b"theirs"


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
def test_a_storage_that_fails_is_no_file_that_is_there(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "Please reduce your request rate.")

    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "0.1")
    monkeypatch.setattr(storage.calls.open_url(root).filesystem, "pipe_file", fail)
    with pytest.raises(storage.UnavailableError, match="reduce your request rate") as failed:
        storage.create_bytes(f"{root}/file", b"ours")
    assert not isinstance(failed.value, FileExistsError)


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        storage.create_bytes(str(tmp_path / "file"), b"new")
    assert storage.list_folder(str(tmp_path)) == []


def test_a_listing_is_sorted_and_fresh(root: str) -> None:
    assert storage.list_folder(root) == []
    for name in ("b", "c/d", "a"):
        storage.write_bytes(storage.join(root, name), b"")
    assert storage.list_folder(root) == storage.list_folder(f"{root}/") == ["a", "b", "c"]
    assert storage.list_folder(storage.join(root, "a")) == []
    others = Others(root)
    others.write("0", b"")
    others.remove("b")
    assert storage.list_folder(root) == ["0", "a", "c"]
    assert [storage.exists(storage.join(root, name)) for name in ("0", "b", "c")] == [True, False, True]


def test_a_file_is_cached_until_others_change_it(root: str) -> None:
    url = storage.join(root, "weights.pth")
    storage.write_bytes(url, b"old")
    storage.list_folder(root)
    copy = storage.cached(url)
    assert copy.read_bytes() == b"old"
    assert copy.suffix == ".pth"
    Others(root).write("weights.pth", b"new")
    assert storage.cached(url).read_bytes() == b"new"


def test_a_local_file_is_its_own_copy(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "file"), b"")
    assert storage.cached(f"file://{tmp_path}/file") == tmp_path / "file"
    publish(str(tmp_path / "folder"))
    assert storage.fetch(str(tmp_path / "folder")) == tmp_path / "folder"


@pytest.mark.parametrize("root", ["s3"], indirect=True)
def test_threads_share_one_copy_that_is_whole(root: str) -> None:
    def read(number: int) -> tuple[Path, int]:
        path = storage.cached(storage.join(root, "file")) if number % 2 else storage.fetch(root) / "file"
        return path, len(path.read_bytes())

    publish(root, {"file": bytes(3_000_000)})
    with ThreadPoolExecutor(8) as threads:
        copies = set(threads.map(read, range(16)))
    assert len(copies) == 2
    assert {size for _, size in copies} == {3_000_000}
    assert list(storage.cache_folder().rglob(".partial*")) == []


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
def test_a_download_that_breaks_off_is_not_kept(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(_path: str, copy: str, **_: object) -> None:
        Path(copy).write_bytes(b"some")
        raise BrokenOffError

    publish(root)
    with monkeypatch.context() as broken:
        broken.setattr(storage.calls.open_url(root).filesystem, "get_file", break_off)
        with pytest.raises(BrokenOffError):
            storage.cached(storage.join(root, "b.txt"))
        with pytest.raises(BrokenOffError):
            storage.fetch(root)
    assert files_in_cache() == []
    assert storage.cached(storage.join(root, "b.txt")).read_bytes() == b"some text"
    assert contents(storage.fetch(root)) == FILES


@pytest.mark.parametrize("root", ["memory", "s3"], indirect=True)
def test_a_folder_is_downloaded_once(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(root)
    copy = storage.fetch(root)
    cached = storage.cached(f"{root}/a.bin")
    monkeypatch.setattr(storage.calls.open_url(root).filesystem, "get_file", None)
    assert storage.fetch(root) == copy
    assert storage.cached(f"{root}/a.bin") == cached


def test_local_paths_become_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("results") == str(tmp_path / "results")
    assert storage.absolute("./a/../results/") == str(tmp_path / "results")
    assert storage.absolute(f"file://{tmp_path}/results") == str(tmp_path / "results")
    assert storage.absolute("memory://bucket/results") == "memory://bucket/results"


def test_a_storage_that_cannot_be_used_is_named_with_the_reason(root: str) -> None:
    storage.check_access(root)
    with pytest.raises(OSError, match="cannot use s4://bucket: Protocol not known: s4"):
        storage.check_access("s4://bucket")


def test_a_bucket_is_not_local(bucket: str) -> None:
    assert storage.absolute(f"{bucket}/results") == "s3://bucket/results"
    assert not storage.is_local(bucket)
    assert storage.is_local("results")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path))
    assert storage.cache_folder() == tmp_path
    monkeypatch.delenv("FCN_CACHE")
    assert storage.cache_folder() == Path.home() / ".cache" / "fcn_lab"
