import json
from typing import Any

import pytest

from effir.serve import asking
from effir.serve.asking import Asked, Problem
from effir.serve.limits import Limits

LIMITS = Limits(texts=3, characters=10)


def read(**given: Any) -> Asked:
    return asking.read(json.dumps(given).encode(), LIMITS)


def test_a_text_or_a_list_of_texts_as_documents_unless_told_otherwise() -> None:
    assert read(input="a text") == Asked(["a text"], "document", False, None, None)
    full = {"model": "m", "encoding_format": "base64", "dimensions": 4, "user": "u", "input_type": "query"}
    assert read(input=["a", "b"], **full) == Asked(["a", "b"], "query", True, 4, "m")
    assert read(input="a", encoding_format=None, input_type=None, model=None, dimensions=None) == Asked(["a"])


@pytest.mark.parametrize(
    ("given", "param", "sentence"),
    [
        ({}, "input", "input must be a text or a list of texts"),
        ({"input": []}, "input", "and not empty"),
        ({"input": {"a": 1}}, "input", "input must be a text or a list of texts"),
        ({"input": ""}, "input", "input[0] is ''"),
        ({"input": ["a", None]}, "input", "input[1] is None"),
        ({"input": [1, 2, 3]}, "input", "token ids"),
        ({"input": [[1, 2], [3]]}, "input", "token ids"),
        ({"input": ["a"] * 4}, "input", "input holds 4 texts, but a request may hold 3"),
        ({"input": ["a", "b" * 11]}, "input", "input[1] has 11 characters, but a text may have 10"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "must be float or base64"),
        ({"input": "a", "input_type": "passage"}, "input_type", "must be document or query"),
        ({"input": "a", "input_type": ["query"]}, "input_type", "must be document or query"),
        ({"input": "a", "inputtype": "query"}, "inputtype", "there is no field 'inputtype'"),
        ({"input": "a", "dimensions": "64"}, "dimensions", "must be a whole number"),
        ({"input": "a", "dimensions": True}, "dimensions", "must be a whole number"),
        ({"input": "a", "model": 7}, "model", "must be text"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(Problem) as problem:
        read(**given)
    told = problem.value.body()["error"]
    assert (problem.value.status, told["type"], told["param"]) == (400, "invalid_request_error", param)
    assert sentence in told["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"a"', b"\xff", b'{"input": "\\ud800"}', b"[" * 100_000, b'{"input": "a", "input": "b"}']
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as problem:
        asking.read(body, LIMITS)
    assert problem.value.status == 400 and "the request's body" in str(problem.value)
