import ast

import pytest

from effir.errors import BadInput
from effir.retrieve import builtin
from effir.retrieve.collections import Collection


@pytest.fixture(scope="module")
def code() -> tuple[Collection, Collection]:
    return builtin.stdlib_code()


def folded(text: str) -> str:
    return "".join(text.lower().split())


def test_the_test_side_has_a_thousand_queries_over_its_own_functions(code: tuple[Collection, Collection]) -> None:
    train, test = code
    assert 1000 <= len(test.queries) <= 1100
    assert 1000 <= len(test.corpus) <= 1200
    assert len(train.queries) > 3 * len(test.queries)
    for side in code:
        assert set(side.qrels) == set(side.queries) == set(side.clusters)
        assert {document for grades in side.qrels.values() for document in grades} == set(side.corpus)


def test_nothing_of_the_test_side_is_in_the_training_side(code: tuple[Collection, Collection]) -> None:
    train, test = code
    assert not {folded(query) for query in train.queries.values()} & {folded(query) for query in test.queries.values()}
    assert not {folded(one.text) for one in train.corpus.values()} & {folded(one.text) for one in test.corpus.values()}
    assert not {key.split(":")[0] for key in train.corpus} & {key.split(":")[0] for key in test.corpus}


def test_no_cluster_dominates_and_clusters_are_modules(code: tuple[Collection, Collection]) -> None:
    _, test = code
    sizes: dict[str, int] = {}
    for query, cluster in test.clusters.items():
        sizes[cluster] = sizes.get(cluster, 0) + 1
        assert any(document.startswith(f"{cluster}:") for document in test.qrels[query])
    assert max(sizes.values()) <= 50
    assert len(sizes) >= 40


def test_documents_are_code_without_docstrings(code: tuple[Collection, Collection]) -> None:
    _, test = code
    for document in test.corpus.values():
        for node in ast.walk(ast.parse(document.text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert ast.get_docstring(node) is None


def test_a_shared_docstring_is_one_query_with_several_documents(code: tuple[Collection, Collection]) -> None:
    texts = [folded(query) for side in code for query in side.queries.values()]
    assert len(set(texts)) == len(texts)
    assert any(len(grades) > 1 for grades in code[1].qrels.values())


def test_the_split_is_the_same_every_time(code: tuple[Collection, Collection]) -> None:
    assert builtin.stdlib_code.__wrapped__() == code


def function(source: str) -> str:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return builtin._code(node, source.split("\n"))


def test_a_docstring_is_cut_out_wherever_it_stands() -> None:
    assert function('def f(a):\n    """Say\n    so."""\n    return a\n') == "def f(a):\n    return a"
    assert function('@wraps\ndef f(a):\n    "Éé"; return a\n') == "@wraps\ndef f(a):\n    ; return a"
    assert function('def f():\n    "Out"\n    def g():\n        """In"""\n        return 1\n    return g\n').count('"') == 0


def test_a_summary_is_the_first_paragraph_before_any_example() -> None:
    assert builtin._summary("Make a\n  thing.\n\nMore.") == "Make a thing."
    assert builtin._summary("Make a thing.\n>>> make()\n1") == "Make a thing."


def test_semanlink_has_the_known_size() -> None:
    collection = builtin.semanlink()
    assert len(collection.corpus) == 314
    assert len(collection.queries) == 432
    assert sum(map(len, collection.qrels.values())) == 1001
    assert max(map(len, collection.qrels.values())) <= 40
    assert all(document.title and document.text for document in collection.corpus.values())
    assert not collection.clusters


def test_semanlink_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(BadInput, match="cherche, which is not installed"):
        builtin.semanlink()


def test_pydoc_topics_are_plain_english() -> None:
    texts = builtin.pydoc_topics()
    assert len(texts) > 60
    assert sum(map(len, texts)) > 300_000
    assert sum(text.count(" the ") for text in texts) > 3000
