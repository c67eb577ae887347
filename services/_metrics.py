"""What Prometheus is told. Every replica tells of itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from services._models import Served

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MEDIA_TYPE = "text/plain; version=0.0.4"


class Metrics:
    """The metrics of a replica, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("fcn_requests", "Requests answered", ["method", "route", "status"], registry=registry)
        self._seconds = Histogram(
            "fcn_request_seconds", "From the first byte of a request to its answer", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._stages = Histogram(
            "fcn_stage_seconds", "Time of an image in a stage, without waiting for it", ["stage"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._images = Histogram(
            "fcn_request_images", "Images of a request", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self._rejected = Counter("fcn_rejected", "Requests turned away", ["reason"], registry=registry)
        self._pixels = Counter("fcn_class_pixels", "Pixels by predicted class", ["name"], registry=registry)
        self._model = Gauge("fcn_model", "1 for what is served", ["name", "version", "weights"], registry=registry)
        self._waiting = Gauge("fcn_waiting_images", "Images between upload and answer", registry=registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a request that was turned away."""
        self._rejected.labels(reason).inc()

    def asked(self, images: int) -> None:
        """Count the images of a request."""
        self._images.observe(images)

    def found(self, served: Served, labels: NDArray[np.uint8]) -> None:
        """Count the pixels of each class."""
        names = served.version.card.classes.names
        # Unlike NumPy's, this lets other threads go on meanwhile.
        found = torch.from_numpy(labels).flatten().bincount(minlength=len(names)).tolist()
        for name, pixels in zip(names, found, strict=True):
            self._pixels.labels(name).inc(pixels)

    @contextmanager
    def stage(self, name: str, times: dict[str, float]) -> Iterator[None]:
        """Measure a stage of one image or request, and write its seconds into `times`."""
        start = perf_counter()
        try:
            yield
        finally:
            seconds = perf_counter() - start
            times[name] = seconds
            self._stages.labels(name).observe(seconds)

    def watch_waiting(self, number: Callable[[], int]) -> None:
        """Tell how many images wait whenever somebody asks."""
        self._waiting.set_function(number)

    def page(self, served: list[Served]) -> bytes:
        """Return all metrics as Prometheus reads them."""
        self._model.clear()
        for one in served:
            self._model.labels(one.version.facts.name, one.version.facts.version, one.version.weights).set(1)
        return generate_latest(self._registry)
