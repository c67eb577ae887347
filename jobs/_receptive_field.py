"""Receptive fields of units, in theory and as the images show them, over workers."""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from fcn_core import storage
from fcn_core.data.decode import SampleError
from fcn_core.receptive_field.activations import Top, find_layer
from fcn_core.receptive_field.minimal import Minimal
from fcn_core.receptive_field.occlusion import Occlusion, Site
from fcn_core.receptive_field.subject import View
from jobs._cli import Resources, Settings, exit_codes, read
from jobs._console import Console
from jobs._crew import Arrays, Crew, Parts, Start, Task, crew, key_of
from jobs._field_results import NUMBERS, Question, Results, told
from jobs._field_tasks import How, Lens, occlude, remove, strongest, top_of
from jobs._field_theory import show_theory
from jobs._subjects import Asked, Opened, open_subject

FOLDER = "receptive_fields"
MOST_IN_A_PART = 32
"""Images that a task looks through for the strongest."""
MOST_WITH_GRADIENTS = 16
"""Units; of more of them the effective field is left out."""


class ReceptiveFieldCommand(Resources, Settings):
    """Show what units of a network see: the images that activate them most, and where in them occlusion changes them.

    The protocol is that of Zhou et al. (ICLR 2015). Kept in STORAGE/receptive_fields/ID: a picture of each unit, arrays
    and numbers; with several units a page to browse. The same command again shows what is kept, or goes on with what
    was done.
    """

    model_config = Settings.model_config
    aliases: ClassVar[dict[str, str]] = {"units": "unit", "class": "class_name"}

    model: str = Field(
        description="a classifier of torchvision, such as resnet18; a run, its folder or URL; a checkpoint; a model"
    )
    weights: str | None = Field(
        None, description="of a classifier: 'imagenet', or a file or URL of a state dict; random if left out"
    )
    step: str | None = Field(None, description="of a run: best, last or a step; the best if left out")
    layer: str | None = Field(None, description="a module by its name or the end of it, such as layer4 or conv4_3")
    unit: str | None = Field(None, description="which channels: 10, or 3,7, or 0..31, or all")
    images: str | None = Field(
        None, description="folder or URL of images, streets, or KIND:PATH/SPLIT; a run's validation images if left out"
    )
    size: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="pixels: the shorter side of images is resized to it and the middle square taken; classifiers take "
        "224, FCNs the images as they are",
    )
    audit: Literal["fail", "leave_out"] = Field("fail", description="what images do that cannot be read")
    most: int = Field(10, ge=1, le=100, description="how many images of each unit")
    threshold: float = Field(0.5, gt=0, le=1, description="the field is what has at least this share of the maximum")
    occlusion: Occlusion = Field(Occlusion(), description="the occluder")
    plain: bool = Field(False, description="run the network anew for each position of the occluder")
    minimal: bool = Field(False, description="draw minimal images too: what a unit's images can do without, one unit")
    removal: Minimal = Field(Minimal(), description="how minimal images are made")
    class_name: str | None = Field(None, description="--class: of minimal images of an FCN; the largest if left out")
    theory: bool = Field(False, description="show the theoretical receptive fields of all layers; needs no images")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.layer is None) != (self.unit is None):
            raise ValueError("give both --layer and --unit, or neither")
        if self.layer is None and not self.theory:
            raise ValueError("say with --layer and --unit what to look at; or --theory for the layers there are")
        return self

    @property
    def asked(self) -> Asked:
        """Which network."""
        return Asked(self.model, self.weights, self.step, self.size, self.storage)


def main() -> None:
    """Carry out a command."""
    command = read(ReceptiveFieldCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        opened = open_subject(command.asked, console)
        if command.theory:
            show_theory(opened.subject, storage.join(storage.absolute(command.storage), FOLDER), console)
        if command.layer is not None:
            console.say(f"everything   {look(opened, command, console)}")
            console.say(
                "next         the same with --minimal (what its images can do without) or --units 0..15 (a page)"
            )


def look(opened: Opened, command: ReceptiveFieldCommand, console: Console, start: Start = crew) -> str:
    """Answer what a command asks, if it is not yet answered, and return where the answer is.

    Raises:
        ValueError: layer, units, images or class do not fit.
        FileNotFoundError: there are no images.
        OSError: the storage cannot be used.
    """
    pictures = opened.pictures(command.images)
    lens = Lens(opened.subject, pictures, find_layer(opened.subject.network, command.layer or ""))
    question = _question(opened, lens, command)
    root = storage.join(storage.absolute(command.storage), FOLDER)
    url = storage.join(root, question.id)
    if storage.is_whole(url):
        console.say(f"looked at before: {url}")
        numbers = json.loads(storage.read_bytes(storage.join(url, NUMBERS)))
        for line in told(numbers["units"]):
            console.say(line)
        return url
    console.say(f"looking at {len(question.units)} of the units of {lens.layer} with {len(pictures.names)} images")
    # Opened first: a storage that cannot be written to is found before the work is done.
    with storage.publishing(url) as folder, start(Parts(storage.join(root, "parts")), lens, console, command) as team:
        top = _strongest(team, lens, question, console)
        results = Results(lens, question, top, folder)
        for task, part in _occluded(team, lens, question, top):
            index, sites, _ = task.arguments
            results.add(index, sites, part)
        for number, unit in enumerate(question.units, start=1):
            results.write_unit(unit)
            console.count("drawing, unit", number, len(question.units))
        console.done()
        if question.removal:
            results.write_minimal(_removed(team, lens, question, top), question.removal)
        results.finish()
    for line in [*results.lines, *told(results.units)]:
        console.say(line)
    return url


def parse_units(text: str, channels: int) -> tuple[int, ...]:
    """Return the units that a text names: 10, or 3,7, or 0..31, or all.

    >>> parse_units("3,7..9", 64)
    (3, 7, 8, 9)

    Raises:
        ValueError: it names none, or one that there is not.
    """
    if text.strip() == "all":
        return tuple(range(channels))
    units: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:\.\.(\d{1,9}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not first <= last:
            raise ValueError(f"unit {text!r} is not understood: write 10, or 3,7, or 0..31, or all")
        if last >= channels:
            raise ValueError(f"no unit {last}: the layer has {channels}, from 0 to {channels - 1}")
        units.update(range(first, last + 1))
    return tuple(sorted(units))


def _question(opened: Opened, lens: Lens, command: ReceptiveFieldCommand) -> Question:
    """Return what is asked; whatever is wrong with it is said now."""
    subject, pictures = opened.subject, lens.pictures
    units = parse_units(command.unit or "", _channels(lens, command.audit))
    if command.minimal and len(units) > 1:
        raise ValueError("--minimal draws what the images of one unit can do without: choose one unit")
    if command.class_name is not None and command.class_name not in subject.classes * subject.dense:
        known = f"classes are {', '.join(subject.classes)}" if subject.dense else "a classifier keeps what it gives"
        raise ValueError(f"no class {command.class_name!r} to keep; {known}")
    return Question(
        model=subject.name,
        weights=opened.weights,
        digest=subject.digest(),
        layer=lens.layer,
        units=units,
        images=pictures.place,
        num_images=len(pictures.names),
        images_digest=key_of("", pictures.names, pictures.versions)[1:],
        view=subject.view,
        most=command.most,
        threshold=command.threshold,
        audit=command.audit,
        occlusion=command.occlusion,
        plain=command.plain,
        removal=command.removal if command.minimal else None,
        class_name=command.class_name if command.minimal else None,
    )


def _channels(lens: Lens, audit: str) -> int:
    """Return how many units the layer has, by the first image that can be read."""
    for index in range(len(lens.pictures.names)):
        try:
            return int(lens.map(index).shape[0])
        except SampleError:
            if audit == "fail":
                raise
    raise ValueError(f"none of the {len(lens.pictures.names)} images of {lens.pictures.place} can be read")


def _strongest(team: Crew, lens: Lens, question: Question, console: Console) -> Top:
    """Return the strongest images of every unit of the layer."""
    versions = lens.pictures.versions
    step = max(1, min(MOST_IN_A_PART, len(versions) // MOST_IN_A_PART))
    decided = (*_decided(lens, question), question.most)
    ranges = [(start, min(start + step, len(versions))) for start in range(0, len(versions), step)]
    tasks = [
        Task(key_of("top", decided, versions[start:stop]), strongest, (start, stop, question.most))
        for start, stop in ranges
    ]
    top, broken = None, []
    for task, part in team.carry_out("looking for the strongest, part", tasks):
        found = top_of(part, task.arguments[0])
        # One by one: parts are as large for few images as for all. Their order is of no importance.
        top = found if top is None else top if found is None else Top.merge([top, found])
        broken += part["broken"].tolist()
        if broken and question.audit == "fail":
            raise ValueError(f"{broken[0]}: repair or remove it, or give --audit leave_out")
    for line in sorted(broken):
        console.say(f"left out: {line}")
    if top is None:
        raise ValueError(f"none of the {len(versions)} images of {lens.pictures.place} can be read")
    return top


def _occluded(team: Crew, lens: Lens, question: Question, top: Top) -> Iterator[tuple[Task, Arrays]]:
    """Occlude each image that is among the strongest of a unit, for all units that it is among the strongest of."""
    by_image: dict[int, list[Site]] = defaultdict(list)
    for unit in question.units:
        for index, (row, column) in zip(top.images[unit].tolist(), top.positions[unit].tolist(), strict=True):
            by_image[index].append(Site(unit, row, column))
    how = How(question.occlusion, question.plain, len(question.units) <= MOST_WITH_GRADIENTS)
    decided = _decided(lens, question)
    tasks = [
        Task(key_of("falls", decided, how, lens.pictures.versions[index], sites), occlude, (index, sites, how))
        for index, sites in sorted(by_image.items())
    ]
    return team.carry_out("occluding, image", tasks)


def _removed(team: Crew, lens: Lens, question: Question, top: Top) -> dict[int, Arrays]:
    """Return the minimal image of each of the unit's images by index, the strongest first."""
    indexes = top.images[question.units[0]].tolist()
    classes = lens.subject.classes
    label = None if question.class_name is None else classes.index(question.class_name)
    decided = (_decided(lens, question)[0], question.view, question.removal, label)
    tasks = [
        Task(key_of("minimal", decided, lens.pictures.versions[index]), remove, (index, question.removal, label))
        for index in indexes
    ]
    found = {task.arguments[0]: part for task, part in team.carry_out("removing segments, image", tasks)}
    return {index: found[index] for index in indexes}


def _decided(lens: Lens, question: Question) -> tuple[str, str, View]:
    """Return what decides every part."""
    return f"{question.digest} {lens.subject.preprocessing}", question.layer, question.view
