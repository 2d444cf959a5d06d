"""JSON that others wrote, read strictly: it has one meaning and can be stored as text again, or it is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

from effir.errors import BadInput, shown


def loads(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; `where` names its place in errors. NaN and Infinity are let through as floats.

    Raises BadInput if it does not parse, is nested too deeply, gives a field twice, or holds half a character (a lone surrogate).

    >>> loads('{"a": [1, null]}', "here")
    {'a': [1, None]}
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_once)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except _Twice as error:
        raise BadInput(f"{where}: the field {shown(error.args[0])} is there twice") from None
    except RecursionError:
        raise BadInput(f"{where}: this is nested too deeply") from None
    except UnicodeEncodeError:
        raise BadInput(f"{where}: a text in it holds half a character (a lone surrogate), which is not Unicode") from None
    except UnicodeDecodeError:
        raise BadInput(f"{where}: this is not UTF-8 text") from None
    except ValueError:
        raise BadInput(f"{where}: this is not valid JSON") from None
    return value


def read(path: Path) -> Any:
    """A file's JSON (UTF-8, with or without a byte-order mark). Raises BadInput for a file that is absent, and as `loads` does."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    return loads(data, str(path))


def table(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises BadInput as `read` does, and for anything but an object."""
    value = read(path)
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a JSON object with named fields, found {type(value).__name__}")
    return value


class _Twice(Exception):
    """A name that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found
