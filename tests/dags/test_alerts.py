import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

RUN = "scheduled__2026-01-01T00:00:00+00:00"
SCRIPT = """
import alerts, io, logging, os
alerts.PAUSES = (0, 0, 0)
log = io.StringIO()
logging.getLogger().addHandler(logging.StreamHandler(log))
dag, address = bag.dags["effir_compress"], os.environ["ADDRESS"]

class Instance:
    def __init__(self, task_id, map_index, error):
        self.task_id, self.map_index, self.error = task_id, map_index, error

    def xcom_pull(self, *, task_ids, key, map_indexes):
        return self.error if (task_ids, key, map_indexes) == (self.task_id, "error", self.map_index) else None

def to(place, **settings):
    os.environ["AIRFLOW_CONN_EFFIR_ALERTS"] = json.dumps({"conn_type": "http", "host": place, **settings})

def fail(**more):
    alerts.failed({"dag": dag, "run_id": "r", "reason": "timed_out"} | more)

to(address + "/failed", extra={"X-Team": "search"})
fail(run_id=os.environ["RUN"], ti=Instance("encode", 3, {"sentence": "the disk is full: free 3 GB", "exit_code": 1}))
fail(ti=Instance("gate", -1, None))
fail()
to(address + "/late")
for state in ("running", "failed", "queued"):
    alerts.late({"dag_run": {"dag_id": "effir_compress_nightly", "dag_run_id": "r", "state": state}}, hours=6.0)
to(address + "/login", login="effir", password="word")
fail()
to(address + "/refused", password="/T0/hidden")
fail()
to(address + "/mended", password="/T0/hidden")
fail()
to("http://127.0.0.1:9", password="/T0/hidden")
fail()
del os.environ["AIRFLOW_CONN_EFFIR_ALERTS"]
fail()
print(json.dumps(log.getvalue()))
"""


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent; refuses /refused always and /mended the first time."""

    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.got.append({"path": self.path, "authorization": self.headers["Authorization"], "team": self.headers["X-Team"], **body})
        mended = self.path.startswith("/mended") and sum(one["path"] == self.path for one in self.got) > 1
        self.send_response(503 if self.path.startswith(("/refused", "/mended")) and not mended else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def told(parse_dags: Callable[..., Any]) -> tuple[list[dict[str, Any]], str]:
    """What a webhook on loopback was sent, and what stood in the log."""
    Hook.got = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        log = parse_dags(SCRIPT, ADDRESS=address, RUN=RUN, EFFIR_AIRFLOW_URL="https://airflow.example/")
        server.shutdown()
    return Hook.got, log


def at(told: tuple[list[dict[str, Any]], str], path: str) -> list[dict[str, Any]]:
    return [one for one in told[0] if one["path"].startswith(path)]


def test_a_failed_run_is_told_with_task_sentence_and_page(told: Any) -> None:
    first, second, third = at(told, "/failed")
    assert (first["event"], first["dag_id"], first["run_id"], first["task"]) == ("run_failed", "effir_compress", RUN, "encode 3")
    assert first["error"] == "the disk is full: free 3 GB"
    assert first["url"] == "https://airflow.example/dags/effir_compress/runs/scheduled__2026-01-01T00%3A00%3A00%2B00%3A00"
    assert all(first[name] in first["text"] for name in ("dag_id", "run_id", "task", "error", "url"))
    assert (second["task"], second["error"]) == ("gate", "its log says why")
    assert (third["task"], third["error"]) == (None, "timed_out")
    assert {one["team"] for one in (first, second, third)} == {"search"}


def test_a_late_run_is_told_unless_it_has_failed(told: Any) -> None:
    running, queued = at(told, "/late")
    assert (running["event"], running["dag_id"], running["run_id"]) == ("deadline_missed", "effir_compress_nightly", "r")
    assert "6 hours" in running["error"]
    assert queued == running


def test_login_and_password_are_sent_as_such(told: Any) -> None:
    (one,) = at(told, "/login")
    assert (one["path"], one["authorization"]) == ("/login", "Basic ZWZmaXI6d29yZA==")


def test_an_alert_is_tried_three_times(told: Any) -> None:
    assert [one["path"] for one in at(told, "/refused")] == ["/refused/T0/hidden"] * 3
    assert [one["path"] for one in at(told, "/mended")] == ["/mended/T0/hidden"] * 2


def test_the_log_tells_every_alert_and_no_secret(told: Any) -> None:
    log = told[1]
    assert log.count("run failed: effir_compress, run r: timed_out") == 6
    assert log.count("deadline missed: effir_compress_nightly, run r") == 2
    assert log.count("effir_alerts did not take the alert (HTTPError)") == 1
    assert log.count("effir_alerts did not take the alert (ConnectionError)") == 1
    assert "hidden" not in log
