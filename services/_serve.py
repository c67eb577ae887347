"""What the deployments on Ray Serve share."""

from collections.abc import Mapping
from typing import Any, Protocol

import ray
from ray import serve
from ray.serve.config import BackpressureConfig

from fcn_core import storage
from services._settings import ServiceSettings

_CONNECTIONS = 1000
"""Requests of a replica that Serve lets through at once. Most upload or wait; what is done at once the service says."""


class Replica(Protocol):
    """What Serve starts: made of the settings, it builds an ASGI application."""

    def __init__(self, settings: Any) -> None:  # noqa: ANN401 -- each has its own kind.
        """Begin."""


def deployed(
    replica: type[Replica], name: str, settings: ServiceSettings, actor_options: Mapping[str, Any]
) -> serve.Application:
    """Return the application that Ray Serve runs.

    Args:
        replica: a class whose instances build ASGI applications.
        name: of the deployment.
        settings: what each replica is made of.
        actor_options: what each replica asks the cluster for.
    """
    # Replicas have another working directory.
    places = {"storage": storage.absolute(settings.storage)}
    places |= {"tokens": storage.absolute(settings.tokens)} if settings.tokens else {}
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=_CONNECTIONS,
        max_queued_requests=_CONNECTIONS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        ray_actor_options=dict(actor_options),
    )
    return deployment(serve.ingress()(replica)).bind(settings.model_copy(update=places))


def host() -> str:
    """Return the address that Serve listens on."""
    client = serve.context._get_global_client()  # noqa: SLF001 -- Serve tells it nowhere else from within.
    options = ray.get(client._controller.get_http_config.remote())  # noqa: SLF001
    return str(options.host)
