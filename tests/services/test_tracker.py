import pytest
from mlflow.tracking import MlflowClient

from effir.services import tracker as module
from effir.services.mlflow_api import Api
from effir.services.tracker import Tracker, machine_load


def test_the_machine_is_sampled_under_mlflows_names(mlflow, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 0.05)
    client = MlflowClient(mlflow)
    run_id = client.create_run("0").info.run_id
    tracker = Tracker(Api(), run_id)
    while len([entry for entry in tracker._waiting if entry["key"] == "system/cpu_utilization_percentage"]) < 2:
        pass
    tracker.close("FINISHED")
    history = client.get_metric_history(run_id, "system/system_memory_usage_megabytes")
    assert [point.step for point in history][:2] == [0, 1]
    assert all(point.value > 0 for point in history)
    assert client.get_run(run_id).info.status == "FINISHED"


def test_metrics_wait_while_mlflow_is_away(mlflow, capsys):
    client = MlflowClient(mlflow)
    run_id = client.create_run("0").info.run_id
    api = Api()
    tracker = Tracker(api, run_id)
    api.address = "http://127.0.0.1:9"
    tracker.metric("loss", 2.0, 0)
    tracker.flush()
    tracker.metric("loss", 1.0, 1)
    tracker.flush()
    assert capsys.readouterr().err.count("not recorded in MLflow") == 1
    api.address = mlflow
    tracker.close("FINISHED")
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(0, 2.0), (1, 1.0)]


def test_a_phase_ends_even_if_mlflow_went_away(mlflow, capsys):
    api = Api()
    run_id = MlflowClient(mlflow).create_run("0").info.run_id
    tracker = Tracker(api, run_id)
    api.address = "http://127.0.0.1:9"
    tracker.close("FINISHED")
    assert "not reachable" in capsys.readouterr().err


def test_load_is_in_percent_and_megabytes():
    load = machine_load()
    assert 0 <= load["cpu_utilization_percentage"] <= 100
    assert 0 < load["system_memory_usage_percentage"] <= 100
    assert load["process_memory_usage_megabytes"] == pytest.approx(load["process_memory_usage_megabytes"], abs=0)
    assert load["process_memory_usage_megabytes"] < load["system_memory_usage_megabytes"] * 2
