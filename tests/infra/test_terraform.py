"""infra/terraform, carried out by the real provider against an S3, IAM and EC2 that enforce policies."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import moto.settings
import pytest
from s3fs.core import S3FileSystem

from fcn_core import storage
from jobs._storage_check import look_over
from services._access import Tokens
from tests.infra.conftest import ROOT, Program
from tests.jobs.commands import s3_server
from tests.services.lab.made import FakeCluster, lab_of

SOURCE = ROOT / "infra" / "terraform"
PROVIDER = Path("registry.terraform.io/hashicorp/aws")
# Where terraform looks for providers that are on disk, and where they are often unpacked.
MIRRORS = [Path.home() / ".terraform.d/plugins", Path("/usr/share/terraform/plugins"), *Path("/opt").glob("*")]
BUCKET, ACCOUNT, REGION = "fcn-lab-test", "123456789012", "us-east-1"
LAB = f"s3://{BUCKET}/lab"
ANN, ISSUER = f"arn:aws:iam::{ACCOUNT}:user/ann", "oidc.eks.us-east-1.amazonaws.com/id/ABC"


def test_it_is_formatted(program: Program) -> None:
    done = subprocess.run(
        [program("terraform"), "fmt", "-check", "-diff", str(SOURCE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


class Applied(NamedTuple):
    folder: Path
    outputs: Mapping[str, Any]
    bucket_policy: list[dict[str, Any]]
    """Taken away afterwards: the server checks no conditions, so that "not without TLS" would forbid everything."""
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    """Of the user ann, who may promote."""


@pytest.fixture(scope="module")
def applied(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    terraform = program("terraform")
    mirror = next((mirror for mirror in MIRRORS if (mirror / PROVIDER).is_dir()), None)
    if mirror is None:
        pytest.skip(f"no AWS provider on disk: terraform providers mirror {MIRRORS[0]}")
    folder = tmp_path_factory.mktemp("terraform")
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    settings = ("s3_use_path_style", "skip_credentials_validation", "skip_metadata_api_check")
    lines = "".join(f"  {setting} = true\n" for setting in settings)
    (folder / "test_override.tf").write_text(f'provider "aws" {{\n{lines}}}\n')
    with pytest.MonkeyPatch.context() as patch, s3_server(patch, os.environ) as environment:
        ours = {**environment, "TF_IN_AUTOMATION": "1"}
        ours.pop("TF_CLI_CONFIG_FILE", None)
        secrets = _ann()
        values = {
            "region": REGION,
            "bucket": BUCKET,
            "vpc_id": boto3.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"],
            "promoters": json.dumps([ANN]),
            "oidc_provider_arn": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}",
            "ssh_cidrs": json.dumps(["203.0.113.7/32"]),
        }
        ours |= {f"TF_VAR_{name}": value for name, value in values.items()}
        for command in ("init", f"-plugin-dir={mirror}"), ("apply", "-auto-approve"):
            _carry_out([terraform, *command, "-no-color", "-input=false"], folder, ours)
        outputs = json.loads(_carry_out([terraform, "output", "-json"], folder, ours))
        policy = json.loads(boto3.client("s3").get_bucket_policy(Bucket=BUCKET)["Policy"])["Statement"]
        boto3.client("s3").delete_bucket_policy(Bucket=BUCKET)
        yield Applied(folder, {name: output["value"] for name, output in outputs.items()}, policy, ours, secrets)


def _carry_out(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _ann() -> dict[str, str]:
    """Make a user whom policies let assume any role that lets her."""
    iam = boto3.client("iam")
    iam.create_user(UserName="ann")
    may = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]}
    iam.put_user_policy(UserName="ann", PolicyName="assume", PolicyDocument=json.dumps(may))
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


@contextmanager
def enforced() -> Iterator[None]:
    """Let the server check policies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        yield


@contextmanager
def acting_as(role: str) -> Iterator[None]:
    """Let this process act as a role, with its policies enforced."""
    session = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    with pytest.MonkeyPatch.context() as patch, enforced():
        patch.setenv("AWS_ACCESS_KEY_ID", session["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", session["SecretAccessKey"])
        patch.setenv("AWS_SESSION_TOKEN", session["SessionToken"])
        S3FileSystem.clear_instance_cache()
        yield
    S3FileSystem.clear_instance_cache()


FOLDERS = ("data", "models", "runs", "sweeps", "receptive_fields", "ray", "serving")
# What a role may do, by folder: R read, W write, D delete.
WRITES = {"data": "R", "models": "R", "runs": "RWD", "sweeps": "RWD", "receptive_fields": "RWD", "ray": "RWD"}
WRITES_ALL = WRITES | {"models": "RWD", "serving": "R"}
RIGHTS = {
    "train": WRITES,
    "head": WRITES,
    "serve": {"models": "R", "receptive_fields": "R", "serving": "R"},
    "promote": {"data": "R", "runs": "R", "models": "RWD"},
    "experiments": WRITES_ALL,
    "experiments-head": WRITES_ALL,
}
UPLOADERS = {*RIGHTS} - {"serve"}
NAME = "streets/1/model.json"


@pytest.mark.slow
@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_may_what_it_needs_and_nothing_else(applied: Applied, role: str) -> None:
    assert applied.bucket_policy
    found = {}
    for folder in FOLDERS:
        url = storage.join(LAB, folder, NAME)
        commit = storage.join(LAB, folder, "streets", storage.COMMIT)
        storage.write_bytes(url, b"before")
        # It is deleted alone; the server takes the deletion of several for another action than S3 does.
        storage.write_bytes(commit, b"before")
        with acting_as(f"arn:aws:iam::{ACCOUNT}:role/fcn-lab-{role}"):
            storage.check_access(LAB)
            tried = _may(storage.read_bytes, url), _may(storage.write_bytes, url, b"after")
            _may(storage.remove_folder, storage.join(LAB, folder, "streets"))
        rights = (*tried, not storage.exists(commit))
        found[folder] = "".join(right for right, has in zip("RWD", rights, strict=True) if has)
    assert {folder: may for folder, may in found.items() if may} == RIGHTS[role]


@pytest.mark.slow
def test_what_a_promoter_publishes_is_served(applied: Applied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path))
    version = storage.join(LAB, "models/lanes/1")
    champion = storage.join(LAB, "models/lanes/champions/00000001.json")
    with acting_as(applied.outputs["roles"]["promote"]):
        with storage.publishing(version) as folder:
            (folder / "model.json").write_text("{}")
        storage.create_bytes(champion, b"{}")
    with acting_as(applied.outputs["roles"]["serve"]):
        assert storage.list_folder(storage.join(LAB, "models/lanes")) == ["1", "champions"]
        assert storage.read_bytes(champion) == b"{}"
        assert (storage.fetch(version) / "model.json").read_text() == "{}"
        with pytest.raises(PermissionError):
            storage.write_bytes(champion, b"mine")


def _may(act: Callable[..., object], *arguments: object) -> bool:
    try:
        act(*arguments)
    except PermissionError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("role", RIGHTS)
def test_who_writes_can_check_the_storage(applied: Applied, role: str) -> None:
    assert applied.outputs["storage"] == LAB
    with storage.publishing(storage.join(LAB, "models/checked/1")) as folder:
        (folder / "model.json").write_text("{}")
    with acting_as(f"arn:aws:iam::{ACCOUNT}:role/fcn-lab-{role}"):
        look = look_over(storage.join(LAB, "models/checked"), quick=True, progress=lambda *_: None)
    assert look.findings == ()
    assert len(look.refused) == (role not in UPLOADERS)
    assert all("without s3:ListBucketMultipartUploads" in refusal for refusal in look.refused)


@pytest.mark.slow
def test_the_experiment_service_reads_its_tokens_and_promotes(applied: Applied) -> None:
    tokens, run = storage.join(LAB, "serving/tokens.json"), storage.join(LAB, "runs/run-0/run.json")
    Tokens(tokens=()).write(tokens)
    storage.write_bytes(run, b"{}")
    with acting_as(applied.outputs["roles"]["experiments"]):
        lab = lab_of(LAB, FakeCluster(), tokens=tokens)
        lab.close()
        assert storage.read_bytes(run) == b"{}"
        storage.create_bytes(storage.join(LAB, "models/signs/champions/00000001.json"), b"{}")
        with pytest.raises(PermissionError):
            Tokens(tokens=()).write(tokens)


@pytest.mark.slow
def test_only_promoters_may_promote(applied: Applied) -> None:
    role = {"RoleArn": applied.outputs["roles"]["promote"], "RoleSessionName": "test"}
    with enforced():
        boto3.client("sts", **applied.secrets).assume_role(**role)
    trust = _trust("fcn-lab-promote")
    assert [statement["Principal"] for statement in trust] == [{"AWS": ANN}]


@pytest.mark.slow
def test_machines_and_one_service_account_have_a_role(applied: Applied) -> None:
    assert set(applied.outputs["roles"]) == {"train", "serve", "experiments", "promote"}
    accounts = {"train": "fcn-train", "serve": "fcn-serve", "experiments": "fcn-experiments"}
    for role, account in accounts.items():
        *machines, pods = _trust(f"fcn-lab-{role}")
        expected = [] if role == "experiments" else [{"Service": "ec2.amazonaws.com"}]
        assert [statement["Principal"] for statement in machines] == expected
        assert pods["Action"] == "sts:AssumeRoleWithWebIdentity"
        asked = {f"{ISSUER}:sub": f"system:serviceaccount:fcn-lab:{account}", f"{ISSUER}:aud": "sts.amazonaws.com"}
        assert pods["Condition"] == {"StringEquals": asked}
    profiles = boto3.client("iam").list_instance_profiles()["InstanceProfiles"]
    held = {profile["InstanceProfileName"]: [role["RoleName"] for role in profile["Roles"]] for profile in profiles}
    names = [f"fcn-lab-{role}" for role in ("head", "train", "serve", "experiments-head")]
    assert held == {name: [name] for name in names}
    starting = {
        role["RoleName"]
        for role in boto3.client("iam").list_roles()["Roles"]
        if "autoscaler" in boto3.client("iam").list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
    }
    assert starting == {"fcn-lab-head", "fcn-lab-experiments-head"}


def _trust(role: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = boto3.client("iam").get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"][
        "Statement"
    ]
    return statements


@pytest.mark.slow
def test_the_bucket_is_closed_and_cleans_up(applied: Applied) -> None:
    assert applied.outputs["storage"] == LAB
    tls = {
        statement["Sid"]: statement["Condition"] for statement in applied.bucket_policy if statement["Effect"] == "Deny"
    }
    assert tls["TlsOnly"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert tls["ModernTls"] == {"NumericLessThan": {"s3:TlsVersion": "1.2"}}
    s3 = boto3.client("s3")
    encrypted = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in encrypted] == ["AES256"]
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    assert set(s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values()) == {True}
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]}
    assert {rule["Status"] for rule in rules.values()} == {"Enabled"}
    assert rules["unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    kept = {
        name: rule["NoncurrentVersionExpiration"]["NoncurrentDays"]
        for name, rule in rules.items()
        if "Noncurrent" in str(rule)
    }
    assert kept["models-deleted"] == 365
    assert kept["runs-deleted"] == 7
    assert "Expiration" not in rules["models-deleted"]


@pytest.mark.slow
def test_nodes_are_reached_by_ssh_from_one_place(applied: Applied) -> None:
    group = boto3.client("ec2").describe_security_groups(GroupIds=[applied.outputs["security_group"]])
    rules = group["SecurityGroups"][0]["IpPermissions"]
    assert [rule["IpRanges"][0]["CidrIp"] for rule in rules if rule["IpRanges"]] == ["203.0.113.7/32"]
    inside = [rule["UserIdGroupPairs"][0]["GroupId"] for rule in rules if rule["UserIdGroupPairs"]]
    assert inside == [applied.outputs["security_group"]]


@pytest.mark.slow
def test_policies_name_actions_that_exist(applied: Applied) -> None:
    iam = boto3.client("iam")
    assert applied.outputs["roles"]
    for role in iam.list_roles()["Roles"]:
        for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
            for statement in document["Statement"]:
                actions = statement["Action"]
                for action in [actions] if isinstance(actions, str) else actions:
                    service, operation = action.split(":")
                    assert operation in _operations(service), action


def _operations(service: str) -> set[str]:
    """Return the permissions of a service: its API's operations, and what S3 calls otherwise."""
    named = {
        "s3": {"ListBucket", "ListBucketMultipartUploads", "AbortMultipartUpload", "ListMultipartUploadParts"},
        "iam": {"PassRole"},
        "ecr": set[str](),
    }
    return set(boto3.client(service).meta.service_model.operation_names) | named.get(service, set())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [("ssh_cidrs", '["0.0.0.0/0"]', "never the whole internet"), ("root", "/lab", "without a slash at either end")],
)
def test_what_would_be_unsafe_is_refused(
    program: Program, applied: Applied, variable: str, value: str, message: str
) -> None:
    plan = [program("terraform"), "plan", "-no-color", "-input=false", "-refresh=false", f"-var={variable}={value}"]
    done = subprocess.run(
        plan, cwd=applied.folder, env=applied.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
