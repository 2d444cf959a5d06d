import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.cli import spec_schema
from effir.spec import RunSpec, profile_names, resolve

DAGS = Path(__file__).parents[2] / "dags"
BOUNDS = {
    "ge": "minimum",
    "le": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
    "pattern": "pattern",
    "min_length": "minLength",
}


@pytest.fixture(scope="module")
def params(parse_dags: Callable[..., Any]) -> dict[str, Any]:
    script = "dag = bag.dags['effir_compress']; print(json.dumps({name: dag.params.get_param(name).schema for name in dag.params}))"
    return parse_dags(script)


def test_the_stored_schema_is_the_spec_s() -> None:
    assert json.loads((DAGS / "spec.schema.json").read_text()) == spec_schema(), "run: effir spec --schema > dags/spec.schema.json"


def test_every_field_is_in_the_form_with_its_bounds(params: dict[str, Any]) -> None:
    assert set(params) == {"profile", *RunSpec.model_fields}
    assert params["profile"]["enum"] == profile_names()
    for name, field in RunSpec.model_fields.items():
        bounds = {BOUNDS[key]: getattr(one, key) for one in field.metadata for key in BOUNDS if getattr(one, key, None) is not None}
        shown = {key: value for key, value in params[name].items() if key in BOUNDS.values()}
        assert shown == bounds, name
        assert params[name]["section"] == field.json_schema_extra["section"], name
        assert params[name]["description_md"].startswith(field.description), name
        assert params[name]["title"], name


def test_every_field_is_flat_and_may_be_left_empty(params: dict[str, Any]) -> None:
    for name, schema in params.items():
        if name != "profile":
            kind, empty = schema["type"]
            assert kind in {"string", "integer", "number", "boolean"}, name
            assert empty == "null" and None in schema.get("enum", [None]), name


def test_choices_say_what_an_empty_one_means_and_texts_have_examples(params: dict[str, Any]) -> None:
    for name, schema in params.items():
        if None in schema.get("enum", []):
            assert schema["values_display"] == {"null": "as the profile says"}, name
    for name in ("base_model", "training_data", "collections", "variant", "teacher"):
        assert params[name]["examples"] == RunSpec.model_fields[name].examples, name
        assert all(resolves(name, example) for example in params[name]["examples"]), name


def resolves(name: str, example: str) -> bool:
    """Whether the spec takes an example of a field."""
    return getattr(resolve("demo", {name: example, "in_domain": "", "margins": ""}), name) is not None
