"""Whatever is done to a version, it does not become champion by it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fcn_core import storage
from fcn_core.evaluation import Evaluation, Subject
from fcn_core.registry.gate import GateFailedError, promote, rollback
from fcn_core.registry.store import Registry
from fcn_core.storage import COMMIT, MANIFEST, TornError
from tests.registry.made import FILES, NAME, Made, believe, champions, evaluate_again, made_champion, quiet

Files = dict[str, bytes]


def files_of(url: str) -> Files:
    return {name: storage.read_bytes(storage.join(url, name)) for name in FILES - {MANIFEST, COMMIT}}


def sealed_again(change: Callable[[Files], None]) -> Callable[[str], None]:
    """Return damage to files of a version after which manifest and COMMIT fit them."""

    def damage(url: str) -> None:
        files = files_of(url)
        change(files)
        with storage.publishing(url) as folder:
            for name, contents in files.items():
                (folder / name).write_bytes(contents)

    return damage


def rewrite(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Callable[[str], None]:
    """Return damage to one file of a version, as it is."""

    def damage(url: str) -> None:
        place = storage.join(url, name)
        storage.write_bytes(place, change(storage.read_bytes(place)))

    return damage


def poison(change: Callable[[str, torch.Tensor], torch.Tensor], *, hidden: bool) -> Callable[[str], None]:
    """Return damage to the weights of a version; hidden, all other files say that these were evaluated."""

    def weights(files: Files) -> None:
        path = Path(os.environ["FCN_TEST_FOLDER"]) / "poisoned.safetensors"
        path.write_bytes(files["model.safetensors"])
        changed = {name: change(name, values) for name, values in load_file(path).items()}
        save_file(changed, path)
        before = hashlib.sha256(files["model.safetensors"]).hexdigest().encode()
        files["model.safetensors"] = path.read_bytes()
        after = hashlib.sha256(files["model.safetensors"]).hexdigest().encode()
        for name in ("version.json", "evaluation.json") if hidden else ():
            assert before in files[name]
            files[name] = files[name].replace(before, after)

    return sealed_again(weights)


def nudge(_: str, values: torch.Tensor) -> torch.Tensor:
    return values * 1.02 if values.is_floating_point() else values


def one_nan(name: str, values: torch.Tensor) -> torch.Tensor:
    if name.endswith("running_mean"):
        values[0] = float("nan")
    return values


def too_large(name: str, values: torch.Tensor) -> torch.Tensor:
    return values * 1e30 if "scores." in name else values


def as_json(name: str, change: Callable[[Any], None]) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        contents = json.loads(files[name])
        change(contents)
        files[name] = json.dumps(contents).encode()

    return edit


def other_mask(files: Files) -> None:
    path = Path(os.environ["FCN_TEST_FOLDER"]) / "mask.png"
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(path)
    files["example_mask.png"] = path.read_bytes()


def without_facts(files: Files) -> None:
    del files["version.json"]


def tamper_scores(files: Files) -> None:
    as_json("evaluation.json", lambda report: report["scores"].update(mean_iou=0.99))(files)


DAMAGES: dict[str, tuple[Callable[[str], None], str]] = {
    "truncated": (rewrite(lambda contents: contents[:-100]), "model.safetensors has not the SHA-256"),
    "empty": (rewrite(lambda _: b""), "model.safetensors has not the SHA-256"),
    "flipped bit": (rewrite(lambda old: old[:-9] + bytes([old[-9] ^ 1]) + old[-8:]), "has not the SHA-256"),
    "no COMMIT": (rewrite(lambda _: b"", COMMIT), "COMMIT does not fit manifest.json"),
    "other scores in a file": (rewrite(lambda old: old.replace(b"0.", b"1."), "evaluation.json"), "not the SHA-256"),
    "other weights": (poison(nudge, hidden=False), "has other weights than those that were evaluated"),
    "hidden other weights": (poison(nudge, hidden=True), "reproduced: 4 of 4 images differ|example: "),
    "hidden NaN": (poison(one_nan, hidden=True), "finite: the weights .*running_mean are not all finite"),
    "hidden overflow": (poison(too_large, hidden=True), "finite: the scores of an image of .* are not all finite"),
    "other network": (
        sealed_again(as_json("model.json", lambda card: card["model"].update(fc_channels=9))),
        "loads: RuntimeError: Error.* in loading state_dict",
    ),
    "other preprocessing": (
        sealed_again(as_json("model.json", lambda card: card["model"].update(preprocessing="caffe"))),
        "example: .* % of the pixels of the stored image get another label",
    ),
    "other step": (sealed_again(as_json("model.json", lambda card: card.update(step=7))), "has other weights"),
    "pickle": (sealed_again(lambda files: files.update({"model.safetensors": b"cos\nsystem\n"})), "other weights"),
    "other mask": (sealed_again(other_mask), "example: .* % of the pixels of the stored image"),
    "broken mask": (
        sealed_again(lambda files: files.update({"example_mask.png": b"GIF89a"})),
        "example_mask.png is no PNG",
    ),
    "no evaluation": (sealed_again(lambda files: files.update({"evaluation.npz": b"PK"})), "reproduced: "),
    "better scores": (sealed_again(tamper_scores), "evaluation.json says another mean IoU"),
    "no version.json": (sealed_again(without_facts), "is no version of a model"),
    "of another model": (
        sealed_again(as_json("version.json", lambda facts: facts.update(name="b"))),
        "says that it is",
    ),
    "of another format": (sealed_again(as_json("version.json", lambda facts: facts.update(format=2))), "no version"),
}


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_TEST_FOLDER", str(tmp_path))


def read_and_promote(registry: Registry, number: int) -> None:
    version = registry.read(NAME, number)
    promote(registry, version, evaluate_again(version), "whatever it takes", quiet)


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_poisoned_version_never_becomes_champion(
    local: Registry, made: Made, damage: Callable[[str], None], message: str
) -> None:
    made_champion(local, made.candidate())
    url = local.pack(NAME, made.candidate()).url
    damage(url)
    with pytest.raises((GateFailedError, TornError), match=message):
        read_and_promote(local, 2)
    assert champions(local) == [1]
    assert made_champion(local, made.candidate()).version == 3


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "hidden other weights", "better scores"])
def test_what_is_damaged_while_the_gate_looks_does_not_become_champion_either(
    registry: Registry, made: Made, damage: str
) -> None:
    version = registry.pack(NAME, made.candidate())

    def damage_then_believe() -> tuple[Subject, Evaluation]:
        found = believe(version)()
        DAMAGES[damage][0](version.url)
        return found

    with pytest.raises(TornError, match=r"has not the SHA-256|was changed since it was tested"):
        promote(registry, version, damage_then_believe, None, quiet)
    assert registry.champion(NAME) is None


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("damage", ["truncated", "hidden other weights"])
def test_a_champion_that_is_damaged_later_is_not_read_and_one_can_go_back(
    registry: Registry, made: Made, damage: str
) -> None:
    made_champion(registry, made.candidate())
    made_champion(registry, made.candidate())
    DAMAGES[damage][0](registry.place(NAME, 2))
    shutil.rmtree(storage.cache_folder(), ignore_errors=True)
    with pytest.raises(TornError, match=r"has not the SHA-256|was changed after it became champion"):
        registry.read_champion(NAME)
    rollback(registry, NAME)
    champion = registry.read_champion(NAME)
    assert champion is not None
    assert champion.label == "streets/1"
    with pytest.raises(TornError):
        rollback(registry, NAME, 2)
    assert champions(registry) == [1, 2, 1]
