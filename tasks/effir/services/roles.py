"""Who may read and write what in S3: the table dags/roles.json as policies of AWS' IAM, and as the embedded server's identities.

A pattern of the table is below the store, or below MLflow's artifacts where it starts with {reports}; {phase} stands for each of
the role's phases. Nothing that was written is ever removed but checkpoints, and the manifests of artifacts found damaged.
"""

import json
from pathlib import Path
from typing import Any

from effir.errors import BadInput

OPERATOR = "operator"
VERSION = "2012-10-17"
WRITE = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")


def table(dags: Path) -> dict[str, dict[str, Any]]:
    """Role → {about, phases, read, write, mlflow}. Raises BadInput where the folder of DAGs has no such file."""
    try:
        return json.loads((dags / "roles.json").read_text())
    except OSError:
        raise BadInput(f"there is no roles.json in {dags}: set EFFIR_DAGS to the folder of DAGs of this version") from None


def policies(roles: dict[str, dict[str, Any]], store: str, reports: str) -> dict[str, dict[str, Any]]:
    """Role → IAM policy. store, reports: s3:// addresses of the artifacts and of what MLflow keeps."""
    return {name: policy(role, store, reports) for name, role in roles.items()}


def policies_of(role: str, roles: dict[str, dict[str, Any]], store: str, reports: str) -> dict[str, Any]:
    """One role's policy, or every role's by its name where none is named. Raises BadInput where there is no such role."""
    if role and role not in roles:
        raise BadInput(f"there is no role {role!r}: choose one of {', '.join(roles)}")
    found = policies(roles, store, reports)
    return found[role] if role else found


def policy(role: dict[str, Any], store: str, reports: str) -> dict[str, Any]:
    """What a role may do, as a document that AWS and SeaweedFS read. It may list names, or S3 would refuse what is merely absent."""
    patterns = (role["read"], role["write"], [gone for each in role["write"] if (gone := _removed(each))])
    read, written, removed = ([one for each in some for one in _resources(each, role["phases"], store, reports)] for some in patterns)
    buckets = sorted({one.partition("/")[0] for one in read + written})
    statements = [("List", ["s3:ListBucket", "s3:GetBucketLocation"], buckets), ("Read", ["s3:GetObject"], read)]
    statements += [("Write", list(WRITE), written), ("Remove", ["s3:DeleteObject"], removed)]
    return {
        "Version": VERSION,
        "Statement": [
            {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{one}" for one in resources]}
            for name, actions, resources in statements
            if resources
        ],
    }


def _resources(pattern: str, phases: list[str], store: str, reports: str) -> list[str]:
    """bucket/key patterns that a pattern of the table stands for."""
    from effir.services.store import split

    root, below = (reports, pattern.removeprefix("{reports}/")) if pattern.startswith("{reports}/") else (store, pattern)
    bucket, key = split(root)
    whole = "/".join(filter(None, [bucket, key.rstrip("/"), below]))
    return [whole.replace("{phase}", phase) for phase in phases] if "{phase}" in whole else [whole]


def _removed(pattern: str) -> str:
    """Of what is written there, what may be removed; empty where that is nothing."""
    if pattern.startswith("checkpoints/"):
        return pattern
    return f"{pattern}/manifest.json" if pattern.startswith("artifacts/") else ""


def template(roles: dict[str, dict[str, Any]], store: str, reports: str) -> dict[str, Any]:
    """SeaweedFS' S3 configuration with @ROLE@ in place of each secret key; the operator's access key is `effir`, the others' effir-ROLE."""
    keys = {OPERATOR: ("effir", f"@{OPERATOR}@")} | {role: (f"effir-{role}", f"@{role}@") for role in roles}
    return identities(roles, keys, store, reports)


def identities(roles: dict[str, dict[str, Any]], keys: dict[str, tuple[str, str]], store: str, reports: str) -> dict[str, Any]:
    """SeaweedFS' S3 configuration. keys: role, `operator` among them → access key and secret key; the operator may do everything."""
    documents = policies(roles, store, reports)
    return {
        "identities": [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}]}
            | ({"actions": ["Admin"]} if name == OPERATOR else {"policyNames": [name]})
            for name, (key, secret) in keys.items()
        ],
        "policies": [{"name": name, "content": json.dumps(document)} for name, document in documents.items()],
    }
