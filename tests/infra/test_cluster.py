"""cluster.yaml, read, checked and launched by Ray's own code, without a cloud."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

from tests.infra.conftest import ROOT, Program
from tests.jobs.commands import s3_server

Config = dict[str, Any]
TEXT = (ROOT / "cluster.yaml").read_text()
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def read(cloud: str) -> Config:
    """Return what `ray up` reads, on another cloud with that cloud's sections."""
    config: Config = yaml.safe_load(TEXT)
    sections = re.sub(rf"^(?!#{cloud} ).*\n", "", TEXT, flags=re.MULTILINE)
    config |= yaml.safe_load(sections.replace(f"#{cloud} ", "")) or {}
    return config


@pytest.fixture(params=["aws", "gcp", "azure"])
def config(request: pytest.FixtureRequest) -> Config:
    found = read(request.param)
    assert found["provider"]["type"] == request.param
    return found


def test_ray_takes_it(config: Config) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    # What Ray's schema lets pass with whatever name.
    known = {*SCHEMA["properties"]["provider"]["properties"]}
    assert set(config["provider"]) <= known


def test_workers_come_from_none_and_the_head_does_no_work(config: Config) -> None:
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert {name: types[name]["min_workers"] for name in ("gpu", "cpu")} == {"gpu": 0, "cpu": 0}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert sum(types[name]["max_workers"] for name in ("gpu", "cpu")) <= config["max_workers"]
    assert [name for name in types if re.search("spot|preemptible", str(types[name]).lower())] == ["gpu", "cpu"]


def test_every_node_wants_the_token_and_none_is_in_the_file(config: Config) -> None:
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    place = "/.ray/auth_token"
    assert f"--env RAY_AUTH_TOKEN_PATH=/home/ray{place}" in config["docker"]["run_options"]
    assert config["file_mounts"][f"~{place}"] == f"~{place}"
    assert not re.search(r"RAY_AUTH_TOKEN=|AKIA|SECRET|PRIVATE KEY|password:", TEXT)


def test_ray_is_started_with_options_that_it_has(config: Config) -> None:
    *commands, watch = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert watch.startswith("nohup drain_on_notice.py </dev/null")
    for command in commands:
        program, verb, *options = shlex.split(command)
        assert program == "ray"
        with ray_cli.commands[verb].make_context(verb, options) as context:
            assert verb == "stop" or context.params["metrics_export_port"] == 8080
            assert context.params.get("dashboard_host") in (None, "127.0.0.1")


def test_shellcheck_has_nothing_to_say(config: Config, program: Program) -> None:
    kinds = ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")
    script = "\n".join(command for kind in kinds for command in config[kind])
    # SC2154: Ray sets RAY_HEAD_IP.
    check = [program("shellcheck"), "--shell=bash", "--exclude=SC2154", "-"]
    done = subprocess.run(check, input=f"{script}\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


AWS = read("aws")
NODES = {name: kind["node_config"] for name, kind in AWS["available_node_types"].items()}


@pytest.mark.parametrize("name", NODES)
def test_aws_knows_each_parameter(name: str) -> None:
    parameters = dict(NODES[name])
    parameters |= {"SubnetId": parameters.pop("SubnetIds")[0], "MinCount": 1, "MaxCount": 1}
    operation = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    # Without network: a region's instance types are not known here, shapes and names are.
    report = ParamValidator().validate(parameters, operation.input_shape)
    assert not report.has_errors(), report.generate_report()


def test_a_misspelt_parameter_would_be_found() -> None:
    operation = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    wrong = {"MinCount": 1, "MaxCount": 1, "MetadataOptions": {"HttpToken": "required"}}
    assert "HttpToken" in ParamValidator().validate(wrong, operation.input_shape).generate_report()


def test_names_are_those_of_terraform() -> None:
    terraform = "".join(path.read_text() for path in (ROOT / "infra/terraform").glob("*.tf"))
    name = re.search(r'variable "name" {[^}]*default *= "(.+?)"', terraform)
    assert name is not None
    assert AWS["cluster_name"] == name[1]
    profiles = re.findall(r'resource "aws_iam_instance_profile" "(\w+)"', terraform)
    used = {node["IamInstanceProfile"]["Name"] for node in NODES.values()}
    assert used == {"fcn-lab-head", "fcn-lab-train"} <= {f"{name[1]}-{profile}" for profile in profiles}


@pytest.fixture(scope="module")
def cloud() -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch, os.environ) as environment:
        patch.setenv("AWS_DEFAULT_REGION", AWS["provider"]["region"])
        for profile in ("fcn-lab-head", "fcn-lab-train"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=profile)
        yield environment


@pytest.mark.parametrize("name", NODES)
def test_rays_provider_launches_it(cloud: dict[str, str], name: str) -> None:
    assert cloud["AWS_ENDPOINT_URL"]
    ec2 = boto3.client("ec2")
    there = {
        "SubnetIds": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
        "SecurityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
    }
    profile = NODES[name]["IamInstanceProfile"]["Name"]
    provider = AWSNodeProvider(AWS["provider"], AWS["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-launch-config": name, "ray-user-node-type": name}
    (identifier,) = provider.create_node(NODES[name] | there, tags, 1)
    found = ec2.describe_instances(InstanceIds=[identifier])["Reservations"][0]["Instances"][0]
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert found["IamInstanceProfile"]["Arn"].endswith(f"/{profile}")
    assert found.get("InstanceLifecycle", "on-demand") == ("on-demand" if name == "head" else "spot")
    disks = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [identifier]}])["Volumes"]
    assert [(disk["Encrypted"], disk["VolumeType"]) for disk in disks] == [(True, "gp3")]
    assert {"Key": "ray-cluster-name", "Value": "fcn-lab"} in found["Tags"]
