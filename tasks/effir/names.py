"""Names that reach a path, an S3 key, a filter or a file's name, checked in one place. Standard library only."""

import re
from pathlib import Path, PurePosixPath

from effir.errors import BadInput, shown

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
RUN_ID = re.compile(r"[A-Za-z0-9_.~:+-]{1,250}")
"""What Airflow accepts as a run's id by default, and no more than a key can hold."""
REVISION = r"^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*$"
TOLD = "1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit"


def is_name(text: object) -> bool:
    """Whether this may be a part of a path or key: `.`, `..`, slashes and options are not.

    >>> is_name("scifact"), is_name(".."), is_name("--help"), is_name("a/b"), is_name("a" + chr(10))
    (True, False, False, False, False)
    """
    return isinstance(text, str) and re.fullmatch(NAME.strip("^$"), text) is not None


def check_name(text: object, what: str) -> str:
    """The same text. Raises BadInput naming `what` unless it `is_name`."""
    if not isinstance(text, str) or not is_name(text):
        raise BadInput(f"{what} is {shown(text)}: it must be {TOLD}")
    return text


def check_beir(source: str, what: str = "the source") -> str:
    """The name in `beir:NAME`, which may have parts (beir:cqadupstack/android). Raises BadInput where it could lead elsewhere.

    what: the setting that holds it.
    """
    name = source.removeprefix("beir:")
    if not all(map(is_name, name.split("/"))):
        raise BadInput(f"{what}: {shown(source)} names no BEIR collection: each part of its name must be {TOLD}")
    return name


def check_run_id(run_id: object) -> str:
    """The same id. Raises BadInput where it could reach elsewhere than its own run's keys, or end a filter early."""
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id) or not run_id.strip("."):
        raise BadInput(f"the run id {shown(run_id)} is no name for a folder: use letters, digits and . _ ~ : + - alone, 250 at most")
    return run_id


def is_relative(path: str) -> bool:
    """Whether a path in POSIX spelling names a file below the folder that it is put in; backslashes and control characters are refused.

    >>> is_relative("model/config.json"), is_relative("../x"), is_relative("/etc/x"), is_relative("a//b"), is_relative("")
    (True, False, False, False, False)
    """
    plain = "\\" not in path and not any(ord(character) < 32 for character in path)
    return plain and not {"", ".", ".."} & set(path.split("/"))


def below(folder: Path, path: str, where: str) -> Path:
    """The file that a relative path names in a folder. Raises BadInput naming `where` it stood if it would leave the folder."""
    if not is_relative(path):
        raise BadInput(f"{where} names the file {shown(path)}, which would lie outside its folder or names none: it is not written")
    return folder / PurePosixPath(path)


def check_links(folder: Path) -> None:
    """No link in a folder leads out of it. Raises BadInput naming the link.

    A snapshot in Hugging Face's cache consists of links, which may not lead out of that model's place there.
    """
    cached = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    home = (folder.parent.parent if cached else folder).resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise BadInput(f"{path} is a link to {path.readlink()}, outside {home}: put the file itself there")
