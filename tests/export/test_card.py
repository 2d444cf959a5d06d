from collections.abc import Callable
from pathlib import Path
from typing import Any

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.export import writer
from effir.export.card import Origin, Quality, judged, plain, what_was_cut
from effir.retrieve.settings import Settings

ORIGIN = Origin("org/base", "beir:scifact", "CC BY-SA 4.0", 60, 16, 2e-4, "BAAI/bge", 3)
SPEED = {"query": {"ratio": 1.25, "interval": [1.2, 1.3]}, "document": {"ratio": 1.5, "interval": [1.4, 1.6]}}


def test_it_says_what_was_cut_from_what_and_on_which_data(
    backbone: Callable[..., Any], byte_tokenizer: Callable[..., Any], everything: Cut, last: Settings, tmp_path: Path
) -> None:
    model = surgery.apply(backbone("Llama"), everything)
    writer.write(model, byte_tokenizer(), everything, last, tmp_path / "out", ["a"], ORIGIN)
    told = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "Dropped: 2 of 4 MLPs (layers 2, 3) and 2 of 4 attentions (layers 0, 2)." in told
    assert "2 MLPs were narrowed to 16 to 32 neurons" in told
    assert "Base model: org/base" in told
    assert (
        "Fine-tuned on beir:scifact, licence: CC BY-SA 4.0, in 60 steps of 16 queries, learning rate 0.0002, seed 3. Teacher: BAAI/bge."
        in told
    )
    for engine in ("onnxruntime", "vLLM", "SGLang", "TensorRT-LLM", "llama.cpp", "mlflow", "SentenceTransformer"):
        assert engine in told


def test_a_model_that_nothing_was_cut_from(backbone: Callable[..., Any]) -> None:
    assert what_was_cut(backbone("Llama"), None) == "Nothing was cut: this is the full-size model."
    assert what_was_cut(backbone("Llama"), Cut(4)) == "No sub-layer was dropped."


def test_the_judged_card_keeps_the_first_and_adds_figures() -> None:
    qualities = [Quality("a|b", "", 0.5, 0.45, -0.05, (-0.07, -0.03))]
    told = judged("# Card\n", qualities, SPEED | {"machine": {"processor": "X <b>", "dtype": "float32"}}, "effir run", None, "rejected")
    assert told.startswith("# Card\n\n## Quality\n")
    assert "| a b | not stated | 50.0 | 45.0 | -5.0 (-7.0 to -3.0) |" in told
    assert "- documents: 1.50 (1.40 to 1.60)" in told
    assert "processor X b, dtype float32" in told
    assert "    effir run\n" in told
    assert "Run " not in told


def test_text_from_data_stays_text() -> None:
    assert plain("one\n# two | <script>`x`</script> [a](b)") == "one # two script x /script a (b)"
