"""A language model, training data and a test collection, so small that a whole run takes seconds."""

import json
import random
from pathlib import Path
from typing import Any

TOPICS = ("river", "engine", "violin", "harbour", "orchard", "glacier", "lantern", "compass", "kitchen", "meadow")
QUALITIES = ("old", "quiet", "bright", "broken", "distant")
FILLERS = ("near the town", "in the morning", "after the rain", "as people say", "for many years")


def documents() -> dict[str, str]:
    """Fifty documents, one for each topic and quality."""
    return {f"{topic}-{quality}": text(topic, quality) for topic in TOPICS for quality in QUALITIES}


def text(topic: str, quality: str) -> str:
    """A sentence or two about a topic, always the same."""
    chosen = random.Random(f"{topic} {quality}")
    return f"The {quality} {topic} {chosen.choice(FILLERS)}. A {topic} is {quality} {chosen.choice(FILLERS)}."


def write_collection(folder: Path) -> Path:
    """A collection in BEIR layout: all documents, and a query for each of them."""
    (folder / "qrels").mkdir(parents=True)
    names = list(documents())
    _lines(folder / "corpus.jsonl", [{"_id": name, "title": "", "text": body} for name, body in documents().items()])
    _lines(folder / "queries.jsonl", [{"_id": f"q-{name}", "text": name.replace("-", " ")} for name in names])
    rows = "".join(f"q-{name}\t{name}\t1\n" for name in names)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def write_training(path: Path) -> Path:
    """Training rows {query, pos, neg}: the topic's other documents are the hard negatives."""
    rows = [
        {
            "query": f"{quality} {topic}",
            "pos": [text(topic, quality)],
            "neg": [text(topic, other) for other in QUALITIES if other != quality],
        }
        for topic in TOPICS
        for quality in QUALITIES
    ]
    _lines(path, rows)
    return path


def write_model(folder: Path, layers: int = 4, width: int = 64) -> Path:
    """A random Llama with a word tokenizer of its own."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.train_from_iterator(documents().values(), trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, pad_token_id=1, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_text(path: Path) -> Path:
    """Calibration text."""
    path.write_text("\n".join(documents().values()) * 3)
    return path


def overrides(folder: Path, **changes: Any) -> dict[str, Any]:
    """Everything made below `folder`, and the fields of the spec for a run on it."""
    return {
        "name": "tiny",
        "base_model": str(write_model(folder / "model")),
        "training_data": str(write_training(folder / "training.jsonl")),
        "collections": str(write_collection(folder / "seen")),
        "in_domain": "seen",
        "calibration_text": str(write_text(folder / "text.txt")),
        "pooling": "mean", "query_template": "{text}", "max_query_tokens": 16, "max_document_tokens": 32, "hard_negatives": 2,
        "calibration_samples": 4, "calibration_tokens": 32, "variant": "1M", "slim_steps": 2, "slim_batch": 4, "slim_lambda": 1e-4,
        "keep_ratio": 0.75, "width_multiple": 16, "steps": 4, "reference_steps": 12, "batch": 16, "micro_batch": 8, "learning_rate": 3e-3,
        "warmup_steps": 1, "lora_rank": 4, "lora_alpha": 8.0, "lora_dropout": 0.0, "checkpoint_every": 5, "teacher": "none", "margins": "",
        "regression_weight": 0.0, "test_queries": None, "test_documents": None, "training_examples": None,
        "shard_documents": 30, "batch_tokens": 1024, "speed_seconds": 1.0, "speed_documents": 8, "margin": 0.9, "margin_mean": 0.9,
        "resamples": 200, "min_query_speedup": 0.0, "min_document_speedup": 0.0, "dtype": "float32", "threads": 1,
    } | changes  # fmt: skip


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
