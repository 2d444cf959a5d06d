"""Manifests: what the store holds, and what a download makes of it."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effir.errors import BadInput
from effir.manifest import Manifest, parse
from effir.names import below
from effir.services.store import Store

HEX = "a" * 64
GOOD = {
    "phase": "depth", "digest": HEX, "key": {}, "files": {"a.json": {"sha256": HEX, "size": 2}}, "parts": {}, "numbers": {}, "output": {},
    "seconds": 1.5, "forward_passes": 0, "created": "2026-01-01T00:00:00+00:00",
}  # fmt: skip
NAMES = {
    "climbing": "../a", "climbing inside": "a/../../b", "absolute": "/etc/passwd", "empty": "", "a dot": ".", "two dots": "..",
    "a zero byte": "a\0b", "a backslash": "a\\..\\b", "an empty part": "a//b", "a trailing slash": "a/", "a line break": "a\nb",
}  # fmt: skip
CHANGES: dict[str, dict[str, object]] = {
    "no phase": {"phase": ...},
    "phase a number": {"phase": 1},
    "phase that climbs": {"phase": "../depth"},
    "phase empty": {"phase": ""},
    "digest short": {"digest": "abc"},
    "digest with a slash": {"digest": "a/" * 32},
    "digest in capitals": {"digest": "A" * 64},
    "digest null": {"digest": None},
    "files a list": {"files": []},
    "files null": {"files": None},
    "a file without sha256": {"files": {"a": {"size": 1}}},
    "a file without size": {"files": {"a": {"sha256": HEX}}},
    "a size below zero": {"files": {"a": {"sha256": HEX, "size": -1}}},
    "a size that is a word": {"files": {"a": {"sha256": HEX, "size": "big"}}},
    "a size Infinity": {"files": {"a": {"sha256": HEX, "size": math.inf}}},
    "a sha256 that is none": {"files": {"a": {"sha256": "x" * 64, "size": 1}}},
    "a sha256 cut": {"files": {"a": {"sha256": "a" * 63, "size": 1}}},
    "a file that is a text": {"files": {"a": HEX}},
    "parts a list": {"parts": []},
    "a part that is a number": {"parts": {"a": 1}},
    "a part that is no address": {"parts": {"a": "x"}},
    "a part elsewhere": {"parts": {"a": "file:///etc/passwd"}},
    "numbers a list": {"numbers": []},
    "output a text": {"output": "x"},
    "key null": {"key": None},
    "seconds NaN": {"seconds": math.nan},
    "seconds Infinity": {"seconds": math.inf},
    "seconds below zero": {"seconds": -1},
    "passes below zero": {"forward_passes": -1},
    "passes a fraction": {"forward_passes": 0.5},
    "passes a word": {"forward_passes": "many"},
    "created a number": {"created": 1},
    "created null": {"created": None},
    "a field that nobody knows": {"pickle": "x"},
} | {f"a file's name, {name}": {"files": {value: {"sha256": HEX, "size": 1}}} for name, value in NAMES.items()}
BODIES = {
    "empty": b"", "null": b"null", "a list": b"[]", "a text": b'"manifest"', "cut": json.dumps(GOOD).encode()[:40], "zeros": b"\0" * 64,
    "Latin-1": b'{"phase": "\xe9"}', "nested deeply": b"[" * 100_000, "objects nested deeply": b'{"a":' * 100_000,
    "a field twice": json.dumps(GOOD).encode()[:-1] + b', "phase": "slim"}', "half a character": b'{"phase": "\\ud800"}',
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
}  # fmt: skip
FAULTS = CHANGES | BODIES


def changed(fault: str) -> dict[str, object]:
    return {key: value for key, value in (GOOD | CHANGES[fault]).items() if value is not ...}


@pytest.mark.parametrize("fault", CHANGES)
def test_a_wrong_manifest_is_refused_and_its_field_named(refusal, fault):
    sentence = refusal(lambda: parse(changed(fault), "s3://effir/artifacts/x/manifest.json"))
    assert "s3://effir/artifacts/x/manifest.json" in sentence
    assert next(iter(CHANGES[fault])) in sentence


@pytest.mark.parametrize("fault", BODIES)
def test_a_stored_manifest_that_is_none_is_refused_and_counts_as_absent(store: Store, refusal, fault):
    uri = f"{store.artifact('depth', HEX)}/manifest.json"
    store.client.put_object(Bucket="effir", Key=uri.removeprefix("s3://effir/"), Body=BODIES[fault])
    assert uri in refusal(lambda: store.manifest(uri))
    assert store.find("depth", HEX) is None
    assert not store.exists(uri), "a damaged manifest is removed, so that the work is done again"


def test_keys_that_climb_are_not_downloaded(store: Store, tmp_path: Path, refusal):
    store.client.put_object(Bucket="effir", Key=f"{store.root.removeprefix('s3://effir/')}/in/a/..b/x", Body=b"fine")
    store.download_prefix(f"{store.root}/in", tmp_path / "fine")
    assert (tmp_path / "fine" / "a" / "..b" / "x").read_bytes() == b"fine"
    for name in ("../escaped", "a/../../escaped", "/escaped", "a\0b"):
        with pytest.raises(BadInput):
            below(tmp_path / "out", name, "place")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("changes", [{"seconds": 2}, {"mlflow_run_id": "x"}, {"files": {"modèle/日本 1.bin": {"sha256": HEX, "size": 0}}}])
def test_odd_but_legal_manifests_are_read(changes):
    assert isinstance(parse(GOOD | changes, "x"), Manifest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(GOOD)), JSON)
def test_any_value_in_a_field_is_a_sound_manifest_or_is_refused(refusal, name, value):
    try:
        found = parse(GOOD | {name: value}, "place")
    except BadInput:
        assert "place" in refusal(lambda: parse(GOOD | {name: value}, "place"))
    else:
        assert all(not Path(one).is_absolute() and ".." not in Path(one).parts for one in found.files)
        assert math.isfinite(found.seconds)
