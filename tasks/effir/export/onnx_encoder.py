"""Texts to vectors by onnxruntime: what a folder with model.onnx is used with. Needs numpy, tokenizers and onnxruntime; no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effir.errors import BadInput
from effir.retrieve.settings import Settings


class OnnxEncoder:
    """The retriever in a folder that `effir export --to onnx` wrote. Raises BadInput where a package or a file is missing."""

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError:
            raise BadInput("this needs onnxruntime and tokenizers: pip install 'effir[export]'") from None
        self.settings = Settings(**json.loads((folder / "effir.json").read_text())["settings"])
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        special = json.loads((folder / "tokenizer_config.json").read_text())
        self.pad = self._id(special["pad_token"])
        self.empty = self._id(special.get("eos_token") or special["pad_token"])
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str], kind: str = "document", batch: int = 32) -> np.ndarray:
        """Unit vectors of queries or documents (`kind`), float32, shape (n, d)."""
        if not texts:
            return np.zeros((0, self.session.get_outputs()[0].shape[1]), np.float32)
        return np.concatenate([self._embed(self.tokenize(texts[start : start + batch], kind)) for start in range(0, len(texts), batch)])

    def tokenize(self, texts: Sequence[str], kind: str) -> list[list[int]]:
        """Token ids, template put around, cut at the maximum, never empty."""
        query = kind == "query"
        template = self.settings.query_template if query else self.settings.document_template
        self.tokenizer.enable_truncation(self.settings.max_query_tokens if query else self.settings.max_document_tokens)
        cut = self.tokenizer.encode_batch([template.replace("{text}", text) for text in texts])
        return [one.ids or [self.empty] for one in cut]

    def _id(self, token: str) -> int:
        return self.tokenizer.token_to_id(token)

    def _embed(self, tokens: list[list[int]]) -> np.ndarray:
        ids = np.full((len(tokens), max(map(len, tokens))), self.pad, np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(tokens):
            ids[row, : len(one)], mask[row, : len(one)] = one, 1
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
