import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENTRIES = [
    {"name": "search", "collections": "stdlib-code,semanlink", "shard_documents": 500},
    {"name": "faq", "collections": "s3://corpora/faq", "dtype": "float32"},
]
TELL = """
from airflow.serialization.serialized_objects import DagSerialization
found = {"dags": sorted(bag.dags), "errors": list(bag.import_errors.values())}
if dag := bag.dags.get("effir_reindex"):
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable
    found["starts"] = [[one.name for one in stored.asset_condition.objects], sorted(dag.allowed_run_types)]
    found["tasks"] = {task.task_id: [task.pool, task.retries, sorted(task.upstream_task_ids), task.doc_md] for task in dag.tasks}
    found["told"] = [dag.on_failure_callback.__qualname__, dag.catchup, dag.max_active_runs, dag.doc_md]
print(json.dumps(found))
"""
CALLS = """
import reindex
from airflow.sdk.exceptions import AirflowSkipException
dag = reindex.reindex(reindex.wanted())
event = lambda **extra: types.SimpleNamespace(extra=extra)

def due(name=None, *events):
    try:
        return [one["spec"]["name"] for one in dag.get_task("due").python_callable(reindex.wanted(), {"name": name}, {"asset": events})]
    except AirflowSkipException as skipped:
        return str(skipped)

def of(name, version, **shards):
    model = {"name": name, "version": version, "manifest": f"m-{name}"}
    told = {one: {"documents": 9, "shards": count} for one, count in shards.items()}
    parts = {one: f"c-{name}-{one}" for one in shards}
    return {"output": {"model": model, "collections": told, "spec": {"name": name}}, "parts": parts}

found = [of("search", "3", code=2, faq=1), of("faq", "1", faq=1)]
calls = dag.get_task("encode_calls").python_callable(found)
def vectors(arguments, caption):
    return "-".join(["v", caption["arm"], arguments["collection"], str(arguments["shard"])])

encoded = [one | {"manifest": vectors(one["arguments"], one["caption"])} for one in calls]
built = dag.get_task("reindex_calls").python_callable(found, encoded)
faq = event(name="faq")
asked = {"by hand": due(), "one": due("faq"), "event": due(None, event(name="search", version="3")), "twice": due(None, faq, faq)}
print(json.dumps({"due": asked | {"other": due(None, event(name="tiny"))}, "calls": calls, "built": built}))
"""


def listed(folder: Path, entries: Any) -> str:
    (folder / "indexes.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return str(folder / "indexes.json")


def test_a_new_champion_starts_it_and_without_entries_it_is_not_there(parse_dags: Callable[..., Any], tmp_path: Path) -> None:
    found = parse_dags(TELL, EFFIR_INDEXES=listed(tmp_path, ENTRIES))
    assert found["errors"] == []
    assert found["starts"] == [["effir/champion"], ["asset_triggered", "manual", "operator_triggered"]]
    assert {name: told[:3] for name, told in found["tasks"].items()} == {
        "due": ["default_pool", 2, []],
        "corpora": ["compute", 2, ["due"]],
        "encode_calls": ["default_pool", 2, ["corpora"]],
        "encode": ["compute", 2, ["encode_calls"]],
        "reindex_calls": ["default_pool", 2, ["corpora", "encode"]],
        "reindex": ["compute", 2, ["reindex_calls"]],
    }
    assert all(told[3].endswith(".") for told in found["tasks"].values())
    assert found["told"][:3] == ["failed", False, 1] and "indexes.json" in found["told"][3]
    assert "effir_reindex" not in parse_dags(TELL)["dags"]


def test_what_each_phase_is_told(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    found = in_airflow(CALLS, EFFIR_INDEXES=listed(tmp_path, ENTRIES))
    due = found["due"]
    assert (due["by hand"], due["one"], due["event"], due["twice"]) == (["search", "faq"], ["faq"], ["search"], ["faq"])
    assert due["other"] == "no entry of indexes.json names tiny"
    shards = [(one["spec"]["name"], one["inputs"], one["arguments"]["collection"], one["arguments"]["shard"]) for one in found["calls"]]
    assert shards == [
        ("search", {"model": "m-search", "collection": "c-search-code"}, "code", 0),
        ("search", {"model": "m-search", "collection": "c-search-code"}, "code", 1),
        ("search", {"model": "m-search", "collection": "c-search-faq"}, "faq", 0),
        ("faq", {"model": "m-faq", "collection": "c-faq-faq"}, "faq", 0),
    ]
    built = [(one["inputs"]["collection"], one["inputs"]["encodes"], one["arguments"]) for one in found["built"]]
    assert built == [
        ("c-search-code", ["v-search-code-0", "v-search-code-1"], {"collection": "code", "version": "3"}),
        ("c-search-faq", ["v-search-faq-0"], {"collection": "faq", "version": "3"}),
        ("c-faq-faq", ["v-faq-faq-0"], {"collection": "faq", "version": "1"}),
    ]


WRONG = [
    ("[{", "cannot be read as JSON"),
    ({}, "must hold a list of entries"),
    ([7], "entry 1, is 7, must be an object"),
    ([ENTRIES[0], {"name": "x"}], "entry 2, collections is missing"),
    ([ENTRIES[0] | {"shards": 1}], "entry 1, shards is no field of the spec"),
    ([ENTRIES[0] | {"dtype": "int8"}], "entry 1, dtype is wrong: 'int8' is not one of"),
    ([ENTRIES[0] | {"name": "../x"}], "entry 1, name is wrong: '../x' does not match"),
    ([{"name": "x"}, {"collections": "semanlink"}], "entry 2, name is missing"),
]
READ = """
import os
told = []
for path in json.loads(os.environ["PATHS"]):
    os.environ["EFFIR_INDEXES"] = path
    sys.modules.pop("reindex", None)
    try:
        import reindex
        told.append(None)
    except ValueError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def test_what_is_wrong_with_an_entry_is_an_import_error(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    paths = []
    for number, (entries, _) in enumerate([*WRONG, (ENTRIES, "")]):
        (tmp_path / str(number)).mkdir()
        paths.append(listed(tmp_path / str(number), entries))
    *told, right = in_airflow(READ, PATHS=json.dumps(paths))
    assert right is None
    for sentence, path, (_, expected) in zip(told, paths, WRONG, strict=False):
        assert sentence.startswith(path) and expected in sentence
