import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from services._service import Service
from tests.services.hostile import Upload, uploads
from tests.services.serving import opened, problem

UPLOADS = uploads()


@pytest.mark.parametrize("upload", UPLOADS, ids=lambda upload: upload.name)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_uploads_get_an_answer_or_a_reason(client: TestClient, service: Service, upload: Upload) -> None:
    start = time.perf_counter()
    answer = client.post("/v1/segment", content=upload.contents)
    seconds = time.perf_counter() - start
    status = upload.status or answer.status_code
    if status == 200:
        assert answer.status_code == 200, answer.text
        assert np.asarray(opened(answer.content)).max() < len(service.models.champion.version.card.classes)
    else:
        assert status in (413, 415, 422)
        assert problem(answer, status).startswith("the image ")
        assert "object at" not in answer.text
    assert seconds < 3
