import http.server
import threading
import time

import pytest

from effir.errors import BadInput, EffirError
from effir.services.mlflow_api import Api, Refused


@pytest.fixture
def answering():
    """An HTTP server that gives the answers it is told, in order, and remembers what it was asked."""
    answers: list[tuple[int, bytes]] = []
    asked: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0)
            asked.append(dict(self.headers))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers, asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("address", ["", "sqlite:///mlflow.db", "127.0.0.1:5000"])
def test_an_address_that_is_none_is_bad_input(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI must be the http address"):
        Api()


def test_nobody_there_is_found_out_quickly():
    began = time.monotonic()
    with pytest.raises(EffirError, match=r"MLflow at http://127.0.0.1:9 is not reachable") as caught:
        Api("http://127.0.0.1:9").get("experiments/get", experiment_id="0")
    assert time.monotonic() - began < 5
    assert caught.value.exit_code == 75


def test_a_busy_server_is_asked_again(answering):
    address, answers, _ = answering
    answers += [(503, b""), (200, b'{"a": 1}')]
    assert Api(address).get("x") == {"a": 1}


def test_a_refusal_carries_its_code_in_one_line(answering):
    address, answers, _ = answering
    answers.append((404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No run x\\nTraceback"}'))
    with pytest.raises(Refused, match=r"^MLflow refused runs/get: No run x$") as caught:
        Api(address).get("runs/get")
    assert caught.value.code == "RESOURCE_DOES_NOT_EXIST"


def test_another_server_is_recognised(answering):
    address, answers, _ = answering
    answers.append((200, b"<html>hello"))
    with pytest.raises(EffirError, match="is no MLflow server"):
        Api(address).get("runs/get")


def test_credentials_are_sent_and_their_refusal_is_bad_input(answering, monkeypatch):
    address, answers, asked = answering
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    answers += [(401, b""), (200, b"{}")]
    with pytest.raises(BadInput, match="refused the credentials"):
        Api(address).get("runs/get")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    Api(address).get("runs/get")
    assert [headers["Authorization"] for headers in asked] == ["Basic YW5uOnNlY3JldA==", "Bearer t0ken"]
