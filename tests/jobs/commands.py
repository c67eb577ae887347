"""What the tests of commands have in common."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from s3fs.core import S3FileSystem

from fcn_core.checkpoint import RunFolder
from fcn_core.data.catalogue import open_split
from fcn_core.data.streets import StreetScenes
from fcn_core.evaluation import Evaluation, Part, Sums, evaluate
from fcn_core.metrics.calibration import TEMPERATURES
from fcn_core.metrics.objects import Objects
from fcn_core.metrics.precision import BINS
from fcn_core.predict import Inference, Predictor
from fcn_core.settings import VOID, Run, Streets, override
from jobs._cli import Resources
from jobs._console import Console
from jobs._team import Images, Team
from jobs._train import run_facts

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "t" * 32
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
Main = Callable[[], None]
Here = Callable[..., None]
"""Carries out a command, given its `main` and arguments."""
Refused = Callable[..., str]
"""The same, for a command that ends with a line for the user, which is returned."""


def processes_of(ray_folder: Path) -> dict[int, str]:
    """Return the command lines, by process id, of everything started with our temporary folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"RAY_TMPDIR={ray_folder}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def left_of(ray_folder: Path) -> list[str]:
    """Return the command lines of what should have ended.

    Ray's two agents of a node are let go: where the head was killed they look for it for a minute before they end too.
    """
    lines = processes_of(ray_folder).values()
    return [line for line in lines if line.strip() not in AGENTS]


@contextmanager
def s3_server(patch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    access = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in access.items():
        patch.setenv(name, value)
    # Connections are kept for the life of a process, with the credentials that they were made with.
    S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="lab")
    try:
        yield dict(environment) | access
    finally:
        S3FileSystem.clear_instance_cache()
        server.stop()


class LocalTeam(Team):
    """What a team does, in this process."""

    def __init__(self, checkpoint: str, images: Images, inference: Inference) -> None:
        self.predictor = Predictor.load(checkpoint)
        self.dataset = open_split(images.data, images.split)
        self.indexes = images.indexes
        self.inference = inference

    def evaluate(self, console: Console) -> Iterator[Part]:
        yield evaluate(self.predictor, self.dataset, self.indexes, self.inference)
        console.done()

    def labels(self, places: Sequence[int]) -> list[NDArray[np.uint8]]:
        images = [self.dataset.read(self.indexes[place]).image for place in places]
        return [self.predictor.labels(image, self.inference).numpy() for image in images]


class WithoutRay:
    """Starts local teams, and counts them."""

    def __init__(self) -> None:
        self.started = 0

    @contextmanager
    def __call__(
        self, resources: Resources, checkpoint: str, images: Images, inference: Inference, console: Console
    ) -> Iterator[Team]:
        assert resources.workers
        console.done()
        self.started += 1
        yield LocalTeam(checkpoint, images, inference)


def with_settings(folder: RunFolder, changes: Mapping[str, Any]) -> RunFolder:
    """Change what run.json says of a run, without training it again."""
    facts = folder.read_run()
    assert facts is not None
    folder.write_run(facts | {"settings": override(Run.model_validate(facts["settings"]), changes).model_dump()})
    return folder


def write_run(url: str, run: Run, more: Mapping[str, Any] | None = None) -> RunFolder:
    folder = RunFolder(url)
    folder.write_run(run_facts(run) | dict(more or {}))
    return folder


def write_images(
    root: Path,
    names: Sequence[str],
    splits: Mapping[str, int],
    sizes: Sequence[tuple[int, int]] = ((40, 48),),
    sequence: str | None = None,
) -> Path:
    """Write street scenes as a data set of the kind 'folder', with the first classes under other names."""
    root.mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps({"names": list(names), "sequence": sequence}))
    scenes = StreetScenes(Streets(num_train=100, height=64, width=64), "train")
    scene = 0
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            height, width = sizes[scene % len(sizes)]
            image, mask = (part[:height, :width] for part in scenes.read(scene))
            labels = np.where(mask == VOID, mask, np.minimum(mask, len(names) - 1)).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{split}_{number}.png")
            Image.fromarray(labels).save(root / split / "masks" / f"{split}_{number}.png")
            scene += 1
    return root


def evaluation_of(matrices: ArrayLike, sequences: Sequence[str | None] | None = None) -> Evaluation:
    """Return an evaluation with these confusion matrices (N, C + 1, C), and nothing else measured."""
    confusion = np.asarray(matrices, np.int64)
    num_images, _, num_classes = confusion.shape
    nothing = Objects(np.zeros(0, np.uint8), np.zeros(0), np.zeros((0, 10), np.bool_), np.zeros(num_classes, np.int64))
    return Evaluation(
        names=tuple(f"image-{number}" for number in range(num_images)),
        sequences=tuple(sequences or [None] * num_images),
        confusion=confusion,
        boundary=np.zeros((num_images, num_classes, 3), np.int64),
        objects=(nothing,) * num_images,
        sums=Sums(
            np.zeros((num_classes, BINS, 2), np.int64),
            np.zeros(len(TEMPERATURES), np.int64),
            np.zeros((len(TEMPERATURES), 15, 3), np.int64),
        ),
    )


class Head(NamedTuple):
    """A Ray cluster of one node with two CPUs, to which jobs are submitted with a token."""

    address: str
    """Of the dashboard."""
    gcs: str
    """What RAY_ADDRESS names."""
    environment: Mapping[str, str]

    def metrics(self) -> list[Sample]:
        """Return what Prometheus would scrape, where Ray says that it can."""
        discovery = Path(self.environment["RAY_TMPDIR"]) / "ray" / "prom_metrics_service_discovery.json"
        targets = [target for group in json.loads(discovery.read_bytes()) for target in group["targets"]]
        pages = [urlopen(f"http://{target}/metrics", timeout=10).read().decode() for target in targets]
        return [
            sample for page in pages for family in text_string_to_metric_families(page) for sample in family.samples
        ]

    def submit(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `python` with these arguments as a job, and wait for its end."""
        submission = [RAY, "job", "submit", "--address", self.address, "--working-dir", ".", "--", "python", *command]
        return subprocess.run(submission, cwd=ROOT, env=self.environment, text=True, capture_output=True, check=False)

    def get(self, path: str) -> dict[str, Any]:
        """Return what the dashboard answers."""
        asked = Request(f"{self.address}/{path}", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310 -- ours.
        with urlopen(asked, timeout=30) as answer:  # noqa: S310 -- ours.
            return dict(json.load(answer))


@contextmanager
def ray_head(environment: Mapping[str, str]) -> Iterator[Head]:
    gcs, dashboard, agent = (free_port() for _ in range(3))
    ports = ["--port", str(gcs), "--dashboard-port", str(dashboard), "--dashboard-agent-listen-port", str(agent)]
    ours = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    # Else that of another Ray here, which may end before ours.
    ours |= {name: str(free_port()) for name in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")}
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", *ports],
        env=ours,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(dashboard)
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", ours)
    finally:
        head.terminate()
        head.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
