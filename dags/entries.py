"""The lists that people write beside the DAGs, deployments.json and indexes.json: where they are, and what is said of a wrong one."""

import json
import os
from pathlib import Path
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError


def place(variable: str, name: str) -> Path:
    """Where the list is: the file of this name here, or the one that the environment variable names."""
    return Path(os.environ.get(variable) or Path(__file__).parent / name)


def read(path: Path, idle: str) -> list[Any]:
    """The entries of a list, unchecked. idle: what does not happen without them. Raises ValueError where there is no list."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): {idle} until it can") from None
    if not isinstance(found, list):
        raise ValueError(f"{path} must hold a list of entries, and holds {type(found).__name__}: write [{{…}}, {{…}}]")
    return found


def field_fault(param: Param | None, value: Any) -> str | None:
    """What is wrong with a field of the spec, by the schema that the trigger form is made from; None where nothing is."""
    if param is None:
        return "is no field of the spec"
    try:
        param.resolve(value)
    except ParamValidationError as error:
        return f"is wrong: {str(error).splitlines()[0]}"
    return None
