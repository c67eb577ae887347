"""The same champion behind other servers, as somebody who knows them would write it.

python -m benchmarks._peers uvicorn|fastapi|litserve STORAGE PORT
"""

import io
import sys
from typing import Annotated

import litserve
import numpy as np
import torch
import uvicorn
from fastapi import Body, FastAPI
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from benchmarks._serving import NAME
from fcn_core.predict import Predictor
from fcn_core.registry.store import MODELS, Registry
from services._app import create_app
from services._service import Service
from services._settings import Serving, read_settings

Contents = Annotated[bytes, Body(media_type="application/octet-stream")]


class Model:
    """Decodes, computes and encodes, one after the other."""

    def __init__(self, storage: str) -> None:
        torch.set_num_threads(1)
        champion = Registry(f"{storage}/{MODELS}").read_champion(NAME)
        if champion is None:
            raise FileNotFoundError(f"no champion in {storage}")
        self.predictor = Predictor.load(champion.url)
        self.palette = np.array(self.predictor.classes.colours, np.uint8).tobytes()
        self.labels(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, contents: bytes) -> bytes:
        """Map an image file to a mask file."""
        return self.encode(self.labels(self.decode(contents)))

    @staticmethod
    def decode(contents: bytes) -> NDArray[np.uint8]:
        """Return pixels (H, W, 3) RGB."""
        with Image.open(io.BytesIO(contents)) as image:
            return np.array(image.convert("RGB"))

    def labels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return labels (H, W)."""
        found: NDArray[np.uint8] = self.predictor.labels(image).numpy()
        return found

    def encode(self, labels: NDArray[np.uint8]) -> bytes:
        """Return a PNG with a palette."""
        mask, file = Image.fromarray(labels), io.BytesIO()
        mask.putpalette(self.palette)
        mask.save(file, "PNG")
        return file.getvalue()


def plain_app(model: Model) -> FastAPI:
    """Return what the FastAPI tutorial leads to: a plain function, which FastAPI calls in its pool of threads."""
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> None:
        pass

    @app.post("/v1/segment", response_class=Response)
    def segment(contents: Contents) -> Response:
        return Response(model(contents), media_type="image/png")

    return app


class Lit(litserve.LitAPI):  # type: ignore[misc] # It has no types.
    """The three steps in LitServe's worker."""

    def __init__(self, storage: str) -> None:
        super().__init__(api_path="/v1/segment")
        self.storage = storage

    def setup(self, device: str) -> None:  # noqa: ARG002 -- LitServe's signature.
        """Load the model in the worker."""
        self.model = Model(self.storage)

    def decode_request(self, request: Contents) -> NDArray[np.uint8]:
        """Decode."""
        return self.model.decode(request)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Compute."""
        return self.model.labels(x)

    def encode_response(self, output: NDArray[np.uint8]) -> Response:
        """Encode."""
        return Response(self.model.encode(output), media_type="image/png")


def main() -> None:
    """Serve."""
    kind, storage, port = sys.argv[1:]
    if kind == "litserve":
        server = litserve.LitServer(Lit(storage), accelerator="cpu", workers_per_device=1, fast_queue=True)
        server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
        return
    ours = kind == "uvicorn"
    app = (
        create_app(Service(read_settings(Serving, {"storage": storage}), "cpu")) if ours else plain_app(Model(storage))
    )
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
