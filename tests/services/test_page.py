"""The page of the segmentation service, in a real browser."""

import re
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from fcn_core import storage
from fcn_core.data.pictures import UPRIGHT
from fcn_core.evaluation import Checkpoint
from fcn_core.registry.store import MODELS, Registry
from services._app import create_app
from services._fields import FOLDER
from services._models import Served
from services._service import Service
from tests.registry.made import Made, evaluated, made_champion
from tests.services.browser import Watch, chromium, opened_page
from tests.services.serving import Pixels, client_of, encoded, held_up, listening, scene, serving
from tests.services.test_access import write
from tests.tiny import changed, train

SECRET = "fcn_" + "s" * 40
RUN = changed(
    {
        "data.zoom": (1.0, 1.0),
        "data.streets.num_train": 32,
        "model.width": 0.1,
        "model.fc_channels": 32,
        "model.dropout": 0.0,
        "optim.method": "adamw",
        "optim.learning_rate": 0.01,
        "optim.epochs": 6,
    }
)
"""Two seconds of training, after which all large classes are found somewhere."""
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Path:
    """A storage with two versions of a network that has learned something, and what units of another see."""
    folder = tmp_path_factory.mktemp("trained")
    run = train(RUN, folder / "run")
    registry = Registry(str(folder / MODELS))
    for step in (run.steps()[1], run.steps()[-1]):
        url = run.checkpoint(step)
        made = Made(url, storage.verify(url)["model.safetensors"]["sha256"], evaluated(url))
        checkpoint = Checkpoint(run_id=RUN.run_id, step=step, weights=made.weights)
        made_champion(registry, made.candidate(checkpoints=(checkpoint,)), force="a test")
    (folder / FOLDER).symlink_to(place / FOLDER)
    return folder


@pytest.fixture(scope="module")
def asked(trained: Path) -> Service:
    return serving(trained, versions=(1,))


@pytest.fixture(scope="module")
def url(asked: Service) -> Iterator[str]:
    with listening(create_app(asked)) as url:
        yield url


@pytest.fixture
def watched(browser: Browser, url: str) -> Iterator[tuple[Page, Watch]]:
    with opened_page(browser, url) as opened:
        yield opened


@pytest.fixture
def page(watched: tuple[Page, Watch]) -> Page:
    return watched[0]


def pick(page: Page, contents: bytes, name: str = "street.png") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": contents})


def finish(page: Page) -> None:
    """Wait until the page shows what was found."""
    expect(page.locator("#status")).to_contain_text("classes, by version")


def labels(served: Served, image: Pixels) -> Pixels:
    found: Pixels = served.predictor.labels(image, served.inference(*image.shape[:2])).numpy()
    return found


def point(page: Page, x: int, y: int, image: Pixels) -> None:
    """Move the mouse to a pixel of the picture."""
    box = page.locator("#stage").bounding_box()
    assert box
    height, width = image.shape[:2]
    page.mouse.move(box["x"] + (x + 0.5) / width * box["width"], box["y"] + (y + 0.5) / height * box["height"])


def painted(page: Page, layer: str, x: int, y: int) -> list[int]:
    """Return the colour of a pixel of a layer: RGBA."""
    found: list[int] = page.locator(layer).evaluate(
        "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]", [x, y]
    )
    return found


def cells(page: Page, name: str) -> list[str]:
    row: Locator = page.locator(f'#classes tr[data-name="{name}"]')
    return [text.strip().replace("\xa0", " ") for text in row.locator("td").all_inner_texts()]


def said(share: float) -> str:
    # As browsers round, not as Python does.
    return "< 0.1 %" if 0 < share < 0.001 else f"{Decimal(100 * share).quantize(Decimal('0.1'), ROUND_HALF_UP)} %"


def test_the_example_of_the_model_is_segmented(page: Page, asked: Service) -> None:
    served = asked.models.champion
    image = served.version.example().image
    page.get_by_role("button", name="Example of the model").click()
    finish(page)
    expect(page.locator("#status")).to_contain_text(f"{image.shape[1]} x {image.shape[0]} pixels")
    found, card = labels(served, image), served.version.card
    for label, name in enumerate(card.classes.names):
        assert cells(page, name)[0].startswith(said(float((found == label).mean())))
    for x, y in ((0, 0), (17, 23), (image.shape[1] - 1, image.shape[0] - 1)):
        assert painted(page, "#first", x, y) == [*card.classes.colours[found[y, x]], 255]
        point(page, x, y, image)
        expect(page.locator("#readout")).to_contain_text(card.classes.names[found[y, x]])
        expect(page.locator("#readout")).to_contain_text(f"at {x}, {y}")
    expect(page.locator("#model")).to_contain_text("streets, FCN-8s")


def test_a_picture_is_picked_and_turned_upright(page: Page, asked: Service) -> None:
    image, exif = scene(40, 56), Image.Exif()
    exif[0x0112] = 6
    pick(page, encoded(image, exif=exif))
    finish(page)
    upright = np.ascontiguousarray(UPRIGHT[6](image))
    found = labels(asked.models.champion, upright)
    point(page, 5, 50, upright)
    expect(page.locator("#readout")).to_contain_text(asked.models.champion.version.card.classes.names[found[50, 5]])
    expect(page.locator("#status")).to_contain_text("40 x 56 pixels")


def test_a_picture_is_dropped_and_what_is_no_file_is_told(page: Page) -> None:
    expect(page.locator("#model")).to_contain_text("streets")
    give = """(bytes) => { const data = new DataTransfer();
        if (bytes) data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
        else data.setData("text/plain", "no file");
        return data; }"""
    page.dispatch_event("body", "drop", {"dataTransfer": page.evaluate_handle(give, None)})
    expect(page.get_by_role("alert").first).to_have_text("What was dropped is no file: save the image, and drop that.")
    page.dispatch_event("body", "drop", {"dataTransfer": page.evaluate_handle(give, [*encoded(scene())])})
    finish(page)
    expect(page.locator("#photo")).to_have_attribute("alt", "dropped.png")
    expect(page.locator("#error")).to_be_hidden()


def test_classes_are_switched_and_faded(page: Page, asked: Service) -> None:
    image = scene()
    pick(page, encoded(image))
    finish(page)
    found, names = labels(asked.models.champion, image), asked.models.champion.version.card.classes.names
    label = int(np.bincount(found.ravel()).argmax())
    (y, x), (other_y, other_x) = np.argwhere(found == label)[0], np.argwhere(found != label)[0]
    page.get_by_role("checkbox", name=names[label], exact=True).uncheck()
    assert painted(page, "#first", int(x), int(y))[3] == 0
    assert painted(page, "#first", int(other_x), int(other_y))[3] == 255
    page.get_by_role("button", name="none", exact=True).click()
    assert painted(page, "#first", int(other_x), int(other_y))[3] == 0
    page.get_by_role("button", name="all", exact=True).click()
    assert painted(page, "#first", int(x), int(y))[3] == 255
    page.get_by_role("slider", name="Opacity").fill("25")
    expect(page.locator("#first")).to_have_css("opacity", "0.25")
    expect(page.locator("#opacity-value")).to_have_text("25 %")


def test_the_keyboard_does_it_all(page: Page, asked: Service) -> None:
    image = scene()
    expect(page.locator("#model")).to_contain_text("streets")
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    pick(page, encoded(image))
    finish(page)
    for place in ("#sample", "#stage"):
        page.keyboard.press("Tab")
        expect(page.locator(place)).to_be_focused()
    found, names = labels(asked.models.champion, image), asked.models.champion.version.card.classes.names
    x, y = 24, 20
    for key, dx, dy in (("ArrowLeft", 0, 0), ("ArrowRight", 1, 0), ("ArrowDown", 0, 1), ("Shift+ArrowUp", 0, -10)):
        page.keyboard.press(key)
        x, y = x + dx, y + dy
        expect(page.locator("#spoken")).to_contain_text(f"at {x}, {y}")
        expect(page.locator("#spoken")).to_contain_text(names[found[y, x]])
    for place in ("#version", "#other", "#opacity"):
        page.keyboard.press("Tab")
        expect(page.locator(place)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#first")).to_have_css("opacity", "0.61")
    for place in ("#all", "#none"):
        page.keyboard.press("Tab")
        expect(page.locator(place)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", name=names[0], exact=True)).not_to_be_checked()


def test_downloads_are_what_the_service_sends(page: Page, asked: Service) -> None:
    image = encoded(scene())
    client = client_of(asked)
    pick(page, image)
    finish(page)
    for button, accept, name in (
        ("Mask", "image/png", "street-mask.png"),
        ("Overlay", "image/png;view=overlay", "street-overlay.png"),
        ("JSON", "application/json", "street.json"),
        ("NumPy", "application/x-npz", "street.npz"),
    ):
        with page.expect_download() as download:
            page.get_by_role("button", name=button, exact=True).click()
        assert download.value.suggested_filename == name
        expected = client.post("/v1/segment", content=image, headers={"accept": accept}).content
        assert Path(download.value.path()).read_bytes() == expected


def test_two_versions_are_compared(page: Page, asked: Service) -> None:
    image = scene()
    pick(page, encoded(image))
    finish(page)
    page.get_by_label("Compare with").select_option("1")
    first, second = labels(asked.models.get(2), image), labels(asked.models.get(1), image)
    expect(page.locator("#agreement")).to_have_text(
        f"({said(1 - float((first != second).mean()))} of the pixels agree)"
    )
    card = asked.models.champion.version.card
    for label, name in enumerate(card.classes.names):
        shares = [float((found == label).mean()) for found in (first, second)]
        assert cells(page, name)[:2] == [said(share).removesuffix(" %") for share in shares]
    (y, x), (same_y, same_x) = np.argwhere(first != second)[0], np.argwhere(first == second)[0]
    assert painted(page, "#second", int(x), int(y)) == [*card.classes.colours[second[y, x]], 255]
    point(page, int(x), int(y), image)
    for number, found in ((2, first), (1, second)):
        expect(page.locator("#readout")).to_contain_text(f"version {number}: {card.classes.names[found[y, x]]}")
    page.get_by_label("only where they differ").check()
    assert painted(page, "#first", int(same_x), int(same_y))[3] == 0
    assert painted(page, "#first", int(x), int(y))[3] == 255
    page.get_by_label("Divider").fill("30")
    expect(page.locator("#second")).to_have_css("clip-path", "inset(0px 0px 0px 30%)")
    expect(page.locator("#first")).to_have_css("clip-path", "inset(0px 70% 0px 0px)")
    page.locator("#version").select_option("1")
    expect(page.locator("#status")).to_contain_text("by version 1 in")
    assert page.locator("#other option").all_inner_texts() == ["nothing", "2 (champion)"]


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, url: str) -> None:
    with opened_page(browser, url, **PHONE) as (page, _):
        # Not `innerWidth`, which grows with what is too wide.
        wide = "() => document.documentElement.scrollWidth - 360"
        assert page.evaluate(wide) <= 0
        pick(page, encoded(scene(48, 40)))
        finish(page)
        page.get_by_label("Compare with").select_option("1")
        expect(page.locator("#agreement")).to_contain_text("agree")
        page.locator("#stage").tap()
        expect(page.locator("#readout")).to_contain_text(re.compile("at (19|20), 2[345]"))
        expect(page.locator("#sheet")).to_be_visible()
        page.locator("summary").click()
        assert page.evaluate(wide) <= 0
        small = "(all) => all.filter((one) => one.offsetParent && one.getBoundingClientRect().height < 24).length"
        assert page.locator("button:not(.link), select, .class").evaluate_all(small) == 0


def test_a_token_is_asked_for_and_stays_in_the_tab(browser: Browser, trained: Path, tmp_path: Path) -> None:
    service = serving(trained, tokens=str(write(tmp_path / "tokens.json", alice=SECRET)))
    with listening(create_app(service)) as url, opened_page(browser, url) as (page, watch):
        watch.allowed += ("401",)
        dialog = page.get_by_role("dialog", name="A token is needed")
        page.get_by_label("Token", exact=True).fill("fcn_wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The token is not valid, or no longer.")
        page.get_by_label("Token", exact=True).fill(SECRET)
        page.get_by_role("button", name="Use token").click()
        expect(page.locator("#model")).to_contain_text("mean IoU")
        pick(page, encoded(scene()))
        finish(page)
        expect(page.locator("#sheet")).to_be_visible()
        expect(page.get_by_role("link", name="Gallery")).to_have_count(0)
        page.reload()
        # What comes last: without a token, whatever is still asked for would open the dialog again.
        expect(page.locator("#sheet")).to_be_visible()
        expect(page.locator("#model")).to_contain_text("mean IoU")
        assert page.evaluate("() => [localStorage.length, document.cookie, location.href]") == [0, "", f"{url}/"]
        assert not [asked for asked in watch.asked if SECRET in asked or "token" in asked]
        page.get_by_role("button", name="Forget token").click()
        assert page.evaluate("() => sessionStorage.length") == 0
        page.get_by_role("button", name="Example").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#error")).to_have_text("The service answers with a token only: try again to enter one.")


def test_errors_are_one_line_with_the_id_of_the_request(watched: tuple[Page, Watch]) -> None:
    page, watch = watched
    watch.allowed += ("415", "ERR_FAILED")
    with page.expect_response("**/v1/segment") as answer:
        pick(page, b"no image", "notes.txt")
    problem = answer.value.json()
    line = f"415: {problem['detail']} (request {problem['request_id']})"
    expect(page.get_by_role("alert").first).to_have_text(line)
    expect(page.locator("#panel")).to_be_hidden()
    expect(page.locator("#stage")).to_be_hidden()
    pick(page, encoded(scene()))
    finish(page)
    expect(page.locator("#error")).to_be_hidden()
    page.route("**/v1/segment", lambda route: route.abort())
    pick(page, encoded(scene(number=1)))
    expect(page.locator("#error")).to_contain_text("The service cannot be reached, or closed the connection")


def test_waiting_can_be_cancelled(page: Page, asked: Service) -> None:
    with held_up(asked):
        pick(page, encoded(scene()))
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#status")).to_have_text("Cancelled.")
        expect(page.locator("#busy")).to_be_hidden()
    pick(page, encoded(scene(number=1)))
    finish(page)


def test_what_units_see_is_shown(page: Page) -> None:
    expect(page.locator("#sheet")).to_be_visible()
    expect(page.locator("#look-facts")).to_contain_text("resnet18")
    expect(page.locator("#look-facts")).to_contain_text("Unit 4")
    page.get_by_role("button", name="Next unit").click()
    expect(page.locator("#look-facts")).to_contain_text("Unit 5")
    expect(page.locator("#sheet")).to_have_attribute("alt", re.compile("^Unit 5 of layer2"))
    with page.expect_download() as download:
        page.get_by_role("button", name="layer2-5.npz").click()
    with np.load(download.value.path()) as arrays:
        assert "mean" in arrays
    with page.expect_popup() as popup:
        page.get_by_role("link", name="Gallery of all units").click()
    gallery = popup.value
    expect(gallery.locator("li")).to_have_count(2)
    gallery.locator("[name=unit]").fill("5")
    expect(gallery.locator("li:visible")).to_have_count(1)
    assert gallery.evaluate("() => { try { return sessionStorage.length } catch { return 'apart' } }") == "apart"


def test_without_looks_and_other_versions_the_page_is_whole(browser: Browser, lab: Path) -> None:
    with listening(client_of(serving(lab)).app) as url, opened_page(browser, url, color_scheme="dark") as (page, _):
        page.get_by_role("button", name="Example").click()
        finish(page)
        expect(page.locator("#fields")).to_be_hidden()
        expect(page.locator("#other")).to_be_disabled()


@pytest.mark.slow
def test_large_pictures_are_painted_smaller_and_read_exactly(page: Page, asked: Service) -> None:
    image = np.tile(scene(200, 250), (10, 10, 1))
    pick(page, encoded(image), "large.png")
    expect(page.locator("#status")).to_contain_text("2500 x 2000 pixels")
    assert page.locator("#first").evaluate("(canvas) => [canvas.width, canvas.height]") == [1250, 1000]
    page.locator("#stage").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#spoken")).to_contain_text("at 1250, 1000")
    served = asked.models.champion
    label = labels(served, image)[1000, 1250]
    expect(page.locator("#spoken")).to_contain_text(served.version.card.classes.names[label])
