"""Credentials that a phase finds in a file, so that they are on no command line and in nobody else's environment.

EFFIR_CREDENTIALS names the file: lines of NAME=value, such as AWS_ACCESS_KEY_ID=…; empty lines and those that start with # count for
nothing. Whoever starts the phase chooses the file of its role.
"""

import os
import re
from pathlib import Path

from effir.errors import BadInput

VARIABLE = "EFFIR_CREDENTIALS"
LINE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)")


def load() -> None:
    """Put what the file says into os.environ; nothing where none is named. Raises BadInput, which shows no value."""
    if path := os.environ.get(VARIABLE):
        os.environ.update(read(Path(path)))


def read(path: Path) -> dict[str, str]:
    """Name → value of a file of credentials. Raises BadInput where it cannot be read, or has a line of another form."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{VARIABLE} names {path}, which cannot be read: {getattr(error, 'strerror', 'it is no text')}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not (parsed := LINE.fullmatch(line)):
            raise BadInput(f"line {number} of {path} is not of the form NAME=value")
        found[parsed["name"]] = parsed["value"]
    return found
