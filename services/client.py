"""A client of the service that gives NumPy arrays.

with Client("http://127.0.0.1:8000", token="fcn_...") as client:
    found = client.segment("street.png")
road = found.labels == 2
"""

import io
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services._schemas import ModelDescription, ModelIdentity, ModelList, Segmentation

Picture = bytes | str | Path | NDArray[np.uint8]
"""The contents of an image file, its path, or pixels (H, W, 3) uint8 RGB."""


class Found(NamedTuple):
    """What was found in an image."""

    labels: NDArray[np.uint8]
    """(H, W), at the size of the image after EXIF rotation."""
    confidence: NDArray[np.float32]
    """(H, W), the probability of each pixel's label."""
    model: ModelIdentity


class ServiceError(Exception):
    """The service did not give what was asked for; `status`, `detail` and `request_id` say why."""

    def __init__(self, status: int, detail: str, request_id: str) -> None:
        super().__init__(f"{status}: {detail} (request {request_id})")
        self.status = status
        self.detail = detail
        self.request_id = request_id


class Client:
    """A connection to the service, from one thread at a time.

    Asking again changes nothing, so where the service is at its capacity (429, 503), a connection breaks, or a proxy
    has lost the replica (5xx in its own words), a request is sent again `retries` times: after the time that the
    service names, at most `patience_s`; else after 1 s, 2 s and so on, a broken connection at once and then so.

    Args:
        url: of the service.
        token: if it wants one.
        timeout_s: longest that the service may be silent.
        retries: of each request.
        patience_s: longest wait before sending again.
        transport: what carries requests, in place of the network.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout_s: float = 60,
        retries: int = 2,
        patience_s: float = 10,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self._retries, self._patience_s = retries, patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[ModelDescription]:
        """Return what is served, the champion first."""
        return ModelList.model_validate_json(self._send("GET", "/v1/models").content).models

    def mask(self, picture: Picture, version: int | None = None) -> NDArray[np.uint8]:
        """Return the label of each pixel (H, W): the least to send.

        Raises:
            ServiceError: the service does not answer the request; as do the other methods.
        """
        answer = self._segment(picture, "image/png", version)
        with Image.open(io.BytesIO(answer.content), formats=["PNG"]) as image:
            return np.array(image, np.uint8)

    def segment(self, picture: Picture, version: int | None = None) -> Found:
        """Return labels and confidence of each pixel."""
        answer = self._segment(picture, "application/x-npz", version)
        arrays = _arrays(answer)
        return Found(arrays["labels"], arrays["confidence"], _model(answer))

    def describe(self, picture: Picture, version: int | None = None) -> Segmentation:
        """Return share, confidence and run lengths (COCO's) of each class; `one.rle.mask()` is an array."""
        return Segmentation.model_validate_json(self._segment(picture, "application/json", version).content)

    def segment_batch(self, pictures: Sequence[Picture], version: int | None = None) -> list[Found]:
        """Return labels and confidence of several images, all by the same version."""
        files = [("images", (str(number), _contents(picture))) for number, picture in enumerate(pictures)]
        answer = self._send("POST", "/v1/segment:batch", "application/x-npz", version, files=files)
        arrays, model = _arrays(answer), _model(answer)
        return [Found(arrays[f"labels_{n}"], arrays[f"confidence_{n}"], model) for n in range(len(files))]

    def _segment(self, picture: Picture, accept: str, version: int | None) -> httpx2.Response:
        return self._send("POST", "/v1/segment", accept, version, content=_contents(picture))

    def _send(
        self,
        method: str,
        path: str,
        accept: str = "*/*",
        version: int | None = None,
        **body: Any,  # noqa: ANN401 -- as httpx2 takes it.
    ) -> httpx2.Response:
        parameters = {} if version is None else {"version": version}
        ask = partial(self._http.request, method, path, headers={"Accept": accept}, params=parameters, **body)
        for before in range(self._retries):
            try:
                answer = ask()
            except (httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError):
                time.sleep(before)
                continue
            is_ours = "problem+json" in answer.headers.get("content-type", "")
            if answer.status_code not in (429, 503) and (answer.is_success or answer.is_client_error or is_ours):
                return _checked(answer)
            asked = answer.headers.get("Retry-After", "")
            time.sleep(min(float(asked) if asked.isdecimal() else 1.0 + before, self._patience_s))
        return _checked(ask())


def _contents(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, str | Path):
        return Path(picture).read_bytes()
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _arrays(answer: httpx2.Response) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as arrays:
        return dict(arrays)


def _model(answer: httpx2.Response) -> ModelIdentity:
    names = {"name": "Model-Name", "version": "Model-Version", "weights": "Weights-SHA256"}
    return ModelIdentity.model_validate({name: answer.headers[header] for name, header in names.items()})


def _checked(answer: httpx2.Response) -> httpx2.Response:
    if answer.status_code == httpx2.codes.OK:
        return answer
    try:
        details = dict(answer.json())
    except ValueError:
        # Not ours: what stands between says something in its own words.
        details = {}
    detail = str(details.get("detail", answer.text[:200]))
    raise ServiceError(answer.status_code, detail, answer.headers.get("X-Request-ID", "unknown"))
