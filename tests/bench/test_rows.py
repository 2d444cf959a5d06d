"""The rows of `make bench` on a model and collections so small that nothing is timed: ours and the peer's must give the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.bench import growing, learning, retrieving, run
from tests.bench.pairs import Pairs
from tests.bench.rows import ROWS, Row
from tests.e2e import tiny

from effir.compress import surgery
from effir.compress.cut import Cut
from effir.export import writer
from effir.export.loading import load_backbone, load_tokenizer
from effir.retrieve.encode import Encoder
from effir.retrieve.files import Document
from effir.retrieve.settings import Settings
from effir.train.examples import Example, TrainingSet

TEXTS = list(tiny.documents().values())


class Tiny:
    """What the rows work on, of 50 documents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        base = tiny.write_model(folder / "base")
        self.settings, self.tokenizer = Settings("mean", "{text}", "{text}", 16, 32, append_eos=False), load_tokenizer(base)
        self.reference, self.model, self.short = folder / "full", folder / "cut", folder / "cut"
        self.base, self.cut = base, Cut(4, drop_attention=[3], drop_mlp=[3])
        writer.write(load_backbone(base, torch.float32), self.tokenizer, None, self.settings, self.reference)
        writer.write(self.trainable().model, self.tokenizer, self.cut, self.settings, self.model)

    def trainable(self) -> Encoder:
        """The cut model as a phase trains it."""
        return Encoder(surgery.apply(load_backbone(self.base, torch.float32), self.cut), self.tokenizer, self.settings)

    def documents(self, count: int) -> list[str]:
        """The first documents."""
        return TEXTS[:count]

    queries = documents

    def collection(self, name: str, documents: int, queries: int) -> Any:
        """Every document, and a query for each."""
        del name, documents, queries
        corpus = {key: {"title": "", "text": text} for key, text in tiny.documents().items()}
        return corpus, {f"q-{key}": key.replace("-", " ") for key in corpus}, {f"q-{key}": {key: 1} for key in corpus}

    def training(self) -> TrainingSet:
        """A query for every second document, the next one being no answer."""
        names = list(tiny.documents())
        examples = [Example(one, one.replace("-", " "), [one], [other]) for one, other in zip(names[::2], names[1::2], strict=True)]
        return TrainingSet(examples, {key: Document("", text) for key, text in tiny.documents().items()})


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("row", ["encode-queries", "evaluate", "train", "importance", "slim", "compressed-queries"])
def test_a_row_gives_a_figure_and_both_sides_the_same(row: str, material: Tiny) -> None:
    found = next(one for one in ROWS if one.name == row).run(material, 1)
    assert found.ratios and all(ratio > 0 for ratio in found.ratios)


def test_search_finds_what_faiss_finds_and_says_what_memory_it_took(material: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"VECTORS": 40_000, "SHARD": 10_000, "QUERIES": 20, "WIDTH": 64, "DEPTH": 10}.items():
        monkeypatch.setattr(retrieving, name, value)
    found = retrieving.searching(material, 1)
    assert found.told["difference"] <= retrieving.SAME_SCORE and found.told["memory_share"] > 0
    assert found.unmet, "so few vectors take less memory than the blocks in which they are searched"


def test_what_is_not_the_same_is_no_row(material: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    step = learning.Peer.step
    monkeypatch.setattr(learning.Peer, "step", lambda self, number: step(self, number) * 1.01)
    with pytest.raises(AssertionError, match="do not learn the same"):
        learning.training(material, 1)


def test_an_aim_is_met_by_the_figure_or_by_the_limit_and_not_where_something_else_is_missed() -> None:
    row = Row("x", lambda *_: Pairs([]), "a peer", 1, least=1.5, of_limit=0.85)
    assert row.aim() == "≥ 1.5 or ≥ 0.85 of the limit"
    assert [row.met(Pairs([ratio], limit)) for ratio, limit in ((1.5, 0.1), (1.0, 0.85), (1.0, 0.8), (1.0, None))] == [
        True,
        True,
        False,
        False,
    ]
    assert not row.met(Pairs([2.0], unmet="too much memory"))
    most = Row("x", lambda *_: Pairs([]), "seconds", 1, most=3.0)
    assert [most.met(Pairs([seconds])) for seconds in (3.0, 3.1)] == [True, False]
    assert run.line(row, Pairs([1.0, 2.0, 3.0], told={"far": 0.1}))["spread"] == [1.0, 3.0]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_growth_is_an_exponent(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.setattr(growing, "seconds", lambda act: (act(), taken[-1])[1])
    found = growing._measured({size: lambda size=size: taken.append(7 * size**power) for size in growing.SIZES}, 2)
    assert found.ratios == pytest.approx([power, power], abs=1e-9)


def test_what_moved_against_the_record_is_told() -> None:
    then = [{"name": name, "ratio": 1.5, "spread": [1.4, 1.6]} for name in ("a", "b", "c")]
    now = [{"name": name, "ratio": ratio} for name, ratio in {"a": 1.3, "b": 1.1, "c": 2.0, "d": 9.0}.items()]
    assert [one.split(":")[0] + one.rsplit(":")[-1] for one in run.moved(now, then)] == ["b slower", "c faster"]
