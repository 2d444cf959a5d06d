"""The example of docs/examples, against a real server on loopback."""

import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples"
TELL = """
import os
sys.path.insert(0, os.environ["EXAMPLE"])
import on_champion
from airflow.serialization.serialized_objects import DagSerialization
made = on_champion.on_champion()
stored = DagSerialization.from_dict(DagSerialization.to_dict(made)).timetable
event = types.SimpleNamespace(extra={"name": "search", "version": "3", "aliases": ["champion"]})
made.get_task("tell").python_callable({"asset": [event, event]})
print(json.dumps([one.name for one in stored.asset_condition.objects]))
"""


def test_every_new_champion_is_told_of(in_airflow: Callable[..., Any]) -> None:
    told: list[Any] = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = {"conn_type": "http", "host": f"http://127.0.0.1:{server.server_port}"}
        assert in_airflow(TELL, EXAMPLE=str(EXAMPLE), AIRFLOW_CONN_ON_CHAMPION=json.dumps(connection)) == ["effir/champion"]
        server.shutdown()
    assert told == [{"name": "search", "version": "3", "aliases": ["champion"]}] * 2
