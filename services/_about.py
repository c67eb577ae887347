"""The routes that tell about the models and the service."""

from importlib.metadata import version as version_of

from fastapi import APIRouter
from starlette.responses import Response

from fcn_core.registry.version import EXAMPLE
from services._metrics import MEDIA_TYPE
from services._models import Served
from services._problems import Problem, declared
from services._schemas import (
    Health,
    ModelDescription,
    ModelList,
    OipLive,
    OipModel,
    OipReady,
    OipServer,
    TensorMetadata,
)
from services._service import Owner, Service, TheService, Version, model_headers

models = APIRouter(tags=["models"])
health = APIRouter(tags=["health"])
_ERRORS = declared(401, 421, 500)
_PICTURE = {"description": "The image", "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
_PROMETHEUS = {"description": "In Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}


@models.get("/v1/models", summary="What is served", responses=_ERRORS)
async def list_models(service: TheService, _: Owner) -> ModelList:
    """Return every version that is served, the champion first."""
    return ModelList(
        models=[_describe(service, one) for one in service.models.all()], refused=[*service.models.refused]
    )


@models.get("/v1/models/{name}", summary="The champion of a model", responses=_ERRORS | declared(404, 422))
async def show_model(name: str, service: TheService, _: Owner) -> ModelDescription:
    """Return classes, colours, scores with their rule, and preprocessing."""
    return _describe(service, _champion(service, name))


@models.get(
    "/v1/models/{name}/example",
    summary="The example of a version",
    response_class=Response,
    responses=_ERRORS | declared(404, 422) | {200: _PICTURE},
)
def example(name: str, service: TheService, _: Owner, version: Version = None) -> Response:
    """Return the image that the version was packed with, the first that it was evaluated on: something to try it on."""
    _champion(service, name)
    served = service.models.get(version)
    try:
        picture = (served.version.folder / EXAMPLE).read_bytes()
    except FileNotFoundError as error:
        raise Problem(404, f"the example of {served.version.label} is no longer there") from error
    return Response(picture, headers=model_headers(served), media_type="image/png")


@health.get("/healthz", summary="Whether the service lives", responses=declared(500))
async def live() -> Health:
    """Answer."""
    return Health()


@health.get("/readyz", summary="Whether the service can answer", responses=declared(500, 503))
async def ready(service: TheService) -> Health:
    """Answer once the champion is loaded, has proved itself and is warm, as long as the device works."""
    service.stages.check_device()
    return Health()


@health.get(
    "/metrics",
    summary="Metrics of this replica",
    response_class=Response,
    responses=_ERRORS | {200: _PROMETHEUS},
)
async def metrics(service: TheService, _: Owner) -> Response:
    """Return requests, latency, stages, images of a request, rejections and pixels by class."""
    return Response(service.metrics.page(service.models.all()), media_type=MEDIA_TYPE)


@health.get("/v2", summary="The service, after the Open Inference Protocol", responses=declared(500))
async def oip_server() -> OipServer:
    """Return name and version of the software."""
    return OipServer(version=version_of("fcn-lab"))


@health.get("/v2/health/live", summary="Whether the service lives", responses=declared(500))
async def oip_live() -> OipLive:
    """Answer."""
    return OipLive(live=True)


@health.get("/v2/health/ready", summary="Whether the service can answer", responses=declared(500, 503))
async def oip_ready(service: TheService) -> OipReady:
    """Answer as `/readyz`."""
    service.stages.check_device()
    return OipReady(ready=True)


@health.get(
    "/v2/models/{name}", summary="A model, after the Open Inference Protocol", responses=_ERRORS | declared(404, 422)
)
async def oip_model(name: str, service: TheService, _: Owner) -> OipModel:
    """Return versions, input and outputs; inference is `POST /v1/segment`."""
    _champion(service, name)
    return OipModel(
        name=name,
        versions=[str(one.version.facts.version) for one in service.models.all()],
        inputs=[TensorMetadata(name="image", datatype="UINT8", shape=[-1, -1, 3])],
        outputs=[
            TensorMetadata(name="labels", datatype="UINT8", shape=[-1, -1]),
            TensorMetadata(name="confidence", datatype="FP32", shape=[-1, -1]),
        ],
    )


@health.get("/v2/models/{name}/ready", summary="Whether a model can answer", responses=_ERRORS | declared(404, 422))
async def oip_model_ready(name: str, service: TheService, _: Owner) -> OipReady:
    """Answer if the model is served."""
    return OipReady(ready=bool(_champion(service, name)))


def _champion(service: Service, name: str) -> Served:
    if name != service.models.name:
        raise Problem(404, f"{name} is not served, {service.models.name} is")
    return service.models.champion


def _describe(service: Service, served: Served) -> ModelDescription:
    card, report = served.version.card, served.version.report
    found, facts = report.mean_iou_over_images, served.version.facts
    return ModelDescription(
        name=facts.name,
        version=facts.version,
        weights=served.version.weights,
        champion=served is service.models.champion,
        network=f"FCN-{card.model.stride}s on {card.model.trunk}",
        classes=[*card.classes.names],
        colours=[*card.classes.colours],
        preprocessing=card.model.preprocessing,
        scale=card.scale,
        inference=report.subject.inference.describe(),
        rule=report.rule,
        split=report.subject.split,
        mean_iou=found.value,
        mean_iou_interval=(found.low, found.high),
        class_iou=[one.iou.value for one in report.classes],
    )
