"""infra/kuberay, put together by kubectl, against KubeRay's and Kubernetes' own schemas made strict."""

import copy
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from kubernetes_validate.utils import validate
from ray.serve.schema import ServeDeploySchema

from jobs._cli import parse
from services._settings import Serving, read_settings
from services.segmentation import build
from tests.infra.conftest import ROOT, Program

Manifest = dict[str, Any]
FOLDER = ROOT / "infra" / "kuberay"
DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay"
ENTRIES = ("train", "experiments", "job", "serve")
KUBERNETES = "1.33"


@pytest.fixture(scope="module")
def built(program: Program) -> dict[str, list[Manifest]]:
    """What `kubectl apply -k` would send, by entry."""
    kubectl = program("kubectl")
    return {entry: list(yaml.safe_load_all(_build(kubectl, entry))) for entry in ENTRIES}


def _build(kubectl: str, entry: str) -> str:
    command = [kubectl, "kustomize", str(FOLDER / entry)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_rays(manifest: Manifest) -> bool:
    return str(manifest["apiVersion"]).startswith("ray.io/")


@pytest.mark.parametrize("entry", ENTRIES)
def test_kubernetes_knows_each_field(built: Mapping[str, list[Manifest]], entry: str) -> None:
    manifests = [manifest for manifest in built[entry] if not is_rays(manifest)]
    assert {manifest["kind"] for manifest in manifests} >= {
        "Namespace",
        "ServiceAccount",
        "NetworkPolicy",
        "StatefulSet",
    }
    for manifest in manifests:
        validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [("train", "RayCluster"), ("experiments", "RayCluster"), ("job", "RayJob"), ("serve", "RayService")],
)
def test_kuberay_knows_each_field(built: Mapping[str, list[Manifest]], entry: str, kind: str) -> None:
    (ours,) = [manifest for manifest in built[entry] if is_rays(manifest)]
    assert ours["kind"] == kind
    validator = jsonschema.Draft202012Validator(definition(kind))
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(ours)] == []
    misspelt = {**ours, "spec": ours["spec"] | {"rayClusterSpecs": {}}}
    assert not validator.is_valid(misspelt)


def definition(kind: str) -> Manifest:
    """Return the JSON schema of a kind of KubeRay's, which lets nothing pass that it does not name."""
    if not DEFINITIONS.is_dir():
        pytest.skip(f"KubeRay's custom resource definitions are not in {DEFINITIONS}")
    (path,) = [path for path in DEFINITIONS.glob("*.yaml") if path.stem == f"ray.io_{kind.lower()}s"]
    (version,) = [
        one for one in yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"] if one["name"] == "v1"
    ]
    schema: Manifest = copy.deepcopy(version["schema"]["openAPIV3Schema"])
    make_strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def make_strict(schema: object) -> None:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            make_strict(part)
    elif isinstance(schema, list):
        for part in schema:
            make_strict(part)


def pods(node: object) -> Iterator[Manifest]:
    """Yield the specification of every pod below."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for part in node.values():
            yield from pods(part)
    elif isinstance(node, list):
        for part in node:
            yield from pods(part)


@pytest.mark.parametrize("entry", ENTRIES)
def test_pods_have_no_rights_and_limits(built: Mapping[str, list[Manifest]], entry: str) -> None:
    found = list(pods(built[entry]))
    assert len(found) == {"train": 4, "experiments": 4, "job": 5, "serve": 3}[entry]
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            locked = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["securityContext"] == locked
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            # Ray counts what a pod may use, which must be what it gets.
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] or (
                container["name"] == "ray-job-submitter"
            )


def clusters(manifests: list[Manifest]) -> Manifest:
    (ours,) = [manifest for manifest in manifests if is_rays(manifest)]
    spec = ours["spec"]
    cluster: Manifest = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return cluster


@pytest.mark.parametrize("entry", ENTRIES)
def test_clusters_want_a_token_survive_their_head_and_grow(built: Mapping[str, list[Manifest]], entry: str) -> None:
    cluster = clusters(built[entry])
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    password = cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert password == {"name": "redis", "key": "password"}
    assert "kind: Secret" not in yaml.safe_dump_all(built[entry])
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["template"]["spec"]["automountServiceAccountToken"] is False
        # Time to save, or to let requests end.
        environment = {one["name"]: one["value"] for one in group["template"]["spec"]["containers"][0]["env"]}
        drain_s = int(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert 60 <= drain_s < group["template"]["spec"]["terminationGracePeriodSeconds"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_training_and_serving_have_roles_and_a_network_of_their_own(built: Mapping[str, list[Manifest]]) -> None:
    for entry, part in {"train": "train", "job": "train", "serve": "serve"}.items():
        (ours,) = [manifest for manifest in built[entry] if is_rays(manifest)]
        assert {pod["serviceAccountName"] for pod in pods(ours)} == {f"fcn-{part}"}
        text = yaml.safe_dump(ours)
        assert set(re.findall(r"fcn-lab/part: (\w+)", text)) == {part}
        assert text.count("fcn-lab/part:") == len(list(pods(ours)))
    policies = {one["metadata"]["name"]: one["spec"] for one in built["train"] if one["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    outwards = [to["ipBlock"] for rule in policies["outwards"]["egress"] for to in rule["to"] if "ipBlock" in to]
    assert outwards == [{"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}]
    ((admitted,),) = [rule["from"] for rule in policies["redis"]["ingress"]]
    assert admitted["podSelector"]["matchExpressions"][0]["values"] == ["head", "redis-cleanup"]


def test_only_the_head_of_the_experiment_service_may_promote(built: Mapping[str, list[Manifest]]) -> None:
    cluster = clusters(built["experiments"])
    (head,), workers = pods(cluster["headGroupSpec"]), [*pods(cluster["workerGroupSpecs"])]
    assert head["serviceAccountName"] == "fcn-experiments"
    assert {pod["serviceAccountName"] for pod in workers} == {"fcn-train"}
    known = {one["metadata"]["name"] for one in built["experiments"] if one["kind"] == "ServiceAccount"}
    assert known == {"fcn-train", "fcn-serve", "fcn-experiments"}


def test_all_images_are_one(built: Mapping[str, list[Manifest]]) -> None:
    images = {c["image"] for entry in ENTRIES for pod in pods(built[entry]) for c in pod["containers"]}
    of_aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]["image"]
    assert {image for image in images if not image.startswith("redis:")} == {of_aws}


def test_serve_takes_its_configuration(built: Mapping[str, list[Manifest]]) -> None:
    (ours,) = [manifest for manifest in built["serve"] if is_rays(manifest)]
    config = yaml.safe_load(ours["spec"]["serveConfigV2"])
    application = ServeDeploySchema.model_validate(config).applications[0]
    assert application.import_path == "services.segmentation:build"
    (settings,) = [one["data"] for one in built["serve"] if one["kind"] == "ConfigMap"]
    serving = read_settings(Serving, application.args | {"storage": settings["FCN_STORAGE"]}, settings)
    assert serving.tokens is not None
    assert serving.tokens.startswith(f"{serving.storage}/serving/")
    # Options here would take the place of those of the code, the GPU among them.
    assert "ray_actor_options" not in config["applications"][0]["deployments"][0]
    code = build(application.args | {"storage": settings["FCN_STORAGE"], "device": "cpu"})
    asked = code._bound_deployment.ray_actor_options["num_cpus"]
    replicas = application.deployments[0].autoscaling_config["max_replicas"]
    (group,) = clusters(built["serve"])["workerGroupSpecs"]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert replicas * asked <= cpus * group["maxReplicas"]


def test_the_job_is_one_that_there_is(built: Mapping[str, list[Manifest]]) -> None:
    (ours,) = [manifest for manifest in built["job"] if is_rays(manifest)]
    program, script, *arguments = ours["spec"]["entrypoint"].split()
    assert (program, script) == ("python", "jobs/train_fcn8s.py")
    job = parse(arguments, stride=8)
    assert (job.run.data.kind, job.launch.workers, job.launch.device) == ("camvid", 4, "cuda")
