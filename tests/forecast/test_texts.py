import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from effir.errors import BadInput
from effir.forecast import texts, work
from effir.forecast.volume import Volume
from effir.spec import resolve

BEIR = [source.removeprefix("beir:") for source in resolve("mistral-7b-paper").collection_sources()]


def test_the_thirteen_sets_and_msmarco_are_published() -> None:
    assert set(texts.WORDS) == {*BEIR, "msmarco"}
    assert sum(texts.published(name).documents.count for name in BEIR) == 24_561_473
    one = texts.published("hotpotqa")
    assert (one.documents.count, one.queries.count, one.far) == (5_233_329, 7_405, True)
    assert one.documents.tokens(512, texts.SMALL_FACTOR).tolist() == [77]
    assert one.documents.tokens(48).tolist() == [48]


@pytest.mark.slow
def test_pieces_are_about_the_tokens_of_a_real_tokenizer() -> None:
    """SmolLM2's, on 50 abstracts and 50 short queries of the packaged semanlink."""
    from effir.bases import PACKAGED, _locate
    from effir.retrieve.builtin import semanlink
    from effir.retrieve.collections import document_text

    transformers = pytest.importorskip("transformers")
    place, options = _locate(PACKAGED, None, False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
    found = semanlink()
    for chosen, tolerance in (
        ([document_text(one) for one in list(found.corpus.values())[:50]], 0.05),
        (list(found.queries.values())[:50], 0.25),
    ):
        counted = [len(ids) for ids in tokenizer(chosen)["input_ids"]]
        for limit in (32, 512):
            wanted = np.minimum(counted, limit).mean()
            assert texts.of(chosen).tokens(limit, texts.factor(len(tokenizer))).mean() == pytest.approx(wanted, rel=tolerance)


def test_a_folder_is_counted(small: Callable[..., Volume], tmp_path: Path) -> None:
    """Queries without a relevant document are none."""
    found = small().collections[0]
    assert (found.documents.count, found.queries.count, found.far) == (50, 12, False)
    assert found.documents.lengths.tolist() == [
        texts.pieces(f"The {number}th harbour lies near an old town. " * (1 + number % 5)) for number in range(50)
    ]
    size = sum((tmp_path / "test" / name).stat().st_size for name in ("corpus.jsonl", "queries.jsonl"))
    assert work.corpus_bytes(found) == pytest.approx(size, rel=0.2)


def test_more_lines_than_are_read_are_counted_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"query": "two words", "pos": ["some text"], "neg": ["other", "texts"]}) + "\n" for _ in range(5001))
    )
    found = texts.training(str(path), path)
    assert (found.queries.count, found.documents.count, found.mined) == (5001, 15_003, True)
    assert len(found.queries.lengths) <= texts.SAMPLE + 1000
    path.write_text("no JSON\n")
    with pytest.raises(BadInput, match="is not JSON lines"):
        texts.training(str(path), path)


def test_several_training_sets_are_weighed_by_their_size() -> None:
    both = texts.joined([texts.training(source, None) for source in ("beir:scifact", "beir:msmarco")])
    assert both.queries.count == 809 + 502_939
    assert both.documents.pieces == pytest.approx(texts.published("msmarco").documents.pieces, rel=0.01)


def test_an_even_sample_stands_for_all() -> None:
    many = texts.of([f"{'word ' * (number % 7)}end" for number in range(10_000)])
    assert (many.count, len(many.lengths)) == (10_000, texts.SAMPLE)
    assert many.pieces == pytest.approx(4.0, rel=0.02)
    assert many.at_most(30).count == 30
    assert many.at_most(None) is many


@pytest.mark.parametrize("name", ["beir:absent", "s3://bucket/collection", "/absent"])
def test_what_is_nowhere_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="not known"):
        texts.collection(name, "one", None)
    with pytest.raises(BadInput, match="known"):
        texts.training(name, None)
