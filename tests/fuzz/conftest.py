"""What every test of bad input asks: one typed error, one clear sentence that names the place, and nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.errors import EffirError

LONGEST = 1001


def refusal(call: Callable[[], Any]) -> str:
    """The sentence with which a call is refused."""
    try:
        call()
    except EffirError as error:
        sentence = str(error)
        assert sentence.strip(), "the sentence is empty"
        assert len(sentence.splitlines()) == 1, f"more than a line: {sentence!r}"
        assert len(sentence) <= LONGEST, f"{len(sentence)} characters are no sentence: {sentence[:200]!r}…"
        assert "Traceback" not in sentence
        sentence.encode()
        return sentence
    raise AssertionError("it was not refused")


@pytest.fixture(name="refusal", scope="session")
def _refusal() -> Callable[[Callable[[], Any]], str]:
    return refusal


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(name="contents", scope="session")
def _contents() -> Callable[[Path], dict[str, bytes]]:
    return contents
