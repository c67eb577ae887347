import os
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fcn_core.settings import VOID, Classes, Data, Model, Optim, Run, override, setting_names

BASE = Run(data=Data(kind="camvid", path="here", crop=(64, 64)))

# Another value of every setting, valid by itself.
OTHERS: dict[str, Any] = {
    "name": "other",
    "seed": 1,
    "data.kind": "voc",
    "data.path": "there",
    "data.train_split": "trainval",
    "data.val_split": "test",
    "data.folds": 5,
    "data.fold": 2,
    "data.scale": 0.5,
    "data.crop": (64, 32),
    "data.zoom": (0.5, 2.0),
    "data.flip": False,
    "data.colour": 0.5,
    "data.audit": "warn",
    "data.streets.num_train": 1,
    "data.streets.num_val": 1,
    "data.streets.height": 32,
    "data.streets.width": 32,
    "data.streets.seed": 1,
    "model.trunk": "resnet18",
    "model.stride": 16,
    "model.geometry": "reference",
    "model.upsampling": "fixed",
    "model.width": 0.5,
    "model.fc_channels": 8,
    "model.dropout": 0.1,
    "model.at_once": True,
    "model.weights": "imagenet",
    "model.preprocessing": "caffe",
    "model.start_from": "runs/fcn16s",
    "loss.cross_entropy": 0.5,
    "loss.dice": 0.5,
    "loss.reduction": "sum",
    "loss.class_weights": "enet",
    "optim.method": "adamw",
    "optim.learning_rate": 1e-4,
    "optim.momentum": 0.99,
    "optim.weight_decay": 1e-2,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 10,
    "optim.epochs": 2,
    "optim.batch_size": 4,
    "optim.accumulate": 2,
    "optim.clip_norm": 1.0,
    "optim.ema_decay": 0.9,
    "optim.continue_from": "/lab/runs/run-0123456789",
    "optim.stop_epoch": 5,
    "compute.precision": "bf16",
    "compute.channels_last": True,
    "compute.compile": False,
    "compute.deterministic": False,
}

RUNS = st.builds(
    override,
    st.just(BASE),
    st.fixed_dictionaries(
        {
            "name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
            "seed": st.integers(0, 2**31 - 1),
            "data.scale": st.floats(0, 4, exclude_min=True),
            "data.crop": st.none() | st.tuples(st.integers(1), st.integers(1)),
            "model.stride": st.sampled_from([8, 16, 32]),
            "optim.learning_rate": st.floats(0, exclude_min=True, allow_infinity=False),
            "compute.compile": st.sampled_from([True, False, "auto"]),
        }
    ),
)


def field(name: str) -> FieldInfo:
    *groups, leaf = name.split(".")
    value: Any = BASE
    for group in groups:
        value = getattr(value, group)
    found: FieldInfo = type(value).model_fields[leaf]
    return found


@given(RUNS)
@settings(deadline=None)
def test_a_run_survives_json(run: Run) -> None:
    again = Run.model_validate_json(run.model_dump_json())
    assert again == run
    assert again.run_id == run.run_id


def test_a_run_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BASE.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        BASE.optim.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("group", ["data", "data.streets", "model", "loss", "optim", "compute"])
def test_an_unknown_field_is_refused(group: str) -> None:
    typo: dict[str, Any] = {"lerning_rate": 1}
    for name in reversed(group.split(".")):
        typo = {name: typo}
    with pytest.raises(ValidationError, match=rf"{group}\.lerning_rate\n.*not permitted"):
        Run.model_validate(typo)
    with pytest.raises(ValidationError, match=r"lerning_rate\n.*not permitted"):
        Run.model_validate({"lerning_rate": 1})


def test_setting_names_are_all_there_are() -> None:
    assert setting_names(Run()) == list(OTHERS)


def test_every_setting_is_described() -> None:
    assert [name for name in [*setting_names(Run()), *Run.model_fields] if not field(name).description] == []


def test_run_id_changes_with_every_setting() -> None:
    # A fold is one of several: it cannot be set alone.
    changes = [{name: value} | ({"data.folds": 3} if name == "data.fold" else {}) for name, value in OTHERS.items()]
    ids = {BASE.run_id, *(override(BASE, change).run_id for change in changes)}
    assert len(ids) == 1 + len(OTHERS)


def test_run_id_is_name_and_hash_of_the_value_alone() -> None:
    run = override(Run(name="some-run"), {"optim.clip_norm": "5", "optim.learning_rate": "1e-5"})
    same = Run(name="some-run", optim=Optim(learning_rate=0.00001, clip_norm=5))
    assert re.fullmatch("some-run-[0-9a-f]{10}", run.run_id)
    assert run.run_id == same.run_id


def test_run_id_is_the_same_in_another_process() -> None:
    command = "from fcn_core.settings import Run; print(Run().run_id)"
    for hash_seed in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-c", command],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
        )
        assert child.stdout.strip() == Run().run_id


def test_override_changes_what_it_names_and_nothing_else() -> None:
    changed = override(BASE, {"optim.epochs": 3, "model": Model(stride=32)})
    assert changed.optim == Optim(epochs=3)
    assert changed.model == Model(stride=32)
    assert (changed.data, changed.loss) == (BASE.data, BASE.loss)
    assert BASE.optim == Optim()


def test_override_takes_changes_that_fit_only_together() -> None:
    assert override(Run(), {"data.kind": "voc", "data.path": "there"}).data == Data(kind="voc", path="there")


@pytest.mark.parametrize(
    "change",
    [{"model.stride": 12}, {"optim.learning_rate": -1}, {"optim.accumulate": 3}, {"seed": None}, {"model": {"lr": 1}}],
)
def test_override_validates_again(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        override(BASE, change)


@pytest.mark.parametrize(
    "typo", ["lr", "optim.lr", "optimm.epochs", "optim.epochs.x", "data.crop.0", "optim.", "", "."]
)
def test_override_lists_the_settings_on_a_typo(typo: str) -> None:
    with pytest.raises(KeyError) as caught:
        override(BASE, {typo: 1})
    assert f"no setting {typo!r}; settings are {', '.join(OTHERS)}" in caught.value.args[0]


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("data", {"path": "x"}, "'streets' is drawn, not read: leave out path, or name a kind: camvid, folder, voc"),
        ("data", {"kind": "voc"}, "'voc' needs a path: a folder or a URL such as s3://bucket/voc"),
        ("data", {"crop": (8, 8), "zoom": (2, 1)}, r"zoom is a range .* not \(2.0, 1.0\)"),
        ("data", {"crop": (8, 8), "zoom": (0, 1)}, r"zoom is a range .* not \(0.0, 1.0\)"),
        ("data", {"crop": (8, 8), "zoom": (1, 9)}, r"zoom is a range .* not \(1.0, 9.0\)"),
        ("data", {"crop": (0, 8)}, r"crop is \(height, width\) in pixels, at least 1 each, not \(0, 8\)"),
        ("data", {"zoom": (0.5, 1)}, "zoom changes the size .* set crop to"),
        ("model", {"geometry": "reference", "trunk": "resnet18"}, "with trunk resnet18 use geometry 'same'"),
        ("model", {"weights": "imagenet", "width": 0.5}, "weights fit width 1 only, not 0.5"),
        ("model", {"weights": "imagenet", "start_from": "x"}, "weights .* or start_from .*, not both"),
        ("loss", {"cross_entropy": 0}, "cross_entropy and dice are both 0: nothing to learn from"),
        ("optim", {"accumulate": 3}, "batch_size 8 does not divide into accumulate 3 equal parts"),
    ],
)
def test_settings_that_do_not_fit_together_are_explained(group: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"1 validation error for Run\n{group}\n.*{message}"):
        Run.model_validate({group: values})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [name for name, value in OTHERS.items() if isinstance(value, float | tuple)])
def test_numbers_are_finite(name: str, number: float) -> None:
    value = (1, number) if isinstance(OTHERS[name], tuple) else number
    with pytest.raises(ValidationError, match=rf"{name}[.1]*\n.*finite"):
        override(BASE, {name: value})


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "-a", "a/b", "a\n", "a" * 65])
def test_a_name_fits_in_a_path(name: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        Run(name=name)


def test_a_stride_may_come_from_a_command_line() -> None:
    assert Model.model_validate({"stride": "32"}).stride == 32
    with pytest.raises(ValidationError, match="should be 8, 16 or 32"):
        Model.model_validate({"stride": "8s"})


@pytest.mark.parametrize(
    ("names", "colours", "message"),
    [
        ((), (), "at least 1 item"),
        (("road", "sky"), ((0, 0, 0),), "2 class names but 1 colours"),
        (("road", "road"), ((0, 0, 0), (1, 1, 1)), "class names repeat: road, road"),
        (("road",), ((0, 0, 256),), "from 0 to 255"),
        (tuple(map(str, range(VOID + 1))), ((0, 0, 0),) * (VOID + 1), f"at most {VOID} items"),
    ],
)
def test_classes_that_do_not_fit_together_are_refused(
    names: tuple[str, ...], colours: tuple[tuple[int, int, int], ...], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Classes(names=names, colours=colours)


def test_classes_are_counted() -> None:
    assert len(Classes(names=("road", "sky"), colours=((0, 0, 0), (1, 1, 1)))) == 2
