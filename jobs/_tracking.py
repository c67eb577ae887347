"""A run's numbers on an MLflow server, where MLFLOW_TRACKING_URI names one.

The truth is the run's folder: a thread copies from epochs.jsonl whatever the server lacks, so that a server that was
away and a run that was resumed need no care of their own. Nothing here can stop or slow down a run.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fcn_core.checkpoint import Epoch, RunFolder, Say, best_epoch
from fcn_core.data.catalogue import open_train_val
from fcn_core.settings import Run, setting, setting_names

EXPERIMENT = "fcn-lab"
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    # MLflow's own second try could begin a second run when an answer was lost; ours looks for the first one before.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""What MLflow shall do unless the user wants otherwise."""

RETRY_S = 10.0
END_S = 10.0
"""The longest that the end of a run waits for the server."""

SCORES = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_dice")
MARK = "train_loss"
"""The metric by which the epochs that the server has are known: every epoch has it, and it comes last."""


def check_tracking() -> None:
    """Let a missing client be known before anything starts.

    Raises:
        ImportError: MLFLOW_TRACKING_URI is set, and MLflow cannot be imported.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        # Here and not in the thread: two threads that import the same packages at once can see them half made.
        import mlflow  # noqa: F401
    except ImportError as error:
        what_next = "pip install '.[mlflow]', or unset the variable"
        raise ImportError(
            f"MLFLOW_TRACKING_URI is set, but MLflow cannot be imported ({error}): {what_next}"
        ) from error


@contextmanager
def tracking(run: Run, url: str, say: Say, tags: Mapping[str, str] | None = None) -> Iterator[Callable[[], None]]:
    """Log the run in the folder at `url` to MLflow while the block runs; without MLFLOW_TRACKING_URI do nothing.

    The folder has a run.json already. What is yielded is to be called when an epoch was added to epochs.jsonl; it takes
    no time. The same run goes on in the same MLflow run; when the block ends, it is FINISHED, FAILED or KILLED there.

    Args:
        run: whose settings become params.
        url: the run's folder.
        say: shows a line; called from another thread too.
        tags: more tags of the MLflow run.

    Raises:
        ImportError: as `check_tracking`.
    """
    check_tracking()
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        yield lambda: None
        return
    follower = _Follower(lambda: _Copy(run, url, tags or {}), uri, say)
    status = "FINISHED"
    try:
        yield follower.new_epoch
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        raise
    finally:
        follower.end(status)


class Ended(NamedTuple):
    """A run that has ended: its folder, what it shall be on the server (FINISHED, FAILED or KILLED), and more tags."""

    url: str
    status: str
    tags: Mapping[str, str]


def bring(runs: Iterable[Ended], say: Say) -> None:
    """Let the server have whatever of these runs it lacks, until one does not arrive within `END_S`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return
    for ended in runs:
        facts = RunFolder(ended.url).read_run()
        if facts is None:
            # It never began.
            continue
        copy = partial(_Copy, Run.model_validate(facts["settings"]), ended.url, ended.tags)
        if not _Follower(copy, uri, lambda _: None).end(ended.status):
            place = _without_password(uri)
            say(f"MLflow at {place} lacks runs of this sweep: the same command again brings them there")
            return


class _Follower:
    """Copies in a thread of its own, again and again while the server is away."""

    def __init__(self, connect: Callable[[], "_Copy"], uri: str, say: Say) -> None:
        self._connect = connect
        self._uri, self._place = uri, _without_password(uri)
        self._say = say
        self._copy: _Copy | None = None
        self._news, self._ended = threading.Event(), threading.Event()
        self._status: str | None = None
        self._complete = self._explained = self._named = False
        self._news.set()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def new_epoch(self) -> None:
        self._news.set()

    def end(self, status: str) -> bool:
        """Wait a little until the server has everything, or say that it has not; return whether it has."""
        self._status = status
        self._ended.set()
        self._news.set()
        self._thread.join(END_S)
        if not self._complete:
            self._say(f"MLflow at {self._place} lacks the rest of this run: the same command again brings it there")
        return self._complete

    def _follow(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            status = self._status
            copied = self._bring(status)
            if status is not None:
                self._complete = copied
                return
            if not copied:
                self._ended.wait(RETRY_S)
                self._news.set()

    def _bring(self, status: str | None) -> bool:
        """Bring what there is, and the status at the end, and return whether the server took it."""
        is_new = self._copy is None
        try:
            self._copy = self._copy or self._connect()
            self._name(self._copy)
            self._copy.bring()
            if status is not None:
                self._copy.end(status)
        except Exception as error:
            # Whatever it is, the run goes on.
            failure = error
        else:
            return True
        self._copy = None
        if not is_new:
            # A connection that was kept may have been closed meanwhile.
            return self._bring(status)
        self._explain(failure)
        return False

    def _name(self, copy: "_Copy") -> None:
        if not self._named and self._place.startswith("http"):
            self._say(f"MLflow {self._place.rstrip('/')}/#/{copy.page}")
        self._named = True

    def _explain(self, error: Exception) -> None:
        if self._explained:
            return
        self._explained = True
        # MLflow raises its own kind while it handles an error of the connection.
        away = isinstance(error.__context__, OSError)
        text = str(error).replace(self._uri, self._place)
        what = "does not answer" if away else f"cannot be used ({' '.join(text.split())[:200]})"
        self._say(f"MLflow at {self._place} {what}: the run goes on without, and tries again now and then")


class _Copy:
    """The MLflow run that is a copy of ours: found by its tag, or begun."""

    def __init__(self, run: Run, url: str, tags: Mapping[str, str]) -> None:
        from mlflow.tracking import MlflowClient

        self._folder = RunFolder(url)
        facts = self._folder.read_run()
        if facts is None:
            raise FileNotFoundError(f"{url} has no run.json")
        self._client = MlflowClient()
        self._began_ms = int(datetime.fromisoformat(facts["started"]).timestamp() * 1000)
        self._classes = _metric_names(open_train_val(run.data)[1].classes.names)
        experiment = self._experiment()
        self._id = self._run(experiment, run, {**_tags(run, url, facts), **tags})
        self.page = f"experiments/{experiment}/runs/{self._id}"
        self._has = {metric.step for metric in self._client.get_metric_history(self._id, MARK)}

    def bring(self) -> None:
        """Log the epochs that the server lacks."""
        from mlflow.entities import RunTag

        epochs = self._folder.read_epochs()
        ends_ms = self._times_ms(epochs)[1:]
        lacking = [(epoch, end) for epoch, end in zip(epochs, ends_ms, strict=True) if epoch.epoch not in self._has]
        best = best_epoch(epochs)
        if not lacking or best is None:
            return
        # The client makes it requests of a size that MLflow takes.
        self._client.log_batch(
            self._id,
            [metric for epoch, end_ms in lacking for metric in self._metrics(epoch, end_ms)],
            tags=[RunTag("fcn.checkpoint", self._folder.checkpoint(best.step))],
        )
        self._has |= {epoch.epoch for epoch, _ in lacking}

    def end(self, status: str) -> None:
        self._client.set_terminated(self._id, status, self._times_ms(self._folder.read_epochs())[-1])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _run(self, experiment: str, run: Run, tags: Mapping[str, str]) -> str:
        from mlflow.entities import Param, RunTag

        found = self._client.search_runs([experiment], f"tags.`fcn.run_id` = '{run.run_id}'")
        ours = found[-1] if found else self._client.create_run(experiment, self._began_ms, dict(tags), run.name)
        params = [Param(key, value) for key, value in _params(run).items() if key not in ours.data.params]
        # A trial began without those of its sweep.
        more = [RunTag(key, value) for key, value in tags.items() if ours.data.tags.get(key) != value]
        self._client.log_batch(ours.info.run_id, params=params, tags=more)
        if ours.info.status != "RUNNING":
            self._client.update_run(ours.info.run_id, "RUNNING")
        return str(ours.info.run_id)

    def _metrics(self, epoch: Epoch, time_ms: int) -> list[Any]:
        from mlflow.entities import Metric

        values: dict[str, float | None] = {"learning_rate": epoch.learning_rate, "images_per_s": epoch.images_per_s}
        values |= {name: getattr(epoch.scores, name) for name in SCORES}
        values |= dict(zip(self._classes, epoch.scores.class_iou, strict=True))
        values |= {MARK: epoch.train_loss}
        return [Metric(key, value, time_ms, epoch.epoch) for key, value in values.items() if value is not None]

    def _times_ms(self, epochs: Sequence[Epoch]) -> list[int]:
        """Return when the run began and when each epoch ended, breaks left out: the same whenever it is logged."""
        ends_s = accumulate((epoch.seconds for epoch in epochs), initial=0.0)
        return [self._began_ms + int(1000 * end_s) for end_s in ends_s]


def _params(run: Run) -> dict[str, str]:
    """Return all settings by dotted name; other than strings as JSON."""
    found = {name: setting(run, name) for name in setting_names(run)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def _tags(run: Run, url: str, facts: Mapping[str, Any]) -> dict[str, str]:
    audited = facts.get("audit", {})
    tags = {
        "fcn.run_id": run.run_id,
        "fcn.folder": url,
        "fcn.version": facts["versions"]["fcn-lab"],
        "fcn.rule": facts.get("rule"),
    }
    tags |= {f"fcn.data.{split}": audited[split]["digest"] for split in audited if split in ("train", "val")}
    return {key: value for key, value in tags.items() if value is not None}


def _metric_names(classes: Sequence[str]) -> list[str]:
    """Return a name that MLflow accepts for the IoU of each class."""
    names = ["iou/" + (re.sub(r"[^\w -]", "_", name)[:200] or "_") for name in classes]
    return [name if names.count(name) == 1 else f"{name}_{label}" for label, name in enumerate(names)]


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
