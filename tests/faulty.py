"""An S3 server behind a proxy that fails on purpose."""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

Kind = Literal["500", "503", "403", "404", "reset", "hang", "slow", "truncated"]
CODES = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied", "404": "NoSuchBucket"}


@dataclass
class Fault:
    """Meets requests whose 'METHOD /path?query' has `pattern` in it."""

    kind: Kind
    pattern: str
    times: int = 10**9
    after: int = 0
    """Requests that pass before."""
    met: int = 0

    def meets(self, request: str) -> bool:
        if not re.search(self.pattern, request):
            return False
        self.met += 1
        return self.after < self.met <= self.after + self.times


class Proxy(ThreadingHTTPServer):
    """Hands requests on as they are, `Host` included, so that signatures stay valid and no secret is needed."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = server
        """Host and port."""
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.under_way: list[str] = []
        self.crowds: list[tuple[str, ...]] = []
        """What was under way, each time that a request was handed on."""
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            return next((fault for fault in self.faults if fault.meets(request)), None)

    @contextmanager
    def handing_on(self, request: str) -> Iterator[None]:
        with self.lock:
            self.under_way.append(request)
            self.crowds.append(tuple(self.under_way))
        try:
            yield
        finally:
            with self.lock:
                self.under_way.remove(request)

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        self.faults = list(faults)
        try:
            yield
        finally:
            self.faults = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients go away on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        fault = self.server.fault_of(f"{self.command} {self.path}")
        kind = fault.kind if fault else None
        if kind == "hang":
            self.server.ended.wait(60)
            self.close_connection = True
            return
        if kind == "reset":
            self._reset()
            return
        body = self._body()
        if kind in CODES:
            self._answer(int(str(kind)), {"Content-Type": "application/xml"}, self._explained(CODES[str(kind)]))
            return
        if kind == "truncated" and body:
            self._hand_on_half(body)
            self._reset()
            return
        with self.server.handing_on(f"{self.command} {self.path}"):
            if kind == "slow":
                self.server.ended.wait(0.6)
            status, headers, contents = self._hand_on(body)
        self._answer(status, headers, contents, half=kind == "truncated")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _headers(self, length: int) -> dict[str, str]:
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("expect", "connection", "transfer-encoding", "content-length")
        }
        return kept | {"Content-Length": str(length), "Connection": "close"}

    def _hand_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.behind, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self._headers(len(body)).items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _hand_on_half(self, body: bytes) -> None:
        """Let the server see a request that breaks off."""
        host, _, port = self.server.behind.partition(":")
        head = "".join(f"{name}: {value}\r\n" for name, value in self._headers(len(body)).items())
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(f"{self.command} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + body[: len(body) // 2])

    def _answer(self, status: int, headers: dict[str, str], contents: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(contents))
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(contents[: len(contents) // 2] if half else contents)
        if half:
            self._reset()

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _explained(self, code: str) -> bytes:
        text = f"<Error><Code>{code}</Code><Message>{code} on purpose</Message></Error>"
        return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


@contextmanager
def proxy(server: str) -> Iterator[Proxy]:
    """Run a proxy before the server at a host and port."""
    with Proxy(server) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.ended.set()
            running.shutdown()
            thread.join()


@contextmanager
def use_s3(
    patch: pytest.MonkeyPatch, access: Mapping[str, str], deadline_s: float, patience_s: float
) -> Iterator[Proxy]:
    """Let this process use an S3 server, which `access` names as the environment does, through a proxy."""
    s3: Any = fsspec.get_filesystem_class("s3")
    with proxy(access["AWS_ENDPOINT_URL"].removeprefix("http://")) as running:
        limits = {"FCN_STORAGE_DEADLINE_S": str(deadline_s), "FCN_STORAGE_PATIENCE_S": str(patience_s)}
        for name, value in {**access, **limits, "AWS_ENDPOINT_URL": running.url}.items():
            patch.setenv(name, value)
        s3.clear_instance_cache()
        try:
            yield running
        finally:
            s3.clear_instance_cache()


@contextmanager
def faulty_s3(patch: pytest.MonkeyPatch, deadline_s: float, patience_s: float) -> Iterator[Proxy]:
    """Run moto behind a proxy, with the bucket `lab`, and let this process use it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with use_s3(patch, access, deadline_s, patience_s) as running:
            boto3.client("s3").create_bucket(Bucket="lab")
            yield running
    finally:
        server.stop()
