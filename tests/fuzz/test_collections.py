"""Collections in BEIR layout: corpus, queries, qrels and collection.json."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effir.errors import BadInput
from effir.retrieve.collections import load_folder, save_folder
from effir.retrieve.metrics import per_query

GOOD = {
    "corpus.jsonl": b'{"_id": "d1", "title": "one", "text": "first"}\n{"_id": "d2", "text": "second"}\n',
    "queries.jsonl": b'{"_id": "q1", "text": "what"}\n{"_id": "q2", "text": "who"}\n',
    "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n",
}
DEEP = b"[" * 100_000
LINES: dict[str, bytes] = {
    "empty": b"",
    "blank lines alone": b"\n\r\n  \n",
    "a byte-order mark alone": b"\xef\xbb\xbf",
    "cut in the middle": b'{"_id": "d1", "te',
    "no JSON": b"hello\n",
    "a list": b"[1]\n",
    "a number": b"7\n",
    "a text": b'"d1"\n',
    "null": b"null\n",
    "true": b"true\n",
    "two objects on a line": b'{"_id": "d1", "text": "a"}{"_id": "d2", "text": "b"}\n',
    "carriage returns as line ends": b'{"_id": "d1", "text": "a"}\r{"_id": "d2", "text": "b"}\r',
    "no id": b'{"text": "a"}\n',
    "no text": b'{"_id": "d1"}\n',
    "text null": b'{"_id": "d1", "text": null}\n',
    "text a number": b'{"_id": "d1", "text": 1}\n',
    "text a list": b'{"_id": "d1", "text": ["a"]}\n',
    "text NaN": b'{"_id": "d1", "text": NaN}\n',
    "id null": b'{"_id": null, "text": "a"}\n',
    "id empty": b'{"_id": "", "text": "a"}\n',
    "id with a space": b'{"_id": "d 1", "text": "a"}\n',
    "id with a tab": b'{"_id": "d\\t1", "text": "a"}\n',
    "id with a line break": b'{"_id": "d\\n1", "text": "a"}\n',
    "id with a line separator": b'{"_id": "d\\u20281", "text": "a"}\n',
    "id with a no-break space": '{"_id": "d\u00a01", "text": "a"}\n'.encode(),
    "id true": b'{"_id": true, "text": "a"}\n',
    "id a fraction": b'{"_id": 1.5, "text": "a"}\n',
    "id a list": b'{"_id": ["d1"], "text": "a"}\n',
    "id NaN": b'{"_id": NaN, "text": "a"}\n',
    "id Infinity": b'{"_id": Infinity, "text": "a"}\n',
    "id twice": b'{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n',
    "id twice, as number and text": b'{"_id": 1, "text": "a"}\n{"_id": "1", "text": "b"}\n',
    "field _id twice": b'{"_id": "d1", "_id": "d2", "text": "a"}\n',
    "field text twice": b'{"_id": "d1", "text": "a", "text": "b"}\n',
    "half a character in the text": b'{"_id": "d1", "text": "\\ud800"}\n',
    "half a character in the id": b'{"_id": "d\\udfff", "text": "a"}\n',
    "half a character in a name": b'{"_id": "d1", "text": "a", "\\ud800": 1}\n',
    "UTF-16": '{"_id": "d1", "text": "a"}\n'.encode("utf-16"),
    "UTF-16 without a mark": '{"_id": "d1", "text": "a"}\n'.encode("utf-16-le"),
    "UTF-32": '{"_id": "d1", "text": "a"}\n'.encode("utf-32"),
    "Latin-1": '{"_id": "d1", "text": "é"}\n'.encode("latin-1"),
    "cut in a character": '{"_id": "d1", "text": "é'.encode()[:-1],
    "a list nested deeply": b'{"_id": "d1", "text": ' + DEEP + b"}\n",
    "objects nested deeply": b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
    "a huge line that is no JSON": b"x" * 2_000_000,
    "a huge id": b'{"_id": "' + b"a b" * 300_000 + b'", "text": "a"}\n',
    "a number of 5,000 digits": b'{"_id": ' + b"1" * 5000 + b', "text": "a"}\n',
    "compressed": gzip.compress(b'{"_id": "d1", "text": "a"}\n', mtime=0),
    "zeros": b"\0" * 100,
    "single quotes": b"{'_id': 'd1', 'text': 'a'}\n",
    "a comma too many": b'{"_id": "d1", "text": "a",}\n',
    "a comment": b'// documents\n{"_id": "d1", "text": "a"}\n',
    "a table with commas": b"_id,text\nd1,a\n",
    "a byte-order mark in the middle": b'{"_id": "d1", "text": "a"}\n\xef\xbb\xbf{"_id": "d2", "text": "b"}\n',
    "a control character in a text": b'{"_id": "d1", "text": "a\x01"}\n',
}
CORPUS = LINES | {
    "title a number": b'{"_id": "d1", "title": 7, "text": "a"}\n',
    "title a list": b'{"_id": "d1", "title": [], "text": "a"}\n',
}
QRELS: dict[str, bytes] = {
    "empty": b"",
    "a heading alone": b"query-id\tcorpus-id\tscore\n",
    "two columns": b"q1\td1\n",
    "four columns": b"q1\t0\td1\t1\n",
    "commas": b"q1,d1,1\n",
    "spaces": b"q1 0 d1 1\n",
    "score a fraction": b"q1\td1\t1.0\n",
    "score a word": b"q1\td1\t1\nq2\td2\tyes\n",
    "score empty": b"q1\td1\t1\nq2\td2\t\n",
    "score NaN": b"q1\td1\t1\nq2\td2\tNaN\n",
    "score infinite": b"q1\td1\t1\nq2\td2\tinf\n",
    "score with an exponent": b"q1\td1\t1e3\n",
    "score hexadecimal": b"q1\td1\t0x1\n",
    "score with two signs": b"q1\td1\t--1\n",
    "score with an underscore": b"q1\td1\t1_0\n",
    "score gigantic": b"q1\td1\t1000000000000\n",
    "score beyond 64 bits": b"q1\td1\t" + b"9" * 30 + b"\n",
    "score of 5,000 digits": b"q1\td1\t" + b"9" * 5000 + b"\n",
    "score negative and gigantic": b"q1\td1\t-2147483648\n",
    "score superscript": "q1\td1\t²1\n".encode(),
    "score in Arabic digits": "q1\td1\t١\n".encode(),
    "no positive score": b"q1\td1\t0\nq2\td2\t-1\n",
    "an unknown query": b"q9\td1\t1\n",
    "an unknown document": b"q1\td9\t1\n",
    "a path for a document": b"q1\t../../etc/passwd\t1\n",
    "no query": b"\td1\t1\n",
    "no document": b"q1\t\t1\n",
    "judged twice, differently": b"q1\td1\t1\nq1\td1\t2\n",
    "a heading in the middle": b"q1\td1\t1\nquery-id\tcorpus-id\tscore\n",
    "Latin-1": "q1\td1\t1\né\td1\t1\n".encode("latin-1"),
    "UTF-16": "q1\td1\t1\n".encode("utf-16"),
    "zeros": b"\0" * 50,
    "a huge line": b"q1\t" + b"d" * 1_000_000 + b"\t1\n",
}
ABOUT: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"name: x",
    "a list": b"[]",
    "null": b"null",
    "nested deeply": DEEP,
    "Latin-1": '{"name": "é"}'.encode("latin-1"),
    "a field twice": b'{"name": "a", "name": "b"}',
    "clusters a list": b'{"clusters": ["q1"]}',
    "clusters null": b'{"clusters": null}',
    "a cluster that is a number": b'{"clusters": {"q1": 1}}',
    "a cluster that is a list": b'{"clusters": {"q1": ["a"]}}',
    "name a number": b'{"name": 1}',
    "source a list": b'{"source": []}',
    "licence null": b'{"licence": null}',
    "pooled a word": b'{"pooled": "no"}',
}
FAULTS = {
    f"{file}: {name}": (file, data)
    for file, table in (("corpus.jsonl", CORPUS), ("queries.jsonl", LINES), ("qrels/test.tsv", QRELS), ("collection.json", ABOUT))
    for name, data in table.items()
}
LEGAL = {
    "CRLF": {name: data.replace(b"\n", b"\r\n") for name, data in GOOD.items()},
    "byte-order marks": {name: b"\xef\xbb\xbf" + data for name, data in GOOD.items()},
    "both": {name: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") for name, data in GOOD.items()},
    "blank lines": {name: data.replace(b"\n", b"\n\n") + b"\n  \n\r\n" for name, data in GOOD.items()},
    "no line end at the end": {name: data.rstrip(b"\n") for name, data in GOOD.items()},
    "no heading": {"qrels/test.tsv": b"q1\td1\t1\nq2\td2\t2\n"},
    "the same judgement twice": {"qrels/test.tsv": GOOD["qrels/test.tsv"] + b"q1\td1\t1\n"},
    "spaces around columns": {"qrels/test.tsv": b"q1 \t d1\t 1 \nq2\td2\t+2\n"},
    "negative grades": {"qrels/test.tsv": GOOD["qrels/test.tsv"] + b"q1\td2\t-1\n"},
    "fields that nobody knows": {"corpus.jsonl": b'{"_id": "d1", "title": null, "text": "a", "x": NaN}\n{"_id": "d2", "text": ""}\n'},
    "a huge line": {"corpus.jsonl": b'{"_id": "d1", "text": "' + b"a" * 1_000_000 + b'"}\n{"_id": "d2", "text": "\xe2\x80\xa8"}\n'},
    "a pair of surrogates": {"corpus.jsonl": b'{"_id": "d1", "text": "\\ud83d\\ude00"}\n{"_id": "d2", "text": "b"}\n'},
    "a collection.json with a mark": {"collection.json": b'\xef\xbb\xbf{"name": "x", "clusters": {"q1": "c"}}\r\n'},
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_collection_is_refused_with_its_place(tmp_path, refusal, contents, fault):
    file, data = FAULTS[fault]
    folder = write(tmp_path / "seen", GOOD | {file: data})
    before = contents(tmp_path)
    assert str(folder) in refusal(lambda: load_folder(folder))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_file_is_named(tmp_path, refusal, missing):
    folder = write(tmp_path, {name: data for name, data in GOOD.items() if name != missing})
    assert missing in refusal(lambda: load_folder(folder))
    (folder / missing).mkdir(parents=True)
    assert missing in refusal(lambda: load_folder(folder))


@pytest.mark.parametrize("name", LEGAL)
def test_odd_but_legal_forms_are_read(tmp_path, name):
    found = load_folder(write(tmp_path / "seen", GOOD | LEGAL[name]))
    assert (set(found.corpus), set(found.queries)) == ({"d1", "d2"}, {"q1", "q2"})
    assert found.qrels["q1"]["d1"] == 1
    again = load_folder(save_folder(found, tmp_path / "again"))
    assert (dict(again.corpus.items()), again.queries, again.qrels) == (dict(found.corpus.items()), found.queries, found.qrels)


@pytest.mark.parametrize("key", ["a/b", "../../etc/passwd", "/etc/passwd", "日本", "😀", "-rf", "{{1}}", "a\\b", "%2e%2e", "q;drop"])
def test_strange_ids_are_ids_and_never_paths(tmp_path, contents, key):
    files = {
        "corpus.jsonl": json.dumps({"_id": key, "text": "a"}).encode(),
        "queries.jsonl": json.dumps({"_id": key, "text": "b"}).encode(),
        "qrels/test.tsv": f"{key}\t{key}\t1\n".encode(),
    }
    found = load_folder(write(tmp_path / "seen", files))
    save_folder(found, tmp_path / "again", shard_documents=10)
    assert {name.split("/")[0] for name in contents(tmp_path)} == {"seen", "again"}
    assert set(contents(tmp_path / "again")) == {"collection.json", "corpus/00000.jsonl", "qrels/test.tsv", "queries.jsonl"}
    assert per_query({key: {key: 1.0}}, found.qrels)[key]["ndcg_at_10"] == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*GOOD, "collection.json"]), st.binary(max_size=80), st.integers(0, 60), st.integers(0, 40))
def test_any_bytes_are_read_or_refused(tmp_path, refusal, file, junk, start, length):
    """Bytes put into a sound file, or in place of some of it."""
    data = GOOD.get(file, b'{"name": "x", "clusters": {"q1": "c"}}')
    folder = write(tmp_path / "seen", GOOD | {file: data[:start] + junk + data[start + length :]})
    try:
        found = load_folder(folder)
    except BadInput:
        assert str(folder) in refusal(lambda: load_folder(folder))
    else:
        save_folder(found, tmp_path / "again")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["_id", "title", "text"]), JSON)
def test_any_value_in_a_field_is_read_or_refused(tmp_path, refusal, name, value):
    row = {"_id": "d1", "title": "", "text": "a"} | {name: value}
    folder = write(tmp_path / "seen", GOOD | {"corpus.jsonl": json.dumps(row).encode() + b"\n" + GOOD["corpus.jsonl"].split(b"\n")[1]})
    sound = isinstance(value, str) if name != "title" else isinstance(value, str) or value is None
    if name == "_id":
        sound = (isinstance(value, str) and value == "d1") or (isinstance(value, int) and not isinstance(value, bool) and value == "d1")
    if sound:
        save_folder(load_folder(folder), tmp_path / "again")
    else:
        assert str(folder) in refusal(lambda: load_folder(folder))
