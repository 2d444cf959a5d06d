"""Tiny exported models, and servers of them as a person starts them."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
import transformers

from effir.export import writer
from effir.manifest import MANIFEST, Manifest, content_of, digest_of
from effir.retrieve.settings import Settings
from effir.services import promotions, registry
from effir.services.store import Store

SETTINGS = Settings(
    pooling="mean", append_eos=False, query_template="find {text}", document_template="{text}", max_query_tokens=16, max_document_tokens=32
)
WIDTH = 64


@pytest.fixture(scope="session")
def tiny() -> Any:
    """tests/e2e/tiny.py."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "e2e" / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def exported(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """An exported folder for a number; another number is another model of the same shape."""
    base = tiny.write_model(tmp_path_factory.mktemp("base"), layers=2, width=WIDTH)
    made: dict[int, Path] = {}

    def make(number: int = 0) -> Path:
        if number not in made:
            model = transformers.LlamaModel.from_pretrained(base, dtype=torch.float32)
            torch.manual_seed(number)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.02 * number)
            made[number] = tmp_path_factory.mktemp("exported") / f"tiny-{number}"
            writer.write(model, transformers.AutoTokenizer.from_pretrained(base), None, SETTINGS, made[number])
        return made[number]

    return make


@dataclass
class Shelf:
    """A registered model whose champions are exported folders."""

    store: Store
    name: str
    folder: Path

    def crown(self, exported: Path, damage: Callable[[Path], None] | None = None) -> str:
        """Make this folder the champion, with what `damage` does to a copy of it; returns its version."""
        here = self.folder / f"{len(list(self.folder.iterdir()))}"
        shutil.copytree(exported, here)
        if damage:
            damage(here)
        before = promotions.champion(self.store, self.name)
        digest = digest_of({"of": self.name, "number": here.name})
        empty = {"key": {}, "files": {}, "numbers": {}, "seconds": 1, "forward_passes": 0, "created": "now"}
        manifest = self.store.publish(Manifest(phase="finetune", digest=digest, **empty), here)
        source = self.store.artifact("finetune", digest)
        to = {"digest": digest, "manifest": f"{source}/{MANIFEST}", "source": source, "files": content_of(manifest.files)}
        about = {"run_id": None, "digest": digest, "manifest": to["manifest"], "description": "", "tags": {"effir.files": to["files"]}}
        to["version"] = registry.register(self.name, source, **about)
        promotions.record(self.store, self.name, "promote", before, to, why=[], who="test", code="c")
        promotions.settle(self.store, self.name)
        return to["version"]


@pytest.fixture
def shelf(mlflow: str, store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Shelf:
    """A model without a champion yet."""
    (tmp_path / "made").mkdir()
    return Shelf(store, f"shelf-{abs(hash(request.node.nodeid)):x}", tmp_path / "made")


@dataclass
class Server:
    """A running `effir serve`."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def post(self, **body: Any) -> requests.Response:
        """POST /v1/embeddings."""
        return requests.post(f"{self.url}/v1/embeddings", json=body, timeout=60)

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}/{path}", timeout=60)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)

    def end(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """A context with `effir serve MODEL OPTION…` on a free port, ended afterwards."""

    @contextmanager
    def serve(folder: Path, model: str, *options: str) -> Iterator[Server]:
        log = folder / "serve.log"
        command = [sys.executable, "-m", "effir.cli", "serve", model, "--port", "0", *options]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w") as stream, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, env=env) as process:
            try:
                url = process.stdout.readline().strip()
                assert url.startswith("http://127.0.0.1:"), log.read_text()
                yield Server(process, url, log)
            finally:
                process.kill()

    return serve
