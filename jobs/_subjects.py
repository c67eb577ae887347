"""Finding the network to look into by what people type: a classifier of torchvision, a run, a checkpoint or a model."""

import difflib
from typing import NamedTuple

from fcn_core import checkpoint, storage
from fcn_core.checkpoint import CARD
from fcn_core.data.pictures import DatasetImages, Pictures, open_pictures
from fcn_core.models.classifiers import build_classifier, classifier_names, imagenet_classes, preprocessing_of
from fcn_core.receptive_field.subject import Subject, View
from fcn_core.settings import Run
from jobs._console import Console
from jobs._runs import find_checkpoint, find_run

CLASSIFIER_PX = 224


class Asked(NamedTuple):
    """Which network, and how it sees images."""

    model: str
    weights: str | None
    step: str | None
    size: int | None
    storage: str


class Opened(NamedTuple):
    """A network, and the run that it is of."""

    subject: Subject
    run: Run | None
    weights: str
    """What people call its weights."""

    def pictures(self, place: str | None) -> Pictures:
        """Open the images at a place; the run's own validation images if there is none.

        Raises:
            ValueError: there is neither place nor run; and what `open_pictures` raises.
        """
        if place is not None:
            return open_pictures(place)
        if self.run is None:
            raise ValueError("say with --images what to look at: a folder, a URL, streets, or camvid:PATH/SPLIT")
        return DatasetImages(self.run.data, "val")


def open_subject(asked: Asked, console: Console) -> Opened:
    """Return the network that is asked for.

    Raises:
        FileNotFoundError: there is no such network; the message names what is near.
        ValueError: weights do not fit.
        TornError: a checkpoint is damaged.
    """
    if asked.model in classifier_names():
        return _classifier(asked, console)
    if asked.weights is not None:
        raise ValueError(f"--weights are for classifiers of torchvision; {asked.model!r} would have its own")
    try:
        target = find_run(asked.model, asked.storage)
    except FileNotFoundError as error:
        if storage.exists(storage.join(asked.model, CARD)):
            return _opened(asked, storage.absolute(asked.model), None)
        near = difflib.get_close_matches(asked.model, classifier_names(), n=3)
        raise FileNotFoundError(f"{error}; classifiers of torchvision: {', '.join(near) or 'none like it'}") from error
    url, _, _ = find_checkpoint(target, asked.step or "best")
    return _opened(asked, url, target.run)


def _classifier(asked: Asked, console: Console) -> Opened:
    if asked.step is not None:
        raise ValueError(f"{asked.model} is a classifier of torchvision and has no steps: leave out step")
    network = build_classifier(asked.model, asked.weights)
    if asked.weights is None:
        console.say(f"{asked.model} has random weights (seed 0): for trained ones --weights imagenet, or a file or URL")
    subject = Subject(
        name=asked.model,
        network=network,
        preprocessing=preprocessing_of(asked.model, asked.weights),
        view=View(size=asked.size or CLASSIFIER_PX),
        dense=False,
        classes=imagenet_classes(asked.model) if asked.weights == "imagenet" else (),
    )
    return Opened(subject, None, asked.weights or "random, seed 0")


def _opened(asked: Asked, url: str, run: Run | None) -> Opened:
    network, card = checkpoint.load(url)
    subject = Subject(
        name=card.run_id,
        network=network,
        preprocessing=card.model.preprocessing,
        view=View(size=asked.size) if asked.size else View(scale=card.scale),
        dense=True,
        classes=card.classes.names,
        recipe=card.model.model_dump_json(),
    )
    return Opened(subject, run, f"step {card.step}")
