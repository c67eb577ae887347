import inspect
import re
from pathlib import Path

import pytest
import torch

from fcn_core import experiments
from fcn_core.experiments import EXPERIMENTS
from fcn_core.models.fcn import FCN
from fcn_core.settings import Run

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_valid_run_of_its_own_name(name: str) -> None:
    run = EXPERIMENTS[name]()
    assert run.name == name == EXPERIMENTS[name].__name__
    assert Run.model_validate_json(run.model_dump_json()) == run
    with torch.device("meta"):
        FCN(run.model, 11)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_shows_its_command(name: str) -> None:
    command = re.search(rf"^ +python (\S+) {name}( .*)?$", EXPERIMENTS[name].__doc__ or "", re.MULTILINE)
    assert command is not None
    assert (ROOT / command[1]).exists()
    assert ("--data PATH" in command[0]) == (name != "streets")


def test_every_experiment_can_be_named() -> None:
    functions = inspect.getmembers(experiments, inspect.isfunction)
    here = {name for name, found in functions if found.__module__ == experiments.__name__}
    assert here == set(EXPERIMENTS)


def test_experiments_have_ids_of_their_own() -> None:
    assert len({make().run_id for make in EXPERIMENTS.values()}) == len(EXPERIMENTS)
