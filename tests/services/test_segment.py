import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from starlette.testclient import TestClient

from fcn_core.data.pictures import UPRIGHT
from fcn_core.predict import Inference, Predictor
from services._service import Service
from tests.services.serving import Pixels, arrays, client_of, encoded, opened, problem, scene, serving


def expected(service: Service, image: Pixels, inference: Inference | None = None) -> Pixels:
    """What the predictor gives offline, loaded anew."""
    version = service.models.champion.version
    labels = Predictor.load(version.url).labels(image, inference or version.report.subject.inference)
    return np.asarray(labels)


@pytest.mark.parametrize(("height", "width"), [(40, 48), (33, 47), (1, 1), (64, 200)])
def test_the_mask_is_the_predictors_bit_by_bit(client: TestClient, service: Service, height: int, width: int) -> None:
    image = scene(height, width)
    answer = client.post("/v1/segment", content=encoded(image))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    mask = opened(answer.content)
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), expected(service, image))
    colours = np.array(service.models.champion.version.card.classes.colours, np.uint8)
    assert np.array_equal(np.asarray(mask.convert("RGB")), colours[np.asarray(mask)])


def test_answers_do_not_depend_on_what_else_is_asked_for(client: TestClient, service: Service) -> None:
    images = [scene(30 + 7 * (number % 3), 40 + 5 * (number % 2), number) for number in range(8)]

    def ask(image: Pixels) -> Pixels:
        answer = client.post("/v1/segment", content=encoded(image), headers={"accept": "application/x-npz"})
        return arrays(answer.content)["labels"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, images))
    for image, labels in zip(images, found, strict=True):
        assert np.array_equal(labels, expected(service, image))


def test_arrays_hold_the_confidence_of_each_pixel(client: TestClient, service: Service) -> None:
    image = scene()
    found = arrays(client.post("/v1/segment", content=encoded(image), headers={"accept": "application/x-npz"}).content)
    scores = service.models.champion.predictor.scores(image)
    assert found.keys() == {"labels", "confidence"}
    assert found["confidence"].dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(found["confidence"]), scores.softmax(0).amax(0))
    assert np.array_equal(found["labels"], scores.argmax(0).numpy())


def test_probabilities_are_sent_on_demand(client: TestClient, service: Service) -> None:
    accept = {"accept": "application/x-npz; view=probabilities"}
    found = arrays(client.post("/v1/segment", content=encoded(scene()), headers=accept).content)
    assert found.keys() == {"labels", "confidence", "probabilities"}
    assert found["probabilities"].dtype == np.float16
    expected = service.models.champion.predictor.scores(scene()).softmax(0)
    torch.testing.assert_close(torch.from_numpy(found["probabilities"]).float(), expected, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_json_tells_of_each_class(client: TestClient, service: Service) -> None:
    image = scene()
    answer = client.post("/v1/segment", content=encoded(image), headers={"accept": "application/json"}).json()
    labels = expected(service, image)
    confidence = service.models.champion.predictor.scores(image).softmax(0).amax(0).numpy()
    classes = service.models.champion.version.card.classes
    assert (answer["height"], answer["width"]) == labels.shape
    assert [one["name"] for one in answer["classes"]] == [*classes.names]
    assert [tuple(one["colour"]) for one in answer["classes"]] == [*classes.colours]
    for label, one in enumerate(answer["classes"]):
        there = labels == label
        assert one["label"] == label
        assert one["share"] == there.mean()
        if not there.any():
            assert one["rle"] is None
            assert one["confidence"] is None
            continue
        assert one["confidence"] == pytest.approx(float(confidence[there].mean()), abs=1e-5)
        assert np.array_equal(coco.decode(one["rle"]).astype(bool), there)


def test_the_overlay_is_the_image_under_the_colours(client: TestClient, service: Service) -> None:
    image = scene()
    answer = client.post("/v1/segment", content=encoded(image), headers={"accept": "image/png;view=overlay"})
    colours = np.array(service.models.champion.version.card.classes.colours)[expected(service, image)]
    found = np.asarray(opened(answer.content)).astype(int)
    assert np.abs(found - (image.astype(int) + colours) / 2).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(client: TestClient, service: Service, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    contents = encoded(scene(33, 47), "JPEG", exif=exif, quality=95)
    upright = np.array(UPRIGHT[orientation](np.array(opened(contents).convert("RGB"))), order="C")
    found = np.asarray(opened(client.post("/v1/segment", content=contents).content))
    assert found.shape == ((47, 33) if orientation > 4 else (33, 47))
    assert np.array_equal(found, expected(service, upright))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_content_counts_and_not_what_it_is_called(client: TestClient, service: Service, kind: str) -> None:
    contents = encoded(scene(), kind)
    answer = client.post("/v1/segment", content=contents, headers={"content-type": "text/plain"})
    pixels = np.array(opened(contents).convert("RGB"))
    assert np.array_equal(np.asarray(opened(answer.content)), expected(service, pixels))


def test_an_image_may_come_in_a_form(client: TestClient) -> None:
    plain = client.post("/v1/segment", content=encoded(scene()))
    form = client.post("/v1/segment", files={"image": ("street.png", encoded(scene()))})
    assert form.content == plain.content


def test_every_answer_names_what_gave_it(client: TestClient, service: Service) -> None:
    version = service.models.champion.version
    answer = client.post("/v1/segment", content=encoded(scene()))
    assert answer.headers["model-name"] == version.facts.name
    assert answer.headers["model-version"] == "2"
    assert answer.headers["weights-sha256"] == version.weights
    assert [part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")] == [
        *("decode", "inference", "encode")
    ]


def test_another_version_answers_if_it_is_named(client: TestClient, service: Service) -> None:
    image = scene()
    answer = client.post("/v1/segment", params={"version": 1}, content=encoded(image))
    version = service.models.get(1).version
    assert answer.headers["model-version"] == "1"
    assert answer.headers["weights-sha256"] == version.weights
    assert np.array_equal(np.asarray(opened(answer.content)), Predictor.load(version.url).labels(image).numpy())
    assert np.asarray(opened(answer.content)).tolist() != expected(service, image).tolist()
    refused = client.post("/v1/segment", params={"version": 7}, content=encoded(image))
    assert problem(refused, 404) == "version 7 of streets is not served; versions 2, 1 are"
    assert "version" in problem(client.post("/v1/segment", params={"version": "new"}, content=encoded(image)), 422)


def test_large_images_are_computed_in_tiles(lab: Path) -> None:
    service = serving(lab, tile=64)
    image = scene(96, 130)
    with client_of(service) as client:
        found = np.asarray(opened(client.post("/v1/segment", content=encoded(image)).content))
        small = np.asarray(opened(client.post("/v1/segment", content=encoded(image[:64, :64])).content))
    assert service.models.champion.inference(96, 130) == Inference(tile=64)
    assert np.array_equal(found, expected(service, image, Inference(tile=64)))
    assert np.array_equal(small, expected(service, image[:64, :64]))


def test_a_batch_gives_what_single_requests_give(client: TestClient) -> None:
    images = [encoded(scene(33 + number, 47, number)) for number in range(3)]
    files = [("images", (f"{number}.png", image)) for number, image in enumerate(images)]
    together = client.post("/v1/segment:batch", files=files)
    accept = {"accept": "application/json"}
    assert together.json()["images"] == [
        client.post("/v1/segment", content=image, headers=accept).json() for image in images
    ]
    found = arrays(client.post("/v1/segment:batch", files=files, headers={"accept": "application/x-npz"}).content)
    for number, image in enumerate(images):
        one = client.post("/v1/segment", content=image, headers={"accept": "application/x-npz"}).content
        for name, array in arrays(one).items():
            assert np.array_equal(found[f"{name}_{number}"], array)
    assert len(found) == 6


def test_a_batch_is_refused_by_its_first_bad_image(client: TestClient) -> None:
    files = [("images", ("a", encoded(scene()))), ("images", ("b", b"no image"))]
    assert problem(client.post("/v1/segment:batch", files=files), 415).startswith("image 1 is not JPEG")
    nine = [("images", ("a", encoded(scene())))] * 9
    assert problem(client.post("/v1/segment:batch", files=nine), 413) == "there are more than 8 images"


def test_masks_are_small(client: TestClient) -> None:
    answer = client.post("/v1/segment", content=encoded(scene(200, 240)))
    assert len(answer.content) < 200 * 240 / 4
    assert io.BytesIO(answer.content).read(4) == b"\x89PNG"
