"""MLflow: runs that record what happened, and the registry in which a champion is crowned.

A parent run for each DAG run (tag effir.dag_run_id) and a child for each phase that computes. A model version refers to
its S3 folder and carries the digest and the manifest's URI as tags (effir.digest, effir.manifest).
"""

import json
import mimetypes
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effir.errors import BadInput, Stopped
from effir.manifest import MANIFEST, digest_of
from effir.services.mlflow_api import Api, Refused
from effir.services.store import Store, plain_errors, split
from effir.services.tracker import Tracker
from effir.spec import RunSpec

MODEL_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
LONGEST_DESCRIPTION = 4900


# Runs


def begin_run(run: dict[str, Any], spec: RunSpec) -> str:
    """The MLflow parent run of a DAG run, made on the first call for its id; returns the MLflow run id."""
    api = Api()
    experiment = _experiment(api, f"effir/{spec.name}")
    quote = '"' if "'" in str(run["id"]) else "'"
    ours = f"tags.`effir.dag_run_id` = {quote}{run['id']}{quote} AND tags.`effir.role` = 'run'"
    found = api.post("runs/search", experiment_ids=[experiment], filter=ours, max_results=1).get("runs")
    if found:
        run_id = found[0]["info"]["run_id"]
        api.post("runs/update", run_id=run_id, status="RUNNING")
        return run_id
    tags = {
        "effir.role": "run",
        "effir.dag_run_id": run["id"],
        "effir.spec_digest": digest_of(spec.model_dump()),
        "effir.airflow_url": run.get("airflow_url"),
    }
    run_id = _create_run(api, experiment, str(run["id"]), tags)
    params = [{"key": key, "value": str(value)} for key, value in spec.model_dump().items()]
    for start in range(0, len(params), 100):
        api.post("runs/log-batch", run_id=run_id, params=params[start : start + 100])
    return run_id


@contextmanager
def phase_run(run: dict[str, Any], name: str, arguments: dict[str, Any]) -> Iterator[Tracker | None]:
    """A child run while a phase computes: FINISHED, FAILED on an exception, KILLED when stopped. None without a parent run."""
    parent = run.get("mlflow_run_id")
    if not parent:
        yield None
        return
    api = Api()
    experiment = api.get("runs/get", run_id=parent)["run"]["info"]["experiment_id"]
    parts = [str(arguments[key]) for key in ("arm", "seed", "model", "collection", "shard") if key in arguments]
    tags = {"mlflow.parentRunId": parent, "effir.role": "phase", "effir.phase": name, "effir.dag_run_id": run.get("id")}
    tracker = Tracker(api, _create_run(api, experiment, " ".join([name, *parts]), tags))
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def finish_run(run_id: str, tags: dict[str, Any] | None = None, metrics: dict[str, float] | None = None) -> None:
    """End a run as FINISHED, with last tags and metrics."""
    api = Api()
    now = int(time.time() * 1000)
    numbers = [{"key": key, "value": value, "timestamp": now, "step": 0} for key, value in (metrics or {}).items()]
    api.post("runs/log-batch", run_id=run_id, tags=_tags(tags or {}), metrics=numbers)
    api.post("runs/update", run_id=run_id, status="FINISHED", end_time=now)


def log_artifact(run_id: str, path: Path, store: Store) -> str:
    """Put a file among a run's artifacts; straight to S3 where the run's artifacts lie there. Returns its URI."""
    target = f"{Api().get('runs/get', run_id=run_id)['run']['info']['artifact_uri']}/{path.name}"
    if target.startswith("s3://") and os.environ.get("MLFLOW_S3_ENDPOINT_URL") in {None, os.environ.get("AWS_ENDPOINT_URL_S3")}:
        bucket, key = split(target)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        with plain_errors(target):
            store.client.upload_file(str(path), bucket, key, ExtraArgs={"ContentType": kind})
    else:
        from mlflow.tracking import MlflowClient

        MlflowClient().log_artifact(run_id, str(path))
    return target


def run_address(run_id: str | None) -> str | None:
    """Page of a run in MLflow's user interface."""
    if not run_id:
        return None
    api = Api()
    experiment = api.get("runs/get", run_id=run_id)["run"]["info"]["experiment_id"]
    return f"{api.address}/#/experiments/{experiment}/runs/{run_id}"


def log_datasets(run_id: str, parts: dict[str, str]) -> None:
    """Name the data of a run: part name → manifest URI, as prepare gives them (the base model is none)."""
    inputs = []
    for name, uri in parts.items():
        if name == "base":
            continue
        use = name if name in {"training", "calibration"} else "evaluation"
        dataset = {"name": name, "digest": uri.rsplit("/", 2)[1][:32], "source_type": "s3", "source": json.dumps({"uri": uri})}
        inputs.append({"tags": [{"key": "mlflow.data.context", "value": use}], "dataset": dataset})
    Api().post("runs/log-inputs", run_id=run_id, datasets=inputs)


# Models


def champion(name: str) -> dict[str, Any] | None:
    """The crowned version: {version, source, manifest, digest}, or None while there is none."""
    return by_alias(name, "champion")


def by_alias(name: str, alias: str) -> dict[str, Any] | None:
    """The version that bears an alias: {version, source, manifest, digest}, or None."""
    try:
        return _version(Api().get("registered-models/alias", name=name, alias=alias)["model_version"])
    except Refused as refusal:
        if refusal.code in ABSENT:
            return None
        raise


def register(name: str, source: str, *, run_id: str | None, digest: str, manifest: str, description: str, tags: dict[str, Any]) -> str:
    """Version of the registered model `name` that refers to the S3 folder `source`; nothing is uploaded.

    The version that already has this digest is brought up to date and reused. Returns the version.
    """
    api = Api()
    tags = tags | {"effir.digest": digest, "effir.manifest": manifest}
    description = description if len(description) <= LONGEST_DESCRIPTION else description[:LONGEST_DESCRIPTION] + "\n…"
    try:
        api.post("registered-models/create", name=name)
    except Refused as refusal:
        if refusal.code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = api.get("model-versions/search", filter=f"name = '{name}' AND tags.`effir.digest` = '{digest}'").get("model_versions")
    if not found:
        more = {"run_id": run_id} if run_id else {}
        made = api.post("model-versions/create", name=name, source=source, description=description, tags=_tags(tags), **more)
        return str(made["model_version"]["version"])
    version = max((str(one["version"]) for one in found), key=int)
    api.patch("model-versions/update", name=name, version=version, description=description)
    for tag in _tags(tags):
        api.post("model-versions/set-tag", name=name, version=version, **tag)
    return version


def crown(name: str, version: str) -> None:
    """Make a version the champion with one call; the one before becomes `previous` first, so that there always is a champion."""
    before = champion(name)
    if before and before["version"] == version:
        return
    if before:
        _alias(name, "previous", before["version"])
    _alias(name, "champion", version)


def challenger(name: str, version: str) -> None:
    """Give a version the alias `challenger`."""
    _alias(name, "challenger", version)


def aliases(name: str, version: str) -> list[str]:
    """The aliases that a version bears, sorted."""
    return sorted(Api().get("model-versions/get", name=name, version=version)["model_version"].get("aliases", []))


def download_model(uri: str, folder: Path) -> Path:
    """Copy a registered model (models:/NAME@ALIAS or models:/NAME/VERSION) into a folder.

    Returns the folder that AutoModel loads: `model/` inside for a model that effir exported. Raises BadInput if there is no such model.
    """
    version = find_model(uri)
    source = version["source"]
    if not source.startswith("s3://"):
        from mlflow.artifacts import download_artifacts

        download_artifacts(uri, dst_path=str(folder))
    elif version["manifest"] == f"{source.rstrip('/')}/{MANIFEST}":
        store = Store()
        store.download(source, store.manifest(version["manifest"]).files, folder)
    else:
        Store().download_prefix(source, folder)
    return folder / "model" if (folder / "model" / "config.json").is_file() else folder


def find_model(uri: str) -> dict[str, Any]:
    """{version, source, manifest, digest} of a models:/ URI. Raises BadInput if it does not parse or names nothing."""
    parsed = MODEL_URI.match(uri)
    if not parsed:
        raise BadInput(f"{uri!r} is not a model address: write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = parsed["name"], parsed["alias"], parsed["version"]
    try:
        if alias:
            return _version(Api().get("registered-models/alias", name=name, alias=alias)["model_version"])
        return _version(Api().get("model-versions/get", name=name, version=version)["model_version"])
    except Refused as refusal:
        if refusal.code in ABSENT:
            raise BadInput(f"MLflow has no model {uri}: check its name and {'alias' if alias else 'version'}") from None
        raise


def _version(found: dict[str, Any]) -> dict[str, Any]:
    tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    return {
        "version": str(found["version"]),
        "source": found["source"],
        "manifest": tags.get("effir.manifest"),
        "digest": tags.get("effir.digest"),
    }


def _alias(name: str, alias: str, version: str) -> None:
    Api().post("registered-models/alias", name=name, alias=alias, version=version)


def _experiment(api: Api, name: str) -> str:
    try:
        return api.post("experiments/create", name=name)["experiment_id"]
    except Refused as refusal:
        if refusal.code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = api.get("experiments/get-by-name", experiment_name=name)["experiment"]
    if found.get("lifecycle_stage") == "deleted":
        raise BadInput(f"the MLflow experiment {name} was deleted: restore it (`mlflow experiments restore`), or choose another name")
    return found["experiment_id"]


def _create_run(api: Api, experiment: str, name: str, tags: dict[str, Any]) -> str:
    begun = api.post("runs/create", experiment_id=experiment, run_name=name, start_time=int(time.time() * 1000), tags=_tags(tags))
    return begun["run"]["info"]["run_id"]


def _tags(values: dict[str, Any]) -> list[dict[str, str]]:
    return [{"key": key, "value": str(value)} for key, value in values.items() if value is not None]
