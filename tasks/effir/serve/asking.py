"""A request for embeddings, read as OpenAI's API has it, and how a problem is told.

One field more than OpenAI's: `input_type`, `document` (the default) or `query`, says which of the model's two templates a text gets.
"""

from dataclasses import dataclass
from typing import Any

from effir import strictjson
from effir.errors import BadInput, shown
from effir.serve.limits import Limits

FIELDS = ("input", "model", "encoding_format", "dimensions", "user", "input_type")
KINDS = ("document", "query")
FORMATS = ("float", "base64")


class Problem(Exception):
    """Why a request is not answered: an HTTP status and OpenAI's error object. retry_after: seconds, where it is worth while."""

    def __init__(
        self, status: int, sentence: str, *, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A request that can be answered. kind: query or document; dimensions and model: None where it does not say."""

    texts: list[str]
    kind: str = "document"
    base64: bool = False
    dimensions: int | None = None
    model: str | None = None


def read(body: bytes, limits: Limits) -> Asked:
    """Raises Problem (400) naming the field that is wrong."""
    try:
        given = strictjson.loads(body, "the request's body")
    except BadInput as error:
        raise Problem(400, str(error)) from None
    if not isinstance(given, dict):
        raise Problem(400, 'the request\'s body must be a JSON object, such as {"input": "a text"}')
    if unknown := sorted(set(given) - set(FIELDS)):
        raise Problem(400, f"there is no field {shown(unknown[0])}: choose among {', '.join(FIELDS)}", param=unknown[0])
    model, dimensions = given.get("model"), given.get("dimensions")
    if model is not None and not isinstance(model, str):
        raise Problem(400, f"model is {shown(model)}, but must be text", param="model")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise Problem(400, f"dimensions is {shown(dimensions)}, but must be a whole number", param="dimensions")
    kind, form = _one_of(given, "input_type", KINDS), _one_of(given, "encoding_format", FORMATS)
    return Asked(_texts(given.get("input"), limits), kind, form == "base64", dimensions, model)


def _one_of(given: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = given.get(name) if given.get(name) is not None else known[0]
    if value not in known:
        raise Problem(400, f"{name} is {shown(value)}, but must be {' or '.join(known)}", param=name)
    return value


def _texts(value: Any, limits: Limits) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise Problem(400, "input must be a text or a list of texts, and not empty", param="input")
    if len(texts) > limits.texts:
        raise Problem(400, f"input holds {len(texts)} texts, but a request may hold {limits.texts}: send several", param="input")
    if all(isinstance(one, int | list) for one in texts):
        raise Problem(400, "input holds token ids, which belong to another model's tokenizer: send texts", param="input")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise Problem(400, f"input[{number}] is {shown(text)}, but must be a text that is not empty", param="input")
        if len(text) > limits.characters:
            told = f"input[{number}] has {len(text)} characters, but a text may have {limits.characters}"
            raise Problem(400, told, param="input", code="string_above_max_length")
    return texts
