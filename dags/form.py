"""The trigger form: a flat, typed parameter for each field of the spec, generated from spec.schema.json.

`effir spec --schema` writes that file. A field left empty keeps the profile's value.
"""

import json
from pathlib import Path
from typing import Any

from airflow.sdk import Param

SCHEMA = Path(__file__).parent / "spec.schema.json"
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "minLength")
EMPTY = "as the profile says"
OPENING = (
    "The recipe that all other fields start from: a field left empty keeps the recipe's value. `demo` takes minutes on two cores; "
    "`effir plan --profile NAME --hardware …` says beforehand what another one takes."
)


def params(profile: str = "demo", overrides: dict[str, Any] | None = None) -> dict[str, Param]:
    """The parameters of a DAG, with these values filled in."""
    schema = json.loads(SCHEMA.read_text())
    filled = overrides or {}
    if unknown := sorted(set(filled) - set(schema["properties"])):
        raise ValueError(f"overrides name {', '.join(unknown)}, which the spec does not have")
    choice = Param(profile, type="string", enum=schema["profiles"], title="Profile", description_md=OPENING, section="Profile")
    return {"profile": choice} | {name: field(one, filled.get(name)) for name, one in schema["properties"].items()}


def field(schema: dict[str, Any], value: Any = None) -> Param:
    """One field of the spec as a parameter that may be left empty."""
    typed = next((one for one in schema.get("anyOf", []) if one.get("type") != "null"), schema)
    bounds = {name: typed[name] for name in BOUNDS if name in typed}
    if "enum" in typed:
        bounds |= {"enum": [*typed["enum"], None], "values_display": {"null": EMPTY}}
    if "examples" in schema:
        bounds["examples"] = schema["examples"]
    usual = "" if schema.get("default") in (None, "") else f" Where neither you nor the profile set it: `{schema['default']}`."
    return Param(
        value,
        type=[typed["type"], "null"],
        title=schema["title"],
        description_md=schema["description"] + usual,
        section=schema["section"],
        **bounds,
    )
