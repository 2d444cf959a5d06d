"""Training data with teacher scores, and calibration text."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effir import sources
from effir.errors import BadInput
from effir.train import examples

ROW = {"query": "a", "pos": ["x"], "neg": ["y", "z"], "pos_scores": [2.5], "neg_scores": [-1, 0]}
DEEP = "[" * 100_000


def row(**changes: object) -> bytes:
    return json.dumps({key: value for key, value in (ROW | changes).items() if value is not ...}).encode() + b"\n"


ROWS: dict[str, bytes] = {
    "empty": b"",
    "blank lines alone": b"\n \n",
    "no JSON": b"query\tpos\n",
    "cut in the middle": row()[:20],
    "a list": b"[]\n",
    "Latin-1": row(query="QUERY").replace(b"QUERY", b"\xe9"),
    "UTF-16": json.dumps(ROW).encode("utf-16"),
    "nested deeply": f'{{"query": {DEEP}'.encode(),
    "a field twice": b'{"query": "a", "query": "b", "pos": ["x"]}\n',
    "half a character in the query": row(query="\ud800"),
    "half a character in a positive": row(pos=["\udc00"]),
    "no query": row(query=...),
    "query null": row(query=None),
    "query a number": row(query=7),
    "query a list": row(query=["a"]),
    "no positives": row(pos=..., pos_scores=...),
    "positives empty": row(pos=[], pos_scores=[]),
    "positives null": row(pos=None),
    "positives a number": row(pos=1),
    "positives false": row(pos=False),
    "positives an object": row(pos={"x": 1}),
    "a positive that is a number": row(pos=[1]),
    "a positive that is null": row(pos=[None]),
    "a positive that is a list": row(pos=[["x"]]),
    "negatives a number": row(neg=0),
    "negatives an object": row(neg={}),
    "negatives false": row(neg=False),
    "a negative that is a number": row(neg=["y", 2]),
    "query id a list": row(query_id=["q"]),
    "query id null": row(query_id=None),
    "query id true": row(query_id=True),
    "query id a fraction": row(query_id=1.5),
    "query id empty": row(query_id=""),
    "query id twice": row(query_id="q") * 2,
    "query id twice, as number and text": row(query_id=1) + row(query_id="1"),
    "ids without a corpus": json.dumps({"query": "a", "pos_ids": ["d1"], "neg_ids": []}).encode(),
    "score NaN": row(pos_scores=[math.nan]),
    "score Infinity": row(pos_scores=[math.inf]),
    "score -Infinity": row(neg_scores=[0, -math.inf]),
    "score beyond a float": row().replace(b"2.5", b"1e999"),
    "score a gigantic integer": row().replace(b"2.5", b"1" + b"0" * 400),
    "score beyond single precision": row(pos_scores=[1e60]),
    "score a text": row(pos_scores=["2.5"]),
    "score null": row(pos_scores=[None]),
    "score true": row(pos_scores=[True]),
    "score a list": row(pos_scores=[[2.5]]),
    "scores a number": row(pos_scores=2.5),
    "scores a text": row(pos_scores="2.5"),
    "scores an object": row(pos_scores={"x": 2.5}),
    "too few scores": row(neg_scores=[0]),
    "too many scores": row(pos_scores=[1, 2]),
    "no scores at all": row(pos_scores=[]),
    "scores of the positives alone": row(neg_scores=...),
    "scores of the negatives alone": row(pos_scores=...),
}
IDS: dict[str, bytes] = {
    "an unknown positive": b'{"query": "a", "pos_ids": ["d9"], "neg_ids": []}\n',
    "an unknown negative": b'{"query": "a", "pos_ids": ["d1"], "neg_ids": ["d9"]}\n',
    "a path for an id": b'{"query": "a", "pos_ids": ["../../etc/passwd"], "neg_ids": []}\n',
    "an id that is a number": b'{"query": "a", "pos_ids": [1], "neg_ids": []}\n',
    "an id that is huge": b'{"query": "a", "pos_ids": ["' + b"d" * 1_000_000 + b'"], "neg_ids": []}\n',
    "texts in the second row": b'{"query": "a", "pos_ids": ["d1"]}\n{"query": "b", "pos": ["x"]}\n',
}
SAVED: dict[str, dict[str, bytes]] = {
    "no dataset.json": {},
    "dataset.json empty": {"dataset.json": b""},
    "dataset.json a list": {"dataset.json": b"[]"},
    "dataset.json nested deeply": {"dataset.json": DEEP.encode()},
    "no corpus": {"dataset.json": b"{}", "corpus.jsonl": b""},
    "examples cut": {"dataset.json": b"{}", "examples.jsonl": b'{"query_id": "q", "query": "a", "positives": ["d'},
    "no positives": {"dataset.json": b"{}", "examples.jsonl": b'{"query_id": "q", "query": "a", "positives": []}'},
}
TEXT: dict[str, tuple[str, bytes]] = {
    "empty": ("text.txt", b""),
    "blanks": ("text.txt", b" \n\n \r\n"),
    "Latin-1": ("text.txt", "é".encode("latin-1")),
    "UTF-16": ("text.txt", "é".encode("utf-16")),
    "another kind of file": ("text.pdf", b"%PDF"),
    "lines without text": ("text.jsonl", b'{"a": "b"}\n'),
    "lines with text null": ("text.jsonl", b'{"text": null}\n'),
    "lines with empty text": ("text.jsonl", b'{"text": " "}\n'),
    "lines with half a character": ("text.jsonl", b'{"text": "\\udead"}\n'),
    "lines cut": ("text.jsonl", b'{"text": "a"}\n{"te'),
}
NAMES = {
    "a folder of an unknown user": "~nobody-of-that-name/data",
    "a zero byte": "a\0b",
    "a name longer than any": "x" * 5000,
    "half a character": "a\ud800",
    "a line break": "a\nb",
    "an absent file": "/absent/rows.jsonl",
    "a device": "/dev/null",
}
FAULTS = {
    f"{kind}: {name}": fault
    for kind, table in (("rows", ROWS), ("ids", IDS), ("saved", SAVED), ("text", TEXT), ("source", NAMES))
    for name, fault in table.items()
}
CORPUS = b'{"_id": "d1", "text": "x"}\n{"_id": "d2", "text": "y"}\n'


@pytest.mark.parametrize("fault", ROWS)
def test_bad_rows_are_refused_with_their_place(tmp_path, refusal, fault):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS[fault])
    assert str(path) in refusal(lambda: sources.training_set(str(path), tmp_path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", IDS)
def test_bad_ids_are_refused_with_their_place(tmp_path, refusal, fault):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(IDS[fault])
    (tmp_path / "corpus.jsonl").write_bytes(CORPUS)
    assert str(path) in refusal(lambda: sources.training_set(str(path), tmp_path))


@pytest.mark.parametrize("fault", SAVED)
def test_a_damaged_training_set_is_refused_with_its_place(tmp_path, refusal, fault):
    files = {"corpus.jsonl": CORPUS, "examples.jsonl": b'{"query_id": "q", "query": "a", "positives": ["d1"]}\n'} | SAVED[fault]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert str(tmp_path) in refusal(lambda: sources.training_set(str(tmp_path), tmp_path))


@pytest.mark.parametrize("fault", TEXT)
def test_bad_calibration_text_is_refused_with_its_place(tmp_path, refusal, fault):
    name, data = TEXT[fault]
    (tmp_path / name).write_bytes(data)
    assert name in refusal(lambda: sources.calibration_texts(str(tmp_path / name)))


@pytest.mark.parametrize("read", [sources.training_set, lambda one, scratch: sources.collection(one, "x", scratch)], ids=["train", "test"])
@pytest.mark.parametrize("fault", NAMES)
def test_a_source_that_cannot_be_is_refused(tmp_path, refusal, fault, read):
    assert refusal(lambda: read(NAMES[fault], tmp_path))
    assert refusal(lambda: sources.calibration_texts(NAMES[fault]))


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + row(), row().replace(b"\n", b"\r\n"), row() + b"\n  \n", row().rstrip(b"\n")])
def test_odd_but_legal_forms_are_read(tmp_path, data):
    (tmp_path / "rows.jsonl").write_bytes(data)
    (example,) = sources.training_set(str(tmp_path / "rows.jsonl"), tmp_path).examples
    assert (example.query, example.positive_scores, example.negative_scores) == ("a", [2.5], [-1.0, 0.0])
    saved = examples.load(examples.save(sources.training_set(str(tmp_path / "rows.jsonl"), tmp_path), tmp_path / "saved"))
    assert saved.examples == [example]


@pytest.mark.parametrize(
    "changes", [{"pos": "x"}, {"neg": None, "neg_scores": None}, {"query_id": 7}, {"query_id": "a/b"}, {"prompt": "?"}]
)
def test_optional_things_may_be_left_out(tmp_path, changes):
    (tmp_path / "rows.jsonl").write_bytes(row(**changes))
    assert len(sources.training_set(str(tmp_path / "rows.jsonl"), tmp_path).examples) == 1


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(ROW)), st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.lists(st.floats() | st.text()))
def test_any_value_in_a_field_is_read_or_refused(tmp_path, refusal, name, value):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(row(**{name: value}))
    try:
        found = sources.training_set(str(path), tmp_path)
    except BadInput:
        assert str(path) in refusal(lambda: sources.training_set(str(path), tmp_path))
    else:
        (example,) = found.examples
        assert all(map(math.isfinite, [*(example.positive_scores or []), *(example.negative_scores or [])]))
        examples.save(found, tmp_path / "saved")
