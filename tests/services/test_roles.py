"""What each role may do in S3, on the real server, and the same policies by a reading of IAM's rules of our own."""

import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from effir.errors import BadInput
from effir.manifest import MANIFEST, Manifest
from effir.phases.request import PHASES
from effir.services import access, credentials, roles
from effir.services.layout import Layout
from effir.services.store import Store, split

DAGS = Path(__file__).parents[2] / "dags"
TABLE = roles.table(DAGS)
ACTIONS = {"put": "s3:PutObject", "get": "s3:GetObject", "delete": "s3:DeleteObject"}
MODEL, MADE = "artifacts/finetune/1f/model/model.safetensors", "artifacts/finetune/1f/manifest.json"
MAY = {
    "compute": [
        ("put", MODEL), ("put", "artifacts/collection/1f/docs.jsonl"), ("put", "checkpoints/slim/1f/seed0/000000010/a"),
        ("delete", "checkpoints/slim/1f/seed0/000000010/a"), ("delete", MADE), ("put", "runs/r/results/depth.json"),
        ("get", "models/mine/config.json"), ("get", "artifacts/gate/1f/verdict.json"), ("put", "artifacts/index/1f/00000.faiss"),
        ("put", "indexes/demo/faq/current.json"),
    ],
    "judge": [("get", MODEL), ("put", "artifacts/evaluate/1f/scores.parquet"), ("put", "runs/r/progress/evaluate.json")],
    "decide": [("put", "artifacts/gate/1f/verdict.json"), ("put", "mlflow:1/run/artifacts/report.html"), ("get", MODEL)],
    "promote": [("put", "promotions/demo/1.json"), ("put", "artifacts/promote/1f/a"), ("get", "artifacts/gate/1f/verdict.json")],
    "launch": [
        ("put", "runs/r/calls/depth.json"), ("put", "logs/x.log"), ("get", "runs/r/results/a.json"), ("get", "artifacts/gate/1f/a.md"),
    ],
    "tracking": [("get", MODEL), ("get", "mlflow:1/run/artifacts/report.html")],
    "reader": [
        ("get", MODEL), ("get", "promotions/demo/1.json"), ("get", "mlflow:1/run/artifacts/report.html"),
        ("get", "indexes/demo/faq/current.json"),
    ],
}  # fmt: skip
MAY_NOT = {
    "compute": [
        ("put", "artifacts/evaluate/1f/scores.parquet"), ("put", "artifacts/gate/1f/verdict.json"), ("put", "runs/r/calls/promote.json"),
        ("put", "promotions/demo/1.json"), ("put", "mlflow:1/run/artifacts/report.html"), ("delete", MODEL), ("put", "models/mine/a"),
        ("delete", "indexes/demo/faq/current.json"),
    ],
    "judge": [
        ("put", MODEL), ("put", MADE), ("delete", MADE), ("put", "artifacts/gate/1f/verdict.json"), ("put", "artifacts/promote/1f/a"),
        ("put", "promotions/demo/1.json"), ("put", "checkpoints/finetune/1f/main/a"), ("put", "mlflow:1/run/artifacts/report.html"),
    ],
    "decide": [("put", MODEL), ("put", "artifacts/evaluate/1f/scores.parquet"), ("put", "promotions/demo/1.json"), ("delete", MODEL)],
    "promote": [("delete", "promotions/demo/1.json"), ("put", MODEL), ("put", "artifacts/gate/1f/verdict.json")],
    "launch": [("get", MODEL), ("put", "runs/r/results/depth.json"), ("put", MODEL), ("delete", "runs/r/calls/depth.json")],
    "tracking": [("put", MODEL), ("get", "runs/r/calls/depth.json")],
    "reader": [
        ("put", MODEL), ("put", "indexes/demo/faq/current.json"), ("delete", MODEL), ("get", "runs/r/calls/depth.json"),
        ("get", "models/mine/config.json"),
    ],
}  # fmt: skip


def place_of(key: str) -> tuple[str, str]:
    bucket, colon, rest = key.partition(":")
    return (bucket, rest) if colon else ("effir", key)


def allows(policy: dict[str, Any], action: str, resource: str) -> bool:
    """IAM's rule for policies that only allow: one statement names the action and a pattern of the resource."""
    return any(
        action in one["Action"] and any(fnmatch.fnmatchcase(f"arn:aws:s3:::{resource}", pattern) for pattern in one["Resource"])
        for one in policy["Statement"]
    )


def refused(client: Any, action: str, key: str) -> bool:
    """Whether S3 answers 403."""
    bucket, name = place_of(key)
    content = {"Body": b"x"} if action == "put" else {}
    try:
        getattr(client, f"{action}_object")(Bucket=bucket, Key=name, **content)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
            return True
        raise
    return False


@pytest.fixture
def acting(s3: dict[str, str], place: Layout, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """The store by the keys of a role."""

    def become(role: str) -> Store:
        for name, value in access.s3_variables(place, role).items():
            monkeypatch.setenv(name, value)
        return Store()

    return become


@pytest.fixture
def stored(s3: dict[str, str]) -> Iterator[None]:
    """Every object of the cases is there."""
    client = boto3.Session().client("s3")
    keys = {place_of(key) for cases in (MAY, MAY_NOT) for told in cases.values() for _, key in told}
    for bucket, key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    yield
    for bucket, key in keys:
        client.delete_object(Bucket=bucket, Key=key)


def test_every_phase_has_one_role() -> None:
    found = [phase for role in TABLE.values() for phase in role["phases"]]
    assert len(found) == len(set(found)) and set(PHASES) <= set(found)
    assert set(MAY) == set(MAY_NOT) == set(TABLE)


def test_who_runs_models_makes_none_and_one_role_alone_changes_the_registry() -> None:
    finetune = next(name for name, role in TABLE.items() if "finetune" in role["phases"])
    for name, policy in roles.policies(TABLE, "s3://effir", "s3://mlflow").items():
        assert allows(policy, "s3:PutObject", f"effir/{MODEL}") is (name == finetune)
        assert allows(policy, "s3:PutObject", "effir/promotions/demo/1.json") is (name == "promote")
    assert [name for name, role in TABLE.items() if role["mlflow"] == "promote"] == ["promote"]
    assert {"evaluate", "promote"} & set(TABLE[finetune]["phases"]) == set()


@pytest.mark.parametrize("role", list(TABLE))
def test_the_server_lets_a_role_do_its_work_and_no_more(acting: Callable[[str], Store], stored: None, role: str) -> None:
    policy = roles.policies(TABLE, access.STORE, access.REPORTS)[role]
    client = acting(role).client
    for told, expected in ((MAY[role], True), (MAY_NOT[role], False)):
        for action, key in told:
            assert allows(policy, ACTIONS[action], "/".join(place_of(key))) is expected, (action, key)
            assert refused(client, action, key) is not expected, (action, key)


AROUND = {
    "copy_object": {"Key": MODEL, "CopySource": {"Bucket": "effir", "Key": MADE}},
    "create_multipart_upload": {"Key": MODEL},
    "put_object_tagging": {"Key": MODEL, "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}},
    "put_object_acl": {"Key": MODEL, "ACL": "public-read-write"},
    "put_bucket_acl": {"ACL": "public-read-write"},
    "put_bucket_policy": {
        "Policy": json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::effir/*"}],
            }
        )
    },
    "put_bucket_lifecycle_configuration": {
        "LifecycleConfiguration": {"Rules": [{"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}
    },
    "put_bucket_versioning": {"VersioningConfiguration": {"Status": "Enabled"}},
    "delete_bucket": {},
}


@pytest.mark.parametrize("role", ["judge", "promote", "reader"])
def test_there_is_no_way_round(acting: Callable[[str], Store], stored: None, role: str) -> None:
    client = acting(role).client
    for call, content in AROUND.items():
        with pytest.raises(ClientError) as refusal:
            getattr(client, call)(Bucket="effir", **content)
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, call
    with pytest.raises(ClientError, match=r"AccessDenied|Forbidden|403"):
        client.create_bucket(Bucket=f"mine-{role}")
    told = client.delete_objects(Bucket="effir", Delete={"Objects": [{"Key": MODEL}]})
    assert [one["Code"] for one in told["Errors"]] == ["AccessDenied"] and "Deleted" not in told
    users = boto3.Session().client("iam", endpoint_url=client.meta.endpoint_url)
    for call, content in (("create_user", {"UserName": "mallory"}), ("create_access_key", {"UserName": "operator"})):
        with pytest.raises(ClientError) as refusal:
            getattr(users, call)(**content)
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] in {403, 404, 405, 501}, call


def test_what_is_refused_is_said_in_one_sentence(acting: Callable[[str], Store], tmp_path: Path) -> None:
    store = acting("judge")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    target = f"s3://effir/{MODEL}"
    for attempt in (lambda: store.put_json(target, {}), lambda: store.upload(tmp_path / "model", "s3://effir/artifacts/finetune/1f/model")):
        with pytest.raises(
            BadInput, match=r"^S3 refused s3://effir/artifacts/finetune/1f/model.*: these credentials may not write it \("
        ) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="these credentials may not remove it"):
        store.delete([target])
    assert store.exists("s3://effir/artifacts/finetune/absent/manifest.json") is False, "what is absent is not refused"


def test_a_phase_publishes_in_parts_and_finds_damage_with_its_own_keys(acting: Callable[[str], Store], tmp_path: Path) -> None:
    """A file above the size at which boto3 uploads in parts; a damaged artifact's manifest goes."""
    store = acting("compute")
    (tmp_path / "model.safetensors").write_bytes(bytes(9 * 2**20))
    digest = f"{abs(hash(tmp_path)):064x}"
    empty = {"key": {}, "files": {}, "numbers": {}, "seconds": 0, "forward_passes": 0, "created": "now"}
    manifest = store.publish(Manifest.model_validate(empty | {"phase": "finetune", "digest": digest}), tmp_path)
    assert store.find("finetune", digest) == manifest
    store.put_json(f"{store.artifact('finetune', digest)}/model.safetensors", {})
    assert store.find("finetune", digest) is None
    assert not store.exists(f"{store.artifact('finetune', digest)}/{MANIFEST}")


def test_nobody_without_a_key_gets_anything(s3: dict[str, str], stored: None) -> None:
    from botocore import UNSIGNED
    from botocore.config import Config

    client = boto3.Session().client("s3", config=Config(signature_version=UNSIGNED))
    assert refused(client, "get", MODEL) and refused(client, "put", MODEL)


def test_a_store_below_a_prefix_has_its_policies_there() -> None:
    policy = roles.policies_of("judge", TABLE, "s3://company/retrieval/effir/", "s3://company/mlflow")
    assert allows(policy, "s3:PutObject", "company/retrieval/effir/artifacts/evaluate/1f/scores.parquet")
    assert not allows(policy, "s3:PutObject", "company/artifacts/evaluate/1f/scores.parquet")
    assert not allows(policy, "s3:GetObject", "company/other/secret")
    assert allows(policy, "s3:ListBucket", "company")


def test_what_a_store_is_called_allows_nothing_to_be_removed() -> None:
    policy = roles.policies_of("promote", TABLE, "s3://company/artifacts/checkpoints", "s3://company/mlflow")
    below = "company/artifacts/checkpoints"
    assert not allows(policy, "s3:DeleteObject", f"{below}/promotions/demo/1.json")
    assert not allows(policy, "s3:DeleteObject", f"{below}/artifacts/promote/1f/promotion.json")
    assert allows(policy, "s3:DeleteObject", f"{below}/artifacts/promote/1f/manifest.json")


def test_the_command_prints_policies() -> None:
    command = [sys.executable, "-m", "effir.cli", "policies"]
    done = subprocess.run([*command, "judge", "--store", "s3://b/p"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == roles.policies_of("judge", TABLE, "s3://b/p", "s3://mlflow")
    wrong = subprocess.run([*command, "jugde"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, f"effir: there is no role 'jugde': choose one of {', '.join(TABLE)}\n")


def test_the_stack_in_containers_is_told_the_same() -> None:
    found = json.loads((DAGS.parent / "docker" / "s3.json").read_text())
    assert found == roles.template(TABLE, access.STORE, access.REPORTS), "run make schema"
    runner = json.loads((DAGS.parent / "docker" / "runner.json").read_text())
    assert set(runner["roles"]) == {name for name, role in TABLE.items() if role["phases"]}


def test_every_address_is_an_arn_of_s3() -> None:
    for policy in roles.policies(TABLE, "s3://effir", "s3://mlflow").values():
        for statement in policy["Statement"]:
            assert all(re.fullmatch(r"arn:aws:s3:::(effir|mlflow)(/[^{}]+)?", one) for one in statement["Resource"])
    assert split("s3://effir/x") == ("effir", "x")


def test_credentials_come_from_the_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "judge.env"
    path.write_text("# judge\n\nAWS_ACCESS_KEY_ID=effir-judge\nAWS_SECRET_ACCESS_KEY=a=b c\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setenv(credentials.VARIABLE, str(path))
    credentials.load()
    assert access_of_environment() == ("effir-judge", "a=b c")
    path.write_text("AWS_ACCESS_KEY_ID=x\nhush-hush\n")
    with pytest.raises(BadInput, match=r"^line 2 of .*judge\.env is not of the form NAME=value$") as caught:
        credentials.load()
    assert "hush" not in str(caught.value)
    path.unlink()
    with pytest.raises(BadInput, match="which cannot be read: No such file or directory"):
        credentials.load()


def access_of_environment() -> tuple[str, str]:
    """The keys that boto3 finds."""
    found = boto3.Session().get_credentials()
    return found.access_key, found.secret_key
