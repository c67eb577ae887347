"""What the tests of the experiment service have in common: a storage without training, and a cluster without Ray."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.evaluation import Checkpoint, Subject, summarise
from fcn_core.metrics.rules import scores
from fcn_core.predict import Inference
from fcn_core.settings import Classes, Run
from fcn_core.stored import Stored
from services.lab.app import create_app
from services.lab.jobs import Client
from services.lab.service import Lab
from services.lab.settings import Experiments
from tests.jobs.commands import evaluation_of, write_run
from tests.services.test_access import write
from tests.tiny import changed

CLASSES = Classes(names=("sky", "road", "car"), colours=((0, 0, 255), (128, 128, 128), (255, 0, 0)))


class FakeJob(NamedTuple):
    """What is used of Ray's `JobDetails`."""

    submission_id: str | None
    entrypoint: str
    status: str = "RUNNING"
    message: str | None = "Job is currently running."
    metadata: Mapping[str, str] | None = None
    start_time: int | None = 1_700_000_000_000
    end_time: int | None = None


class FakeCluster:
    """A Jobs API that starts nothing: jobs run until a test says how they end, and print what a test says."""

    def __init__(self) -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.logs: dict[str, str] = {}
        self.environments: list[Mapping[str, Any]] = []
        self.broken: Exception | None = None

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str] | None) -> str:
        job_id = f"raysubmit_{len(self.jobs)}"
        self.jobs[job_id] = FakeJob(
            job_id, entrypoint, metadata=metadata, start_time=1_700_000_000_000 + len(self.jobs)
        )
        self.environments.append(runtime_env)
        return job_id

    def list_jobs(self) -> list[Any]:
        if self.broken is not None:
            raise self.broken
        return [*self.jobs.values()]

    def get_job_logs(self, job_id: str) -> str:
        return self.logs.get(job_id, "")

    def stop_job(self, job_id: str) -> bool:
        self.end(job_id, "STOPPED")
        return True

    def end(self, job_id: str, status: str) -> None:
        self.jobs[job_id] = self.jobs[job_id]._replace(status=status, end_time=1_700_000_100_000)


def reader_and_actor(folder: Path) -> str:
    """Write a file of two tokens, fcn_read and fcn_act, of which one may act; return its path."""
    file = write(folder / "tokens.json", reader="fcn_read", actor="fcn_act")
    kept = json.loads(file.read_text())
    kept["tokens"][1]["may_act"] = True
    file.write_text(json.dumps(kept))
    return str(file)


def fine(_: str, __: Sequence[str]) -> str | None:
    """Find nothing wrong with arguments."""
    return None


def lab_of(place: Path | str, cluster: Client, **changes: object) -> Lab:
    settings = Experiments.model_validate({"storage": str(place), "refresh_s": 1e-6} | changes)
    return Lab(settings, lambda: cluster, fine)


def client_of(lab: Lab, *, raises: bool = True) -> TestClient:
    return TestClient(create_app(lab), base_url="http://127.0.0.1", raise_server_exceptions=raises)


def matrices(errors: float, num_images: int = 12) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return confusion matrices (N, 4, 3) of 300 pixels an image, with about this share of errors."""
    rng, found = np.random.default_rng(0), np.zeros((num_images, 4, 3), np.int64)
    for image in found:
        for label in range(3):
            wrong = rng.binomial(100, errors)
            image[label, label], image[label, (label + 1) % 3] = 100 - wrong, wrong
    return found


def epochs_of(run: Run, number: int, best: float) -> list[Epoch]:
    """Return epochs whose mean IoU climbs to about `best`."""
    return [
        Epoch(
            epoch=epoch,
            step=3 * epoch,
            train_loss=2.0 / epoch,
            learning_rate=run.optim.learning_rate,
            scores=scores(matrices(1 - best * epoch / number)),
            images_per_s=10.0,
            seconds=1.5,
        )
        for epoch in range(1, number + 1)
    ]


def add_run(
    place: Path | str,
    changes: Mapping[str, Any],
    epochs: int = 3,
    errors: float | None = 0.2,
    digest: str = "1" * 64,
) -> str:
    """Store a run with epochs, a picture and, unless `errors` is None, an evaluation on val; return its run_id."""
    run = changed(changes)
    folder = write_run(f"{place}/runs/{run.run_id}", run, {"rule": "a rule"})
    folder.write_epochs(epochs_of(run, epochs, 0.8))
    add_picture(f"{folder.url}/figures/validation.png")
    if errors is not None:
        evaluate_run(folder, run, errors, digest)
    return run.run_id


def evaluate_run(folder: RunFolder, run: Run, errors: float, digest: str) -> None:
    evaluation = evaluation_of(matrices(errors))
    subject = Subject(
        checkpoints=(Checkpoint(run_id=run.run_id, step=9, weights="2" * 64),),
        split="val",
        digest=digest,
        num_images=12,
        classes=CLASSES,
        inference=Inference(),
    )
    url = f"{folder.url}/evaluations/val"
    with storage.publishing(url) as local:
        Stored(url, evaluation, summarise(evaluation, subject)).write(local)
        Image.new("RGB", (8, 8)).save(local / "predictions.png")


def add_picture(url: str) -> None:
    Path(url).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(url)


def add_sweep(place: Path | str, trials: int, ended: int) -> str:
    """Store a sweep that was begun; return its id."""
    folder = Path(place) / "sweeps" / "tiny-0123456789"
    for kind, number in (("trials", trials), ("outcomes", ended)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for one in range(number):
            facts = {"optim.learning_rate": 0.1 * (one + 1)}
            outcome = {"number": one, "repeat": 0, "fold": 0, "stage": "", "run_id": f"tiny-t{one:03d}"}
            outcome |= {"status": "finished", "epochs": 3, "score": 0.1 * one, "reason": ""}
            name = f"{one:04d}.json" if kind == "trials" else f"{one:04d}-0-0.json"
            (folder / kind / name).write_text(json.dumps(facts if kind == "trials" else outcome))
    return folder.name
