"""What the rows work on: SmolLM2 cut as the demo cuts it (untrained: it is timed, not judged), and texts of SciFact."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

DROPPED = 4
KEPT = 1456
"""Of 1,536 neurons: 5% narrower."""
LIMITS = {"max_query_tokens": 64, "max_document_tokens": 512}


class Missing(Exception):
    """A row cannot be run here; why."""


@dataclass(frozen=True)
class Material:
    """folder: where models are kept from run to run."""

    folder: Path

    @cached_property
    def model(self) -> Path:
        """The exported folder, in float32."""
        return self._exported()

    def documents(self, count: int) -> list[str]:
        """The first documents of SciFact, title and text."""
        rows = self._lines("corpus.jsonl", count)
        return [f"{row['title']} {row['text']}".strip() for row in rows]

    def queries(self, count: int) -> list[str]:
        """The first queries of SciFact."""
        return [row["text"] for row in self._lines("queries.jsonl", count)]

    def _lines(self, name: str, count: int) -> list[dict[str, Any]]:
        place = Path(os.environ.get("EFFIR_DATA") or "absent") / "scifact" / name
        if not place.is_file():
            raise Missing("EFFIR_DATA names no folder with scifact/")
        with place.open() as lines:
            return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]

    def _exported(self) -> Path:
        import numpy as np
        import torch

        from effir.bases import write_base
        from effir.compress import surgery
        from effir.compress.cut import Cut
        from effir.errors import BadInput
        from effir.export import writer
        from effir.export.loading import load_backbone, load_tokenizer
        from effir.export.trust import check
        from effir.retrieve.settings import Settings

        place, base = self.folder / f"smollm2-last{DROPPED}B", self.folder / "smollm2"
        if place.exists():
            check(place)
            return place
        if not base.exists():
            try:
                write_base("smollm2-135m-instruct", base, dtype="float32", revision=None, trust_remote_code=False, code=None)
            except BadInput as error:
                raise Missing(str(error)) from None
        model = load_backbone(base, torch.float32)
        layers = model.config.num_hidden_layers
        gone = list(range(layers - DROPPED, layers))
        cut = Cut(layers, drop_attention=gone, drop_mlp=gone, neurons={layer: np.arange(KEPT) for layer in range(layers - DROPPED)})
        settings = Settings(pooling="mean", append_eos=False, query_template="{text}", document_template="{text}", **LIMITS)
        writer.write(surgery.apply(model, cut), load_tokenizer(base), cut, settings, place)
        return place
