"""What the rows work on: SmolLM2, whole and cut as the demo cuts it (untrained: it is timed, not judged), and texts of SciFact."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

DROPPED = 4
KEPT = 1456
"""Of 1,536 neurons: 5% narrower."""
EXAMPLES = 64
QUERY_TOKENS, DOCUMENT_TOKENS, SHORT = 64, 512, 96


class Missing(Exception):
    """A row cannot be run here; why."""


@dataclass(frozen=True)
class Material:
    """folder: where models are kept from run to run. stack: an embedded stack, started by the first row that wants it (running.Stack)."""

    folder: Path
    stack: Any = None

    @cached_property
    def model(self) -> Path:
        """The cut one, exported, in float32."""
        return self._exported(f"smollm2-last{DROPPED}B", DROPPED, KEPT)

    @cached_property
    def short(self) -> Path:
        """The same, reading no more than the first SHORT tokens of a document."""
        return self._exported(f"smollm2-last{DROPPED}B-{SHORT}", DROPPED, KEPT, SHORT)

    @cached_property
    def reference(self) -> Path:
        """The same with nothing cut."""
        return self._exported("smollm2-full", 0, 0)

    def documents(self, count: int) -> list[str]:
        """The first documents of SciFact, title and text."""
        return [f"{row['title']} {row['text']}".strip() for row in self._lines("scifact/corpus.jsonl", count)]

    def queries(self, count: int) -> list[str]:
        """The first queries of SciFact."""
        return [row["text"] for row in self._lines("scifact/queries.jsonl", count)]

    def collection(self, name: str, documents: int, queries: int) -> tuple[dict[str, Any], dict[str, str], dict[str, dict[str, int]]]:
        """Corpus, queries and qrels in BEIR's form: the first test queries, documents judged of them, and others."""
        qrels: dict[str, dict[str, int]] = {}
        for line in self._place(f"{name}/qrels/test.tsv").read_text().splitlines()[1:]:
            query, document, grade = line.split("\t")
            if query in qrels or len(qrels) < queries:
                qrels.setdefault(query, {})[document] = int(grade)
        every = {row["_id"]: {"title": row["title"], "text": row["text"]} for row in self._lines(f"{name}/corpus.jsonl")}
        judged = {document: None for found in qrels.values() for document in found if document in every}
        kept = list(judged | dict.fromkeys(every))[:documents]
        asked = {row["_id"]: row["text"] for row in self._lines(f"{name}/queries.jsonl") if row["_id"] in qrels}
        return {key: every[key] for key in kept}, asked, qrels

    def training(self) -> Any:
        """SciFact's first queries as examples; no document belongs to two of them."""
        from effir.retrieve.files import Document
        from effir.train.examples import Example, TrainingSet

        rows = self._lines("scifact/corpus.jsonl", 2 * EXAMPLES)
        corpus = {row["_id"]: Document(row["title"], row["text"]) for row in rows}
        names = list(corpus)
        examples = [Example(str(at), text, [names[2 * at]], [names[2 * at + 1]]) for at, text in enumerate(self.queries(EXAMPLES))]
        return TrainingSet(examples, corpus)

    def _lines(self, path: str, count: int | None = None) -> list[dict[str, Any]]:
        with self._place(path).open() as lines:
            return [json.loads(line) for line in islice(lines, count)]

    def _place(self, path: str) -> Path:
        place = Path(os.environ.get("EFFIR_DATA") or "absent") / path
        if not place.is_file():
            raise Missing(f"EFFIR_DATA names no folder with {path}")
        return place

    def trainable(self, dropped: int = DROPPED, kept: int = KEPT) -> Any:
        """The cut model as a phase trains it: an Encoder of transformers' own class."""
        return self._cut(dropped, kept)[0]

    def _cut(self, dropped: int, kept: int, longest: int = DOCUMENT_TOKENS) -> tuple[Any, Any]:
        """An Encoder without its last `dropped` blocks, `kept` neurons in the others, and that cut; nothing dropped: nothing cut."""
        import numpy as np
        import torch

        from effir.compress import surgery
        from effir.compress.cut import Cut
        from effir.export.loading import load_backbone, load_tokenizer
        from effir.retrieve.encode import Encoder
        from effir.retrieve.settings import Settings

        model = load_backbone(self._base(), torch.float32)
        layers, cut = model.config.num_hidden_layers, None
        if dropped:
            gone = list(range(layers - dropped, layers))
            cut = Cut(layers, drop_attention=gone, drop_mlp=gone, neurons={layer: np.arange(kept) for layer in range(layers - dropped)})
            model = surgery.apply(model, cut)
        settings = Settings("mean", "{text}", "{text}", QUERY_TOKENS, longest, append_eos=False)
        return Encoder(model, load_tokenizer(self._base()), settings), cut

    def _exported(self, name: str, dropped: int, kept: int, longest: int = DOCUMENT_TOKENS) -> Path:
        from effir.export import writer
        from effir.export.trust import check

        place = self.folder / name
        if place.exists():
            check(place)
            return place
        encoder, cut = self._cut(dropped, kept, longest)
        writer.write(encoder.model, encoder.tokenizer, cut, encoder.settings, place)
        return place

    def _base(self) -> Path:
        from effir.bases import write_base
        from effir.errors import BadInput

        base = self.folder / "smollm2"
        if not base.exists():
            try:
                write_base("smollm2-135m-instruct", base, dtype="float32", revision=None, trust_remote_code=False, code=None)
            except BadInput as error:
                raise Missing(str(error)) from None
        return base
