"""The champion of a model over HTTP.

`serve run services.segmentation:build` on one machine, `serve deploy services/segmentation.yaml` on a cluster.
"""

from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray import serve
from starlette.types import ASGIApp

from fcn_core.compute import make_deterministic
from fcn_core.settings import Compute
from services._access import check_exposure
from services._app import create_app
from services._serve import deployed, host
from services._service import Service
from services._settings import Serving, read_settings


class Segmentation:
    """A replica: an ASGI application around a `Service`.

    Raises:
        ValueError: it could be reached from other machines without tokens, or there is no GPU.
        ValueError, OSError, RefusedError: as `Service`.
    """

    def __init__(self, settings: Serving) -> None:
        check_exposure(host(), settings.tokens)
        # As evaluations: on CUDA the algorithms of a convolution, and with them its last bits, are chosen otherwise.
        make_deterministic(Compute(), seed=0)
        self._service = Service(settings, _device(settings))

    def check_health(self) -> None:
        """Ask Serve for another replica if the device of this one failed."""
        self._service.stages.check_device()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._service, echo_request_id=False)


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """Return the application that Ray Serve runs.

    Args:
        arguments: settings by name, over those of the environment.

    Raises:
        ValueError: one is unknown or does not fit.
    """
    settings = read_settings(Serving, arguments)
    return deployed(Segmentation, "Segmentation", settings, {"num_cpus": 1, "num_gpus": int(_wants_gpu(settings))})


def _wants_gpu(settings: Serving) -> bool:
    if settings.device != "auto":
        return settings.device == "cuda"
    # `serve run` starts Ray after it has built the application, on this machine; `serve deploy` builds on the cluster.
    return bool(ray.cluster_resources().get("GPU") if ray.is_initialized() else torch.cuda.is_available())


def _device(settings: Serving) -> str:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but this replica sees no GPU: give nodes GPUs, or set device to auto or cpu")
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
