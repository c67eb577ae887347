"""What the deployments on Ray Serve share."""

import ray
from ray import serve
from ray.serve.config import BackpressureConfig

CONNECTIONS = 1000
"""Requests of a replica that Serve lets through at once. Most upload or wait; what is done at once the service says."""


def backpressure() -> BackpressureConfig:
    """Return what Serve answers beyond that."""
    return BackpressureConfig(status_code=503, retry_after_s=1)


def host() -> str:
    """Return the address that Serve listens on."""
    client = serve.context._get_global_client()  # noqa: SLF001 -- Serve tells it nowhere else from within.
    options = ray.get(client._controller.get_http_config.remote())  # noqa: SLF001
    return str(options.host)
