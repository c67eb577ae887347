"""Experiments over HTTP: what is stored of them, and the jobs that make more.

`serve run services.experiments:build` on one machine, `serve deploy services/experiments.yaml` on a cluster.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from ray import serve
from ray.job_submission import JobSubmissionClient
from starlette.types import ASGIApp

from services._access import check_exposure
from services._serve import deployed, host
from services._settings import read_settings
from services.lab.app import create_app
from services.lab.jobs import Client
from services.lab.service import Lab
from services.lab.settings import Experiments


class ExperimentService:
    """A replica: an ASGI application around a `Lab`.

    Raises:
        ValueError: it could be reached from other machines without tokens.
        ValueError, OSError: as `Lab`.
    """

    def __init__(self, settings: Experiments) -> None:
        check_exposure(host(), settings.tokens)
        self._lab = Lab(settings, _connect_to(settings.cluster, settings.deadline_s))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._lab, echo_request_id=False)


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """Return the application that Ray Serve runs.

    Args:
        arguments: settings by name, over those of the environment.

    Raises:
        ValueError: one is unknown or does not fit.
    """
    # It waits for storage and cluster: on a small machine the CPUs are for the jobs.
    return deployed(ExperimentService, "Experiments", read_settings(Experiments, arguments), {"num_cpus": 0})


def _connect_to(cluster: str | None, deadline_s: float) -> Callable[[], Client]:
    """Return what makes a client of the cluster at a URL, or of the one that this process belongs to."""

    class WithDeadline(JobSubmissionClient):  # type: ignore[misc] # mypy does not look at Ray.
        """Ray's client would wait for ever for a dashboard that hangs."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:  # noqa: ANN401 -- as Ray has them.
            return super()._do_request(method, endpoint, timeout=deadline_s, **options)

    return lambda: cast("Client", WithDeadline(cluster))
