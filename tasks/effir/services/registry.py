"""MLflow: runs that record what happened, and the registry of models. Who is champion, promotions.py decides.

A parent run for each DAG run (tag effir.dag_run_id) and a child for each phase that computes. A model version refers to its S3 folder and
carries as tags the digest, the manifest's URI and the digest of the files' contents (effir.digest, effir.manifest, effir.files).
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

from effir.errors import BadInput, EffirError, Stopped
from effir.manifest import MANIFEST, content_of, digest_of
from effir.names import check_name, check_run_id
from effir.services.mlflow_api import Api, Denied, Refused
from effir.services.store import Store, plain_errors, split
from effir.services.tracker import Tracker
from effir.spec import RunSpec

MODEL_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
LONGEST_DESCRIPTION = 4900
LONGEST_PARAMETER = 5000
EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages open on runs and metrics, not on traces


# Runs


def begin_run(run: dict[str, Any], spec: RunSpec) -> str:
    """The MLflow parent run of a DAG run, made on the first call for its id; returns the MLflow run id."""
    api = Api()
    experiment = _experiment(api, f"effir/{spec.name}")
    ours = f"tags.`effir.dag_run_id` = '{check_run_id(run['id'])}' AND tags.`effir.role` = 'run'"
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
        "effir.base": spec.base_model,
        "effir.cut": spec.cut_name(),
        "mlflow.user": run.get("by"),
    }
    run_id = _create_run(api, experiment, f"{spec.cut_name()} of {spec.base_model.rstrip('/').rpartition('/')[2]} {run['id']}", tags)
    _log_params(api, run_id, spec.model_dump())
    return run_id


def _log_params(api: Api, run_id: str, values: dict[str, Any]) -> None:
    params = [{"key": key, "value": str(value)[:LONGEST_PARAMETER]} for key, value in values.items()]
    for start in range(0, len(params), 100):
        api.post("runs/log-batch", run_id=run_id, params=params[start : start + 100])


@contextmanager
def phase_run(
    run: dict[str, Any], name: str, arguments: dict[str, Any], params: dict[str, Any] | None = None, artifact: str | None = None
) -> Iterator[Tracker | None]:
    """A child run while a phase computes: FINISHED, FAILED on an exception, KILLED when stopped. None without a parent run.

    params: what decides the phase's result; artifact: where that will lie.
    A run that an earlier try left behind, because it was killed before it could say so, becomes KILLED.
    """
    parent = run.get("mlflow_run_id")
    if not parent:
        yield None
        return
    api = Api()
    experiment = api.get("runs/get", run_id=parent)["run"]["info"]["experiment_id"]
    parts = [str(arguments[key]) for key in ("arm", "seed", "model", "collection", "shard") if key in arguments]
    tags = {"mlflow.parentRunId": parent, "effir.role": "phase", "effir.phase": name, "effir.dag_run_id": run.get("id")}
    called = " ".join([name, *parts])
    _end_lost(api, experiment, parent, called=called)
    tracker = Tracker(api, _create_run(api, experiment, called, tags | {"effir.artifact": artifact}))
    _log_params(api, tracker.run_id, params or {})
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def finish_run(run_id: str, tags: dict[str, Any] | None = None, metrics: dict[str, float] | None = None, by: str | None = None) -> None:
    """End a run as FINISHED, with last tags and metrics. What still counts as running below it, other than the run `by`, was killed."""
    api = Api()
    _end_lost(api, api.get("runs/get", run_id=run_id)["run"]["info"]["experiment_id"], run_id, but=by)
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
    """Page of a run in MLflow's user interface; EFFIR_MLFLOW_URL is where people find it, if not where phases do."""
    if not run_id:
        return None
    api = Api()
    experiment = api.get("runs/get", run_id=run_id)["run"]["info"]["experiment_id"]
    shown = os.environ.get("EFFIR_MLFLOW_URL", "").rstrip("/") or api.address
    return f"{shown}/#/experiments/{experiment}/runs/{run_id}"


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


def by_alias(name: str, alias: str) -> dict[str, Any] | None:
    """The version that bears an alias: {version, source, manifest, digest, files}, or None."""
    return _read_version(name, alias=alias)


def every_version() -> dict[str, list[dict[str, Any]]]:
    """Every registered model with all of its versions: name → [{version, source, manifest, digest, files, card, made}].

    card: address of its card; made: addresses of what chose its cut. Empty where nobody said.
    """
    api = Api()
    found: dict[str, list[dict[str, Any]]] = {one["name"]: [] for one in _pages(api, "registered-models/search", "registered_models")}
    for one in _pages(api, "model-versions/search", "model_versions"):
        found.setdefault(one["name"], []).append(_version(one) | _beside(one))
    return found


def register(name: str, source: str, *, run_id: str | None, digest: str, manifest: str, description: str, tags: dict[str, Any]) -> str:
    """Version of the registered model `name` that refers to the S3 folder `source`; nothing is uploaded.

    The version that already has this digest is brought up to date and reused. Returns the version.
    """
    check_name(name, "the name of the registered model")
    check_name(digest, "the digest of the candidate")
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


def aliases(name: str) -> dict[str, str]:
    """Alias → version of a registered model; empty where there is no such model."""
    try:
        found = Api().get("registered-models/get", name=name)["registered_model"].get("aliases", [])
    except Refused as refusal:
        if refusal.code in ABSENT:
            return {}
        raise
    return {one["alias"]: str(one["version"]) for one in found}


def point(name: str, alias: str, version: str) -> None:
    """Have an alias name this version."""
    Api().post("registered-models/alias", name=name, alias=alias, version=version)


def unpoint(name: str, alias: str) -> None:
    """Take an alias away."""
    Api().delete("registered-models/alias", name=name, alias=alias)


def tag(name: str, version: str, key: str, value: str) -> None:
    """Set a tag of a version."""
    Api().post("model-versions/set-tag", name=name, version=version, key=key, value=value)


def has_version(name: str, version: str) -> bool:
    """Whether there is such a version."""
    return _read_version(name, version=version) is not None


def download_model(uri: str, folder: Path) -> Path:
    """Copy a registered model (models:/NAME@ALIAS or models:/NAME/VERSION) into a folder.

    Returns the folder that AutoModel loads: `model/` inside for a model that effir exported. Raises BadInput if there is no such model.
    """
    version = find_model(uri)
    source = version["source"]
    if not source.startswith("s3://"):
        from mlflow.artifacts import download_artifacts

        download_artifacts(uri, dst_path=str(folder))
    elif version["manifest"]:
        _download_artifact(uri, version, folder)
    else:
        Store().download_prefix(source, folder)
    return folder / "model" if (folder / "model" / "config.json").is_file() else folder


def local_folder(model: str, folder: Path) -> Path:
    """A model's folder: a local one as it is, a registered one (models:/…) copied into `folder`. Raises BadInput if there is none."""
    if model.startswith("models:/"):
        return download_model(model, folder)
    if not Path(model).is_dir():
        raise BadInput(f"{model} is no folder: name a folder with an exported model, models:/NAME@ALIAS or models:/NAME/VERSION")
    return Path(model)


def _download_artifact(uri: str, version: dict[str, Any], folder: Path) -> None:
    """Copy an artifact that was registered, every byte as its manifest has it, which must be the one that was registered."""
    source, store = version["source"].rstrip("/"), Store()
    manifest = store.manifest(f"{source}/{MANIFEST}")
    if version["manifest"] != f"{source}/{MANIFEST}" or version["digest"] != manifest.digest:
        raise BadInput(
            f"{uri} was registered as {version['digest']}, and its files at {source} are another artifact's: register it again, or choose "
            "another version"
        )
    if version["files"] not in (None, content_of(manifest.files)):
        raise EffirError(f"{uri} is not what was registered: its manifest {version['manifest']} describes other files")
    store.download(source, manifest.files, folder)


def find_model(uri: str) -> dict[str, Any]:
    """{version, source, manifest, digest, files} of a models:/ URI. Raises BadInput if it does not parse or names nothing."""
    parsed = MODEL_URI.match(uri)
    if not parsed:
        raise BadInput(f"{uri!r} is not a model address: write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = parsed["name"], parsed["alias"], parsed["version"]
    if found := _read_version(name, **({"alias": alias} if alias else {"version": version})):
        return found
    raise BadInput(f"MLflow has no model {uri}: check its name and {'alias' if alias else 'version'}")


def _read_version(name: str, **which: str) -> dict[str, Any] | None:
    """The version of a model with this alias or number, or None."""
    api = Api()
    try:
        return _version(
            api.get("registered-models/alias" if "alias" in which else "model-versions/get", name=name, **which)["model_version"]
        )
    except Refused as refusal:
        if refusal.code not in ABSENT:
            raise
    except Denied:
        if _exists(api, name):
            raise
    return None


def _exists(api: Api, name: str) -> bool:
    try:
        return bool(api.get("registered-models/get", name=name))
    except Refused as refusal:
        if refusal.code in ABSENT:
            return False
        raise


def _pages(api: Api, path: str, name: str) -> Iterator[dict[str, Any]]:
    token: str | None = ""
    while token is not None:
        page = api.get(path, max_results=200, **({"page_token": token} if token else {}))
        yield from page.get(name, [])
        token = page.get("next_page_token") or None


def _beside(found: dict[str, Any]) -> dict[str, Any]:
    tags = _read_tags(found)
    return {"card": tags.get("effir.card"), "made": [value for key, value in sorted(tags.items()) if key.startswith("effir.made.")]}


def _read_tags(found: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in found.get("tags", [])}


def _version(found: dict[str, Any]) -> dict[str, Any]:
    tags = _read_tags(found)
    return {
        "version": str(found["version"]),
        "source": found["source"],
        "manifest": tags.get("effir.manifest"),
        "digest": tags.get("effir.digest"),
        "files": tags.get("effir.files"),
    }


def _experiment(api: Api, name: str) -> str:
    try:
        return api.post("experiments/create", name=name, tags=_tags(EXPERIMENT))["experiment_id"]
    except Refused as refusal:
        if refusal.code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = api.get("experiments/get-by-name", experiment_name=name)["experiment"]
    if found.get("lifecycle_stage") == "deleted":
        raise BadInput(f"the MLflow experiment {name} was deleted: restore it (`mlflow experiments restore`), or choose another name")
    return found["experiment_id"]


def _end_lost(api: Api, experiment: str, parent: str, *, called: str | None = None, but: str | None = None) -> None:
    """Mark phases KILLED that cannot say so themselves: those running below a run, of a name or of any, but one."""
    ours = f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'RUNNING'"
    for run in api.post("runs/search", experiment_ids=[experiment], filter=ours, max_results=1000).get("runs", []):
        info = run["info"]
        if info["run_id"] != but and called in (None, info["run_name"]):
            api.post("runs/update", run_id=info["run_id"], status="KILLED", end_time=int(time.time() * 1000))


def _create_run(api: Api, experiment: str, name: str, tags: dict[str, Any]) -> str:
    begun = api.post("runs/create", experiment_id=experiment, run_name=name, start_time=int(time.time() * 1000), tags=_tags(tags))
    return begun["run"]["info"]["run_id"]


def _tags(values: dict[str, Any]) -> list[dict[str, str]]:
    return [{"key": key, "value": str(value)} for key, value in values.items() if value is not None]
