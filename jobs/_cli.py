"""From command line, environment and YAML to one settings value.

The command line wins over the environment (`FCN_OPTIM__LEARNING_RATE=1e-3`), that over a YAML file (`--config FILE`),
and that over the named experiment.
"""

import difflib
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from fcn_core import storage
from fcn_core.experiments import EXPERIMENTS
from fcn_core.settings import Run, Stride, Value, override
from fcn_core.training import NonFiniteLossError, PreemptedError

FAILED, USER_ERROR, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes; the second is for what the user can mend."""
ENVIRONMENT_ONLY = {"FCN_CACHE", "FCN_CACHE_GIB", "FCN_STORAGE_DEADLINE_S", "FCN_STORAGE_PATIENCE_S"}
"""Settings of `fcn_core.storage`, which are those of a machine."""
OF_SERVICES = ("FCN_SERVE_", "FCN_EXPERIMENTS_", "FCN_TOKENS_")
"""How the names of settings begin that are none of a job."""


class Resources(Value):
    """Where something is carried out. Nothing here changes its numbers."""

    workers: int = Field(1, ge=1, description="processes, spread over the nodes of the cluster")
    storage: str = Field(
        "results", description="folder or URL (s3://bucket/lab) that all nodes reach; runs/ is below it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU for each worker where the cluster has them"
    )
    gpu_share: float = Field(1.0, gt=0, le=1, description="of a GPU for each worker, where there are GPUs")
    cpus_per_worker: int = Field(1, ge=1, description="CPUs, and torch threads, of each worker")
    wait_for_nodes_s: int = Field(
        600, ge=1, description="longest that a joined cluster that is too small may take to grow"
    )

    @field_validator("storage")
    @classmethod
    def _lasts(cls, place: str) -> str:
        # Where Ray unpacks the code of a submitted job, which is the working directory of its driver.
        if "://" not in place and "working_dir_files" in Path(place).resolve().parts:
            remedy = "give --storage s3://bucket/lab, or the whole path of a folder that all nodes mount"
            raise ValueError(f"a submitted job runs in a folder that does not outlive it: {remedy}")
        return place


class Launch(Resources):
    """Where and how a run is trained. Nothing here changes its numbers."""

    loader_processes: int = Field(
        0, ge=0, description="processes of each worker that read and augment images; 0: the worker itself"
    )
    memory_gib: float = Field(2.0, ge=0, description="decoded images that each worker keeps in memory, of either split")
    timeout_s: int = Field(120, ge=1, description="longest that workers wait for each other, saving included")
    max_failures: int = Field(
        3, ge=0, description="how often a run is taken up again after the loss of a worker or node"
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept, beside the best")
    save_every: int | None = Field(None, ge=1, description="save within epochs too, after so many steps")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gpu_share < 1 and self.workers > 1:
            raise ValueError(
                "workers of one run cannot share a GPU, since NCCL puts one on each: with gpu_share, set workers to 1"
            )
        return self


class Job(NamedTuple):
    """What a training command asks for."""

    run: Run
    launch: Launch
    print_config: bool = False


class Settings(BaseSettings):
    """Base of all commands: fields are settings, from the command line or the environment."""

    model_config = SettingsConfigDict(
        env_prefix="FCN_",
        env_nested_delimiter="__",
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
    )
    aliases: ClassVar[dict[str, str]] = {}
    """Options of another name than their field."""
    of_others: ClassVar[bool] = False
    """Whether settings of other commands may be in the environment."""


class Command(Launch, Run, Settings):
    """Train a fully convolutional network, data-parallel over Ray workers. The same command again resumes the same run.

    Settings come from the command line, the environment (FCN_OPTIM__LEARNING_RATE=1e-3), a YAML file and the named
    experiment; earlier ones win. Defaults shown below are those without an experiment: --print-config shows the
    resolved values.
    """

    model_config = Settings.model_config
    aliases: ClassVar[dict[str, str]] = {"data": "data.path", "folds": "data.folds"}
    stride_of_job: ClassVar[Stride] = 8

    experiment: CliPositionalArg[str] = Field("streets", description=f"one of {', '.join(EXPERIMENTS)}")
    config: Path | None = Field(None, description="YAML file of settings")
    print_config: bool = Field(False, description="show the resolved settings and stop")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the YAML file and the experiment, which the sources before them name."""
        return init_settings, env_settings, _YamlFile(settings_cls), _Experiment(settings_cls)

    def job(self) -> Job:
        """Return what is asked for, each part as a value of its own."""
        run = Run.model_validate({name: getattr(self, name) for name in Run.model_fields})
        launch = Launch.model_validate({name: getattr(self, name) for name in Launch.model_fields})
        # Workers have another working directory, and the same data from another folder are the same run.
        places = {"data.path": run.data.path, "model.start_from": run.model.start_from}
        places |= {"model.weights": run.model.weights} if run.model.weights != "imagenet" else {}
        absolute = {name: storage.absolute(place) for name, place in places.items() if place is not None}
        return Job(override(run, absolute), launch, self.print_config)


_Command = TypeVar("_Command", bound=Settings)


def parse(arguments: Sequence[str], stride: Stride) -> Job:
    """Return the job that a training command line asks for, or leave with one line and exit code 2."""
    command: type[Command] = type(
        "Command", (Command,), {"stride_of_job": stride, "__doc__": Command.__doc__, "__module__": __name__}
    )
    return read_job(command, arguments)[1]


_Training = TypeVar("_Training", bound=Command)


def read_job(command: type[_Training], arguments: Sequence[str]) -> tuple[_Training, Job]:
    """Return a training command and the job that it asks for, or leave with one line and exit code 2."""
    found = read(command, arguments)
    with exit_codes():
        return found, found.job()


def read(command: type[_Command], arguments: Sequence[str]) -> _Command:
    """Return the command with the settings that are given, or leave with one line and exit code 2."""
    names = [*_names(command), *command.aliases]
    options = [_option(argument, command.aliases) for argument in arguments]
    try:
        # Settings of training may be exported for all commands.
        if not command.of_others:
            _check_environment(os.environ, [*names, *_names(Command)])
        return command(_cli_parse_args=options, _cli_prog_name=Path(sys.argv[0]).name)
    except ValidationError as error:
        fail(explain(error, names))
    except (SettingsError, ValueError, OSError, ImportError) as error:
        fail(_with_suggestion(str(error), names))


def as_yaml(job: Job) -> str:
    """Return the resolved settings in the form that --config reads."""
    settings = job.run.model_dump(mode="json") | job.launch.model_dump(mode="json")
    return yaml.safe_dump(settings, sort_keys=False)


def fail(message: str) -> NoReturn:
    """Print an error and leave with the exit code of what the user can mend."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(USER_ERROR)


class RunFailedError(Exception):
    """The work could not be finished, for no fault in its settings."""


def last_line(said: object) -> str:
    """Return the last line of an error, or of what else was said, that says anything."""
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return lines[-1] if lines else f"no reason is given ({type(said).__name__})"


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what ends a command into one line and an exit code."""
    try:
        with _sigterm():
            yield
    except ValidationError as error:
        fail(explain(error))
    except (ValueError, OSError, ImportError, storage.TornError) as error:
        fail(str(error))
    except (NonFiniteLossError, RunFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from None
    except PreemptedError as error:
        print(f"terminated; {error}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(TERMINATED) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is stored", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def _sigterm() -> Iterator[None]:
    """Leave as SIGTERM wants it, whatever Ray made of the exception by which `leave_on_sigterm` ended its waiting."""
    try:
        yield
    except PreemptedError:
        raise
    except BaseException:
        if not _terminated.is_set():
            raise
        print("terminated; the same command goes on from what is stored", file=sys.stderr)
        raise SystemExit(TERMINATED) from None


_terminated = threading.Event()


def leave_on_sigterm(*_: object) -> NoReturn:
    """Leave the block of `exit_codes`; a handler for `signal.signal`."""
    _terminated.set()
    raise SystemExit(TERMINATED)


def explain(error: ValidationError, names: Sequence[str] = ()) -> str:
    """Put a validation error into one line: each setting by its dotted name, what is wrong and what was given."""
    parts = []
    for detail in error.errors():
        place = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            parts.append(f"no setting {place!r}{_nearest(place, names)}")
            continue
        message = detail["msg"].removeprefix("Value error, ")
        given = "" if isinstance(detail["input"], dict | Value) else f" (given: {detail['input']!r})"
        parts.append(f"{place}: {message}{given}" if place else message)
    return "; ".join(dict.fromkeys(parts))


class _YamlFile(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        try:
            settings = yaml.safe_load(Path(path).read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
        if settings is not None and not isinstance(settings, dict):
            raise ValueError(f"{path} must hold settings by name, such as 'optim: {{learning_rate: 0.001}}'")
        return settings or {}


class _Experiment(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get("experiment", "streets")
        if name not in EXPERIMENTS:
            raise ValueError(f"no experiment {name!r}; experiments are {', '.join(EXPERIMENTS)}")
        stride = getattr(self.settings_cls, "stride_of_job", 8)
        model = self.current_state.get("model")
        chosen = model.get("stride", stride) if isinstance(model, dict) else stride
        changes = {"name": f"{name}-fcn{chosen}s", "model.stride": stride}
        return override(EXPERIMENTS[name](), changes).model_dump()


def _option(argument: str, aliases: Mapping[str, str]) -> str:
    """Accept dashes for underscores, and other names of options."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    negative = "no-" if name.startswith("no-") else ""
    name = name.removeprefix("no-").replace("-", "_")
    return f"--{negative}{aliases.get(name, name)}{equals}{value}"


def _names(group: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all settings of a command."""
    names: list[str] = []
    for name, field in group.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        names += _names(field.annotation, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]  # type: ignore[arg-type]
    return names


def _nearest(name: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; settings are {', '.join(names)}"


def _with_suggestion(message: str, names: Sequence[str]) -> str:
    line = " ".join(message.split()).removeprefix("error parsing CLI: ")
    unknown = re.search(r"unrecognized arguments: --?(\S+)", line)
    return f"no setting {unknown[1]!r}{_nearest(unknown[1].split('=')[0], names)}" if unknown else line


def _check_environment(environment: Mapping[str, str], names: Sequence[str]) -> None:
    known = {"FCN_" + name.upper().replace(".", "__") for name in names} | ENVIRONMENT_ONLY
    groups = {name.split("__")[0] for name in known if "__" in name}
    for variable in environment:
        if (
            variable.startswith("FCN_")
            and not variable.startswith(OF_SERVICES)
            and variable.upper() not in known | groups
        ):
            near = _nearest(variable[4:].lower().replace("__", "."), names)
            raise ValueError(f"no setting for the environment variable {variable}{near}")
