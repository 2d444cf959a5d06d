"""`effir serve` as a process, from a folder."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from effir.errors import BadInput
from effir.export.verify import LOADERS
from effir.manifest import sha256_of
from effir.serve.limits import Limits
from effir.serve.server import run

TEXTS = ["The old river near the town.", "lantern", "A glacier is quiet after the rain. " * 20]


@pytest.fixture(scope="module")
def server(serving: Callable[..., Any], exported: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = ("--max-texts", "1000", "--max-characters", "1000")
    with serving(tmp_path_factory.mktemp("server"), str(exported(0)), *options) as one:
        yield one


@pytest.fixture(scope="module")
def expected(exported: Callable[[int], Path]) -> dict[str, np.ndarray]:
    """Kind → vectors of TEXTS by plain transformers, pooled by hand."""
    return LOADERS["transformers"](exported(0) / "model", {"texts": TEXTS}, "cpu")


def vectors(answer: requests.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    rows = sorted(answer.json()["data"], key=lambda row: row["index"])
    return np.array([row["embedding"] for row in rows], np.float32)


def test_the_vectors_are_the_model_s_with_the_template_of_what_a_text_is(server: Any, expected: dict[str, np.ndarray]) -> None:
    assert np.abs(expected["query"] - expected["document"]).max() > 0.01
    assert np.abs(vectors(server.post(input=TEXTS)) - expected["document"]).max() < 1e-5
    assert np.abs(vectors(server.post(input=TEXTS, input_type="query")) - expected["query"]).max() < 1e-5
    assert np.abs(vectors(server.post(input=TEXTS[1], input_type="document", dimensions=64))[0] - expected["document"][1]).max() < 1e-5


def test_base64_holds_the_same_float32(server: Any) -> None:
    plain = vectors(server.post(input=TEXTS))
    rows = server.post(input=TEXTS, encoding_format="base64").json()["data"]
    assert np.array_equal(np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows]), plain)


def test_an_answer_names_the_version_and_counts_tokens(server: Any, exported: Callable[[int], Path]) -> None:
    version = sha256_of(exported(0) / "model" / "effir.json")[:12]
    answer = server.post(input=TEXTS, model=f"tiny-0/{version}")
    told = answer.json()
    assert (answer.headers["x-effir-version"], told["model"], told["object"]) == (version, f"tiny-0/{version}", "list")
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] > 32, "the third text alone is cut at 32 tokens"
    assert [one["id"] for one in server.get("v1/models").json()["data"]] == ["tiny-0", f"tiny-0/{version}"]
    assert server.get("health").json() == {
        "status": "ok", "model": "tiny-0", "version": version, "digest": sha256_of(exported(0) / "model" / "effir.json"),
        "source": str(exported(0)), "refused": None, "problem": None,
    }  # fmt: skip
    assert server.get("ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("given", "status", "sentence"),
    [
        ({"input": [1, 2]}, 400, "token ids"),
        ({"input": ["a"] * 1001}, 400, "may hold 1000"),
        ({"input": "a" * 1001}, 400, "may have 1000"),
        ({"input": "a", "model": "text-embedding-3-small"}, 404, "is not served here"),
        ({"input": "a", "model": "tiny-0/2"}, 404, "is not served here"),
        ({"input": "a", "dimensions": 32}, 400, "have 64 dimensions"),
    ],
)
def test_a_problem_is_told_as_openai_tells_it(server: Any, given: dict[str, Any], status: int, sentence: str) -> None:
    answer = server.post(**given)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert sentence in error["message"] and error["type"] == "invalid_request_error" and {"param", "code"} < set(error)


def test_what_is_no_route_or_too_long_is_refused(server: Any) -> None:
    assert "POST /v1/embeddings" in server.get("v1/completions").json()["error"]["message"]
    assert server.get("v1/embeddings").status_code == 405

    def chunks() -> Iterator[bytes]:
        for _ in range(33):
            yield b" " * (1 << 20)

    answer = requests.post(f"{server.url}/v1/embeddings", data=chunks(), timeout=60)
    assert answer.status_code == 413 and "bytes" in answer.json()["error"]["message"]


def test_what_is_counted(server: Any) -> None:
    names = ("requests_total", "errors_total", "texts_total", "tokens_total", "request_seconds_count", "batch_texts_count")
    before = {name: server.metric(f"effir_{name}") for name in names}
    tokens = server.post(input=TEXTS).json()["usage"]["total_tokens"]
    server.post(input=[])
    grown = {name: server.metric(f"effir_{name}") - before[name] for name in names}
    assert grown == dict(zip(names, (2, 1, 3, tokens, 2, 1), strict=True))
    assert server.metric("effir_queue_texts") == 0 and server.metric("effir_model") == 1
    assert server.get("metrics").headers["content-type"].startswith("text/plain")


def test_what_cannot_be_served_ends_in_one_sentence(tmp_path: Path, exported: Callable[[int], Path]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for source, port, sentence in (
            (tmp_path / "absent", 0, "is no folder"),
            (tmp_path, 0, "is not a folder that effir exported"),
            (exported(0), taken.getsockname()[1], "choose another --host or --port"),
        ):
            with pytest.raises(BadInput, match=sentence):
                run(str(source), "127.0.0.1", port, 30, Limits(), "cpu", print)


def test_sigterm_finishes_what_was_accepted(server: Any) -> None:
    """The last one: it ends the server of this file."""
    found: list[Any] = []
    texts = [f"{TEXTS[0]} {number}" for number in range(1000)]
    clients = [threading.Thread(target=lambda: found.append(server.post(input=texts))) for _ in range(4)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 60
    while server.metric("effir_queue_texts") < 4000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.end() == 0
    for client in clients:
        client.join()
    assert [vectors(answer).shape for answer in found] == [(1000, 64)] * 4
    with pytest.raises(requests.ConnectionError):
        server.get("health")
