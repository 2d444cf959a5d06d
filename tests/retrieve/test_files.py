import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from effir.errors import BadInput
from effir.retrieve.files import (
    Document,
    corpus_files,
    documents,
    ids_digest,
    read_corpus,
    read_qrels,
    read_queries,
    shard_file,
    write_corpus,
    write_qrels,
    write_shards,
)

CORPUS = {f"d{number}": Document(f"title {number}" if number % 2 else "", f"text\u2028{number}") for number in range(10)}


@pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (99, [10])])
def test_shards_one_after_another_are_the_corpus(tmp_path: Path, size: int, sizes: list[int]) -> None:
    told = write_shards(CORPUS.items(), tmp_path, size)
    assert [shard["documents"] for shard in told] == sizes
    paths = [tmp_path / shard_file(number) for number in range(len(sizes))]
    assert corpus_files(tmp_path) == paths == sorted((tmp_path / "corpus").iterdir())
    assert dict(documents(paths)) == CORPUS
    assert [list(read_corpus(path)) for path in paths] == [list(CORPUS)[start : start + size] for start in range(0, 10, size)]
    assert [ids_digest(read_corpus(path)) for path in paths] == [shard["ids"] for shard in told]
    write_corpus(CORPUS.items(), tmp_path / "whole.jsonl")
    assert b"".join(path.read_bytes() for path in paths) == (tmp_path / "whole.jsonl").read_bytes()


def test_a_shard_is_written_before_the_next_is_read(tmp_path: Path) -> None:
    def read() -> Iterator[tuple[str, Document]]:
        for number, entry in enumerate(CORPUS.items()):
            assert len(list(tmp_path.rglob("*.jsonl"))) == number // 3
            yield entry

    write_shards(read(), tmp_path, 3)


def test_a_whole_corpus_comes_before_shards(tmp_path: Path) -> None:
    assert corpus_files(tmp_path) == [tmp_path / "corpus.jsonl"]
    write_shards(CORPUS.items(), tmp_path, 3)
    write_corpus(CORPUS.items(), tmp_path / "corpus.jsonl")
    assert corpus_files(tmp_path) == [tmp_path / "corpus.jsonl"]


def test_the_digest_of_ids_knows_their_order_and_their_ends() -> None:
    assert ids_digest(["a", "bc"]) == hashlib.sha256(b"a\nbc\n").hexdigest()
    assert len({ids_digest(ids) for ids in (["a", "bc"], ["bc", "a"], ["ab", "c"], ["abc"], [])}) == 5


def test_an_id_in_two_shards_is_named_with_file_and_line(tmp_path: Path) -> None:
    write_shards(CORPUS.items(), tmp_path, 4)
    with (tmp_path / shard_file(1)).open("a") as stream:
        stream.write(json.dumps({"_id": "d0", "text": "again"}) + "\n")
    seen: set[str] = set()
    with pytest.raises(BadInput, match=r"00001\.jsonl, line 5: the id 'd0' is there twice"):
        list(documents(corpus_files(tmp_path), seen))
    assert seen == {f"d{number}" for number in range(8)}


def test_queries_and_judgements_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": 7, "text": "seven"}\n\n{"_id": "q", "text": ""}\n')
    queries = read_queries(tmp_path / "queries.jsonl")
    assert queries == {"7": "seven", "q": ""}
    write_qrels({"7": {"d1": 2, "gone": 0}}, tmp_path / "qrels" / "test.tsv")
    assert read_qrels(tmp_path / "qrels" / "test.tsv", queries, None) == {"7": {"d1": 2, "gone": 0}}
    with pytest.raises(BadInput, match=r"test\.tsv, line 3: the document 'gone' is not in corpus\.jsonl"):
        read_qrels(tmp_path / "qrels" / "test.tsv", queries, CORPUS)
