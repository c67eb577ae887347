import time

import numpy as np
import pytest
from PIL import ImageOps
from starlette.testclient import TestClient

from fcn_core.predict import Predictor
from services._service import Service
from tests.services.hostile import Upload, uploads
from tests.services.serving import Pixels, opened, problem

UPLOADS = uploads()
MOST_S = 30
"""Generous, for busy machines: what is not bounded takes minutes."""


@pytest.fixture(scope="module")
def offline(service: Service) -> Predictor:
    return Predictor.load(service.models.champion.version.url)


@pytest.mark.parametrize("upload", UPLOADS, ids=lambda upload: upload.name)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_uploads_get_the_right_answer_or_a_reason(
    client: TestClient, service: Service, offline: Predictor, upload: Upload
) -> None:
    start = time.perf_counter()
    answer = client.post("/v1/segment", content=upload.contents)
    seconds = time.perf_counter() - start
    if upload.status == 200:
        assert answer.status_code == 200, answer.text
        image = decoded(upload.contents)
        inference = service.models.champion.inference(*image.shape[:2])
        assert np.array_equal(np.asarray(opened(answer.content)), offline.labels(image, inference).numpy())
    else:
        assert problem(answer, upload.status).startswith("the image ")
        assert "object at" not in answer.text
    assert seconds < MOST_S


def decoded(contents: bytes) -> Pixels:
    """Return the pixels as Pillow alone gives them, upright, without transparency."""
    image = ImageOps.exif_transpose(opened(contents))
    image.info.pop("transparency", None)
    return np.array(image.convert("RGB"))
