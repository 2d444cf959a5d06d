"""A server that speaks OpenAI's embeddings protocol: vLLM, SGLang, llama.cpp, TEI, `effir serve`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from effir.errors import BadInput, OutOfReach

SECONDS = 120


class Server:
    """base: its address, such as http://127.0.0.1:8000/v1; model: what it calls the model, the first that it lists where empty."""

    def __init__(self, base: str, model: str = "") -> None:
        self.base = base.rstrip("/")
        self.model = model

    def embed(self, texts: Sequence[str]) -> NDArray[Any]:
        """The vectors of texts, float32, shape (n, d). Raises OutOfReach where nobody answers, BadInput where the answer is none."""
        self.model = self.model or self._call("GET", "models")["data"][0]["id"]
        found = self._call("POST", "embeddings", {"model": self.model, "input": list(texts), "encoding_format": "float"})["data"]
        try:
            ordered = sorted(found, key=lambda one: one["index"])
            return np.array([one["embedding"] for one in ordered], np.float32).reshape(len(texts), -1)
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"{self.base}/embeddings does not answer as OpenAI's does: give the address that ends in /v1") from None

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        address = f"{self.base}/{path}"
        try:
            answer = requests.request(method, address, json=body, timeout=SECONDS)
        except requests.RequestException as error:
            raise OutOfReach(f"{address} cannot be reached ({type(error).__name__}): is the server up?") from None
        if not answer.ok:
            raise BadInput(f"{address} answers {answer.status_code}: {answer.text[:300]}")
        try:
            found = answer.json()
            found["data"][0]
        except (ValueError, KeyError, TypeError, IndexError):
            raise BadInput(f"{address} does not answer as OpenAI's does: give the address that ends in /v1") from None
        return found
