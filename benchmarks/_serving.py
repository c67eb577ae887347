"""What the benchmarks of the service have in common: a champion to serve and images to send."""

import io
from pathlib import Path

from PIL import Image

from fcn_core import storage
from fcn_core.data.streets import StreetScenes
from fcn_core.evaluation import Checkpoint, Evaluation, Subject, evaluate, summarise
from fcn_core.experiments import camvid_half, streets
from fcn_core.predict import PLAIN, Predictor
from fcn_core.registry.store import MODELS, Registry
from fcn_core.registry.version import Candidate
from fcn_core.settings import Data, Run, Streets, override
from tests.tiny import train

NAME = "streets"
CASES = {
    "vgg 96x128": ("streets", 96, 128),
    "resnet18 180x240": ("camvid_half", 180, 240),
    "resnet18 360x480": ("camvid_half", 360, 480),
}
"""Network and size of the images: a VGG16 of a quarter's width, and a ResNet-18, both FCN-8s."""


def run_of(case: str, seed: int = 0) -> Run:
    """Return a short training: masks need not be good, only such as a network makes that saw streets."""
    name, height, width = CASES[case]
    run = {"streets": streets, "camvid_half": camvid_half}[name]()
    few = Streets(num_train=64, num_val=4, height=height, width=width)
    changes = {"data": Data(streets=few), "optim.epochs": 1, "optim.batch_size": 4, "optim.warmup_steps": 2}
    return override(run, changes | {"seed": seed})


def candidate(run: Run, lab: Path) -> Candidate:
    """Train a run, below the storage `lab`, to become a version."""
    folder = train(run, lab / "runs" / run.run_id)
    step = folder.steps()[-1]
    url, scenes = folder.checkpoint(step), StreetScenes(run.data.streets, "val")
    places = range(len(scenes.names))
    found = Evaluation.collect(scenes, [evaluate(Predictor.load(url), scenes, places, PLAIN)])
    subject = Subject(
        split="val",
        digest="0" * 64,
        num_images=len(scenes.names),
        classes=scenes.classes,
        checkpoints=(
            Checkpoint(
                run_id=run.run_id,
                step=step,
                weights=storage.verify(url)["model.safetensors"]["sha256"],
            ),
        ),
        inference=PLAIN,
    )
    return Candidate(url, run, summarise(found, subject), found, scenes.read(0).image)


def crown(run: Run, lab: Path) -> Registry:
    """Train a run and make it champion of the registry of a storage, which is returned."""
    registry = Registry(str(lab / MODELS))
    version = registry.pack(NAME, candidate(run, lab))
    registry.crown(version, registry.champion(NAME), "a benchmark")
    return registry


def images_of(case: str, number: int = 8) -> list[bytes]:
    """Return street scenes as JPEG files."""
    _, height, width = CASES[case]
    scenes = StreetScenes(Streets(num_val=number, height=height, width=width), "val")
    return [_jpeg(Image.fromarray(scenes.read(index).image)) for index in range(number)]


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
