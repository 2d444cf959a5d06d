import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient

from effir.errors import BadInput, EffirError, Stopped
from effir.manifest import MANIFEST, Manifest
from effir.services import registry
from effir.services.store import Store
from effir.spec import RunSpec


@pytest.fixture
def client(mlflow) -> MlflowClient:
    """MLflow's own client, the second opinion on what was written."""
    return MlflowClient(mlflow)


@pytest.fixture
def name(request) -> str:
    """A registered model and experiment of its own for every test."""
    return f"model-{abs(hash(request.node.nodeid)):x}"


def begun(name: str, run_id: str = "manual__2026-01-01") -> dict:
    run = {"id": run_id, "airflow_url": "http://127.0.0.1:8080/run"}
    return run | {"mlflow_run_id": registry.begin_run(run, RunSpec(name=name))}


def published(store: Store, folder: Path, digest: str) -> tuple[str, str]:
    """An artifact that looks like an exported model: (folder URI, manifest URI)."""
    (folder / "model").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "model" / "config.json").write_text(json.dumps({"digest": digest}))
    manifest = Manifest(phase="finetune", digest=digest, key={}, files={}, numbers={}, seconds=1, forward_passes=0, created="now")
    store.publish(manifest, folder)
    uri = store.artifact("finetune", digest)
    return uri, f"{uri}/{MANIFEST}"


def registered(name: str, digest: str, store: Store, folder: Path, run_id: str | None = None) -> str:
    source, manifest = published(store, folder, digest)
    return registry.register(
        name, source, run_id=run_id, digest=digest, manifest=manifest, description="why", tags={"effir.verdict": "promoted"}
    )


def test_one_parent_run_a_dag_run_with_the_spec_as_params(client, name):
    run = begun(name)
    assert begun(name)["mlflow_run_id"] == run["mlflow_run_id"]
    assert begun(name, "manual__another")["mlflow_run_id"] != run["mlflow_run_id"]
    found = client.get_run(run["mlflow_run_id"])
    experiment = client.get_experiment(found.info.experiment_id)
    assert experiment.name == f"effir/{name}"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    spec = RunSpec(name=name)
    assert found.info.run_name == f"{spec.cut_name()} of smollm2-135m-instruct manual__2026-01-01"
    assert (found.data.tags["effir.base"], found.data.tags["effir.cut"]) == (spec.base_model, spec.cut_name())
    assert found.data.params == {key: str(value) for key, value in RunSpec(name=name).model_dump().items()}
    assert found.data.tags["effir.dag_run_id"] == "manual__2026-01-01"
    assert found.data.tags["effir.airflow_url"] == "http://127.0.0.1:8080/run"
    assert found.info.status == "RUNNING"


def test_a_child_run_a_phase_with_every_step(client, name):
    run = begun(name)
    with registry.phase_run(run, "encode", {"model": "candidate", "collection": "code", "shard": 0}) as tracker:
        for step in range(2500):
            tracker.metric("loss", 1 / (step + 1), step)
        tracker.metric("odd", math.nan)
    child = client.get_run(tracker.run_id)
    assert child.info.run_name == "encode candidate code 0"
    assert (child.info.status, child.data.tags["mlflow.parentRunId"]) == ("FINISHED", run["mlflow_run_id"])
    assert child.data.tags["effir.phase"] == "encode"
    history = client.get_metric_history(tracker.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(step, 1 / (step + 1)) for step in range(2500)]
    assert math.isnan(child.data.metrics["odd"])


@pytest.mark.parametrize(("error", "status"), [(BadInput("no"), "FAILED"), (RuntimeError("no"), "FAILED"), (Stopped("later"), "KILLED")])
def test_a_phase_that_fails_says_so_and_keeps_its_numbers(client, name, error, status):
    run = begun(name)
    trackers = []

    def phase() -> None:
        with registry.phase_run(run, "slim", {}) as tracker:
            trackers.append(tracker)
            tracker.metric("loss", 0.5)
            raise error

    with pytest.raises(type(error)):
        phase()
    child = client.get_run(trackers[0].run_id)
    assert (child.info.status, child.data.metrics["loss"]) == (status, 0.5)


def test_a_phase_that_was_killed_does_not_run_for_ever(client, name):
    run = begun(name)

    def status(run_id: str) -> str:
        return client.get_run(run_id).info.status

    def left_behind(phase: str) -> str:
        with registry.phase_run(run, phase, {"model": "candidate"}) as tracker:
            pass
        client.update_run(tracker.run_id, "RUNNING")
        return tracker.run_id

    lost, other = left_behind("finetune"), left_behind("encode")
    with registry.phase_run(run, "finetune", {"model": "candidate"}) as tracker:
        assert (status(lost), status(other), status(tracker.run_id)) == ("KILLED", "RUNNING", "RUNNING")
    with registry.phase_run(run, "report", {}) as report:
        registry.finish_run(run["mlflow_run_id"], by=report.run_id)
        assert (status(other), status(report.run_id), status(run["mlflow_run_id"])) == ("KILLED", "RUNNING", "FINISHED")
    assert (status(tracker.run_id), client.get_run(lost).info.end_time > 0) == ("FINISHED", True)


def test_without_a_parent_run_nothing_is_recorded(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with registry.phase_run({"id": "x", "mlflow_run_id": None}, "slim", {}) as tracker:
        assert tracker is None


def test_the_parent_run_ends_with_tags_metrics_data_and_report(client, name, store, tmp_path):
    run_id = begun(name)["mlflow_run_id"]
    page = tmp_path / "report.html"
    page.write_text("<p>done</p>")
    uri = registry.log_artifact(run_id, page, store)
    registry.log_datasets(run_id, {"base": "s3://e/a/base/0/manifest.json", "training": f"s3://e/a/training/{'7' * 64}/manifest.json"})
    registry.finish_run(run_id, {"effir.verdict": "promoted"}, {"code/ndcg_at_10": 0.31})
    found = client.get_run(run_id)
    assert (found.info.status, found.data.tags["effir.verdict"], found.data.metrics) == ("FINISHED", "promoted", {"code/ndcg_at_10": 0.31})
    assert Path(download_artifacts(f"runs:/{run_id}/report.html", dst_path=str(tmp_path / "back"))).read_text() == "<p>done</p>"
    assert store.get_bytes(uri) == b"<p>done</p>"
    assert [(one.dataset.name, one.dataset.digest, one.tags[0].value) for one in found.inputs.dataset_inputs] == [
        ("training", "7" * 32, "training")
    ]
    assert registry.run_address(run_id).endswith(f"/#/experiments/{found.info.experiment_id}/runs/{run_id}")


def test_a_version_refers_to_its_folder(client, name, store, tmp_path):
    run_id = begun(name)["mlflow_run_id"]
    version = registered(name, "a" * 64, store, tmp_path / "a", run_id)
    found = client.get_model_version(name, version)
    assert (found.version, found.source, found.run_id) == (version, store.artifact("finetune", "a" * 64), run_id)
    assert (found.description, found.tags["effir.verdict"], found.tags["effir.digest"]) == ("why", "promoted", "a" * 64)


def test_a_digest_is_registered_once_and_brought_up_to_date(client, name, store, tmp_path):
    first = registered(name, "a" * 64, store, tmp_path / "a")
    second = registered(name, "b" * 64, store, tmp_path / "b")
    source = store.artifact("finetune", "a" * 64)
    again = registry.register(
        name,
        source,
        run_id=None,
        digest="a" * 64,
        manifest=f"{source}/{MANIFEST}",
        description="x" * 9000,
        tags={"effir.verdict": "rejected"},
    )
    assert (first, second, again) == ("1", "2", "1")
    found = client.get_model_version(name, "1")
    assert found.tags["effir.verdict"] == "rejected"
    assert 4000 < len(found.description) < 5000


def test_aliases_point_at_versions_and_away_again(client, name, store, tmp_path):
    assert (registry.aliases(name), registry.by_alias(name, "champion")) == ({}, None)
    for digest in "ab":
        registered(name, digest * 64, store, tmp_path / digest)
    registry.point(name, "champion", "1")
    registry.point(name, "champion", "2")
    registry.point(name, "previous", "1")
    assert dict(client.get_registered_model(name).aliases) == registry.aliases(name) == {"champion": "2", "previous": "1"}
    registry.unpoint(name, "previous")
    assert dict(client.get_registered_model(name).aliases) == {"champion": "2"}
    source = store.artifact("finetune", "b" * 64)
    found = {"version": "2", "source": source, "manifest": f"{source}/{MANIFEST}", "digest": "b" * 64, "files": None}
    assert registry.by_alias(name, "champion") == found
    registry.tag(name, "2", "effir.files", "f" * 64)
    assert registry.by_alias(name, "champion") == found | {"files": "f" * 64}
    assert [registry.has_version(name, one) for one in ("2", "3")] == [True, False]


def test_many_may_move_an_alias_at_once(client, name, store, tmp_path):
    for digest in "ab":
        registered(name, digest * 64, store, tmp_path / digest)

    def move(number: int) -> None:
        for turn in range(10):
            registry.unpoint(name, "previous") if (turn + number) % 3 else registry.point(name, "previous", str(1 + number % 2))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(move, range(8)))
    registry.point(name, "previous", "1")
    assert dict(client.get_registered_model(name).aliases) == {"previous": "1"}


def test_a_registered_model_comes_back_as_the_folder_that_loads(mlflow, name, store, tmp_path):
    registered(name, "a" * 64, store, tmp_path / "a")
    registry.point(name, "champion", "1")
    by_alias = registry.download_model(f"models:/{name}@champion", tmp_path / "x")
    by_version = registry.download_model(f"models:/{name}/1", tmp_path / "y")
    assert by_alias == tmp_path / "x" / "model"
    assert (by_version / "config.json").read_text() == (by_alias / "config.json").read_text() == json.dumps({"digest": "a" * 64})


def test_a_damaged_registered_model_is_refused(mlflow, name, store, tmp_path):
    registered(name, "a" * 64, store, tmp_path / "a")
    bucket, key = store.artifact("finetune", "a" * 64).removeprefix("s3://").split("/", 1)
    store.client.put_object(Bucket=bucket, Key=f"{key}/model/config.json", Body=b"{}")
    with pytest.raises(EffirError, match="damaged"):
        registry.download_model(f"models:/{name}/1", tmp_path / "x")


@pytest.mark.parametrize("tag", ["effir.digest", "effir.manifest"])
def test_a_version_whose_files_are_another_artifact_s_is_refused(client, name, store, tmp_path, tag):
    registered(name, "a" * 64, store, tmp_path / "a")
    _, other = published(store, tmp_path / "b", "b" * 64)
    client.set_model_version_tag(name, "1", tag, "b" * 64 if tag == "effir.digest" else other)
    with pytest.raises(BadInput, match=r"its files at .* are another artifact's"):
        registry.download_model(f"models:/{name}/1", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_model_whose_manifest_was_exchanged_is_refused(mlflow, name, store, tmp_path):
    registered(name, "a" * 64, store, tmp_path / "a")
    registry.tag(name, "1", "effir.files", "f" * 64)
    with pytest.raises(EffirError, match="is not what was registered"):
        registry.download_model(f"models:/{name}/1", tmp_path / "x")


def test_a_model_that_others_registered_can_be_a_base(client, name, store, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    store.upload(tmp_path / "a", f"{store.root}/foreign")
    client.create_registered_model(name)
    client.create_model_version(name, f"{store.root}/foreign")
    assert registry.download_model(f"models:/{name}/1", tmp_path / "x") == tmp_path / "x"
    assert (tmp_path / "x" / "config.json").is_file()


@pytest.mark.parametrize("uri", ["models:/{}@champion", "models:/{}/7", "models:/absent@champion", "models:/{}", "models:/{}/latest"])
def test_a_model_that_is_not_there_is_bad_input(mlflow, name, store, tmp_path, uri):
    registered(name, "a" * 64, store, tmp_path / "a")
    with pytest.raises(BadInput, match="model"):
        registry.download_model(uri.format(name), tmp_path / "x")
