"""Verifying a server: a small server of the test's own, with a real encoder behind it, stands for vLLM and its kin."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from effir.errors import BadInput, EffirError, OutOfReach
from effir.export import writer
from effir.export.loading import load_encoder
from effir.export.verify import served
from effir.retrieve.settings import Settings
from effir.services.embeddings import Server

SETTINGS = Settings(pooling="last", query_template="find: {text}", document_template="text: {text}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    alphabet = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(alphabet), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")
    made = tmp_path_factory.mktemp("served") / "made"
    writer.write(transformers.LlamaModel(config).eval(), tokenizer, None, SETTINGS, made)
    return made


@contextmanager
def serving(embed: Callable[[list[str]], Any], models: tuple[str, ...] = ("one",)) -> Iterator[str]:
    """The address of a server that answers as OpenAI's does, in any order."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"data": [{"id": name} for name in models]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert asked["model"] in models
            vectors = embed(asked["input"])
            self._answer({"data": [{"index": index, "embedding": vector.tolist()} for index, vector in reversed(list(enumerate(vectors)))]})

        def _answer(self, content: Any) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def engine(folder: Path, **settings: Any) -> Callable[[list[str]], Any]:
    """An engine that puts no template around a text."""
    encoder = load_encoder(folder, torch.float32)
    encoder.settings = replace(SETTINGS, query_template="{text}", document_template="{text}", **settings)
    return lambda texts: encoder.encode(texts) * 7


def test_a_server_that_is_right_passes_whatever_it_scales_vectors_by(folder: Path) -> None:
    with serving(engine(folder)) as address:
        assert served(folder, Server(address).embed, address)[address] <= 1e-6
        assert served(folder, Server(f"{address}/", "one").embed, "it")["it"] <= 1e-6


def test_a_wrong_pooling_is_noticed(folder: Path) -> None:
    with serving(engine(folder, pooling="mean")) as address, pytest.raises(EffirError, match=r"look at its pooling \(here: last\)"):
        served(folder, Server(address).embed, address)


def test_templates_that_the_server_puts_as_well_are_noticed(folder: Path) -> None:
    encoder = load_encoder(folder, torch.float32)
    with serving(lambda texts: encoder.encode(texts, "query")) as address, pytest.raises(EffirError, match="does not give the golden"):
        served(folder, Server(address).embed, address)


def test_one_that_is_not_there_or_speaks_otherwise() -> None:
    with pytest.raises(OutOfReach, match="is the server up"):
        Server("http://127.0.0.1:9/v1", "x").embed(["a"])
    with serving(lambda texts: np.zeros((1, 3)), models=()) as address, pytest.raises(BadInput, match="ends in /v1"):
        Server(address).embed(["a"])
    with serving(lambda texts: np.zeros((1, 3))) as address, pytest.raises(BadInput, match="does not answer as OpenAI's"):
        Server(address).embed(["a", "b"])
