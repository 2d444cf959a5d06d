"""The spec: from the trigger form, from `effir run --set`, from a frontier's lines, and from the call of a phase."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effir import arms, cli, studies
from effir.errors import BadInput
from effir.phases.request import read
from effir.rates import numbers
from effir.spec import RunSpec, parse, resolve

HUGE = "x" * 100_000
VALUES: dict[str, dict[str, object]] = {
    "an unknown field": {"stepz": 1},
    "an unknown field with a line break": {"a\nb": 1},
    "an unknown field that is huge": {HUGE: 1},
    "an empty field name": {"": 1},
    "a name with a slash": {"name": "a/b"},
    "a name that climbs": {"name": "../a"},
    "a name that is an option": {"name": "--all"},
    "a name with a line break": {"name": "a\n"},
    "a name that is a template": {"name": "{{ 7 }}"},
    "a name that is empty": {"name": ""},
    "a name that is too long": {"name": "a" * 65},
    "a name that is huge": {"name": HUGE},
    "a name with half a character": {"name": "a\ud800"},
    "a name with a letter from elsewhere": {"name": "naïve"},
    "a name that is a list": {"name": ["a"]},
    "no base": {"base_model": ""},
    "a base that is a number": {"base_model": 7},
    "remote code perhaps": {"trust_remote_code": "perhaps"},
    "an unknown pooling": {"pooling": "max"},
    "a template without its place": {"query_template": "query:"},
    "a template with two places": {"query_template": "{text}{text}"},
    "a template that goes on": {"document_template": "{text}."},
    "a template that is null": {"query_template": None},
    "too few tokens": {"max_query_tokens": 3},
    "negative tokens": {"max_document_tokens": -1},
    "tokens beyond all": {"max_query_tokens": 10**12},
    "tokens a fraction": {"max_query_tokens": 16.5},
    "tokens a word": {"max_query_tokens": "many"},
    "tokens NaN": {"max_query_tokens": math.nan},
    "tokens Infinity": {"max_query_tokens": math.inf},
    "tokens true and more": {"max_query_tokens": [True]},
    "no training data": {"training_data": ""},
    "one training example": {"training_examples": 1},
    "negative negatives": {"hard_negatives": -1},
    "no collections": {"collections": ""},
    "commas for collections": {"collections": ", ,"},
    "a collection twice": {"collections": "beir:scifact,/data/scifact"},
    "a collection called ..": {"collections": "/data/.."},
    "a collection called .": {"collections": "."},
    "a collection with a line break": {"collections": "/data/a\nb"},
    "a collection that is an option": {"collections": "/data/-rf"},
    "a collection that is a template": {"collections": "/data/{{ds}}"},
    "a collection that climbs": {"collections": "beir:../../etc"},
    "a collection with a zero byte": {"collections": "/data/a\0b"},
    "in_domain unknown": {"collections": "beir:scifact", "in_domain": "nfcorpus"},
    "margins unknown": {"margins": "absent=0.1"},
    "margins without a number": {"margins": "scifact="},
    "margins negative": {"margins": "scifact=-0.1"},
    "margins NaN": {"margins": "scifact=nan"},
    "margins zero": {"margins": "scifact=0.0"},
    "margins above one": {"margins": "scifact=1.5"},
    "margins twice": {"collections": "beir:scifact", "margins": "scifact=0.1,scifact=0.2"},
    "margin zero": {"margin": 0},
    "margin one": {"margin": 1},
    "margin NaN": {"margin": math.nan},
    "margin a word": {"margin": "wide"},
    "margin with a comma": {"margin": "0,02"},
    "confidence one": {"confidence": 1},
    "confidence a half": {"confidence": 0.5},
    "confidence NaN": {"confidence": "nan"},
    "too few resamples": {"resamples": 199},
    "resamples beyond all": {"resamples": 10**9},
    "a variant that does not parse": {"variant": "16X"},
    "a variant of nothing": {"variant": "0M"},
    "a variant with a line break": {"variant": "16M\n"},
    "a variant that is huge": {"variant": "1M" * 50_000},
    "a variant with a kind twice": {"variant": "4M8M"},
    "a variant that is a number": {"variant": 16},
    "a variant and another width": {"variant": "16M-30%", "keep_ratio": 0.5},
    "a target and a variant": {"target_speedup": 2, "variant": "8M"},
    "a target below one": {"target_speedup": 0.5},
    "a target Infinity": {"target_speedup": math.inf},
    "a target of no parameters": {"target_parameters": 0},
    "keep nothing": {"keep_ratio": 0},
    "keep more than all": {"keep_ratio": 1.1},
    "a width without slimming": {"slim_steps": 0, "keep_ratio": 0.5, "neuron_score": "slimming"},
    "negative steps": {"steps": -1},
    "steps an exponent": {"steps": "1e3.5"},
    "a reference trained less": {"steps": 10, "reference_steps": 5},
    "a batch of one": {"batch": 1},
    "a learning rate of zero": {"learning_rate": 0},
    "a learning rate Infinity": {"learning_rate": "inf"},
    "a dropout of one": {"lora_dropout": 1},
    "a temperature below zero": {"temperature": -0.02},
    "weights NaN": {"kl_weight": math.nan},
    "no teacher": {"teacher": ""},
    "an unknown device": {"device": "tpu"},
    "an unknown data type": {"dtype": "float8"},
    "threads beyond all": {"threads": 4096},
    "a seed below zero": {"seed": -1},
    "a seed beyond 31 bits": {"seed": 2**31},
    "a seed that is an object": {"seed": {"a": 1}},
    "speed for no time": {"speed_seconds": 0},
    "shards of nothing": {"shard_documents": 0},
}
SETS: dict[str, list[str]] = {
    "no value": ["steps"],
    "no name": ["=5"],
    "an unknown name": ["stepz=5"],
    "a name with a line break": ["a\nb=5"],
    "a word for a number": ["steps=five"],
    "an empty number": ["batch="],
    "a number with a unit": ["steps=5k"],
    "JSON for a number": ["steps=[5]"],
    "a huge value": [f"steps={HUGE}"],
    "half a character": ["name=\ud800"],
    "a command": ["name=$(reboot)"],
    "NaN": ["margin=NaN"],
    "a number of 5,000 digits": ["target_parameters=" + "9" * 5000],
}
ARMS: dict[str, tuple[str, str]] = {
    "no variants": (" , ", "0"),
    "a variant twice": ("8M,8M", "0"),
    "a variant that does not parse": ("8M,8Z", "0"),
    "a setting without a value": ("8M:steps", "0"),
    "an unknown setting": ("8M:stepz=1", "0"),
    "a cut of neither": ("8M:cut=champion", "0"),
    "no seeds": ("8M", ""),
    "a seed that is a word": ("8M", "one"),
    "a seed below zero": ("8M", "-1"),
    "a seed twice": ("8M", "0,0"),
    "a seed superscript": ("8M", "²"),
    "a seed of 5,000 digits": ("8M", "9" * 5000),
    "a seed beyond 31 bits": ("8M", "99999999999"),
    "a huge variant": (HUGE, "0"),
}
SPEC = {"profile": "demo"}
CALLS: dict[str, object] = {
    "a list": [],
    "null": None,
    "a text": "demo",
    "neither spec nor profile": {},
    "spec null": {"spec": None},
    "spec a list": {"spec": []},
    "spec a text": {"spec": "demo"},
    "spec with an unknown field": {"spec": {"stepz": 1}},
    "profile unknown": {"profile": "absent"},
    "profile a path": {"profile": "../../etc/passwd"},
    "profile a list": {"profile": ["demo"]},
    "overrides a list": SPEC | {"overrides": ["a"]},
    "overrides a text": SPEC | {"overrides": "a"},
    "overrides wrong": SPEC | {"overrides": {"steps": -1}},
    "inputs a list": SPEC | {"inputs": []},
    "an input that is a number": SPEC | {"inputs": {"prepare": 7}},
    "an input that is no address": SPEC | {"inputs": {"prepare": "manifest.json"}},
    "inputs that are lists of numbers": SPEC | {"inputs": {"collections": [1]}},
    "arguments a list": SPEC | {"arguments": []},
    "arguments a text": SPEC | {"arguments": "model"},
    "caption a text": SPEC | {"caption": "x"},
    "run a text": SPEC | {"run": "r"},
    "halvings a word": SPEC | {"halvings": "two"},
    "halvings below zero": SPEC | {"halvings": -1},
    "halvings beyond all": SPEC | {"halvings": 10**9},
}
BODIES = {
    "empty": b"", "cut": b'{"profile": "de', "Latin-1": b'{"profile": "\xe9"}', "nested deeply": b"[" * 100_000,
    "a field twice": b'{"profile": "demo", "profile": "demo-aggressive"}', "half a character": b'{"profile": "\\ud800"}',
}  # fmt: skip
FAULTS = {
    f"{kind}: {name}": fault
    for kind, table in (("values", VALUES), ("set", SETS), ("arms", ARMS), ("call", CALLS), ("body", BODIES))
    for name, fault in table.items()
}


@pytest.mark.parametrize("fault", VALUES)
def test_a_wrong_value_is_refused_and_its_field_named(refusal, fault):
    values = VALUES[fault]
    sentence = refusal(lambda: parse(values))
    assert any(name[:20].splitlines()[0] in sentence if name.strip() else True for name in values)
    refusal(lambda: resolve("demo", values) if values.get("query_template", "") is not None else parse(values))


@pytest.mark.parametrize("fault", SETS)
def test_a_wrong_assignment_is_refused(refusal, fault):
    refusal(lambda: cli.overrides_of("demo", SETS[fault]))


@pytest.mark.parametrize("fault", ["an unknown name", "a name with a line break", "a huge value", "half a character"])
def test_the_command_line_says_it_on_one_line_and_ends_with_2(fault, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["effir", "run", *[part for one in SETS[fault] for part in ("--set", one)]])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert told.err.startswith("effir: ") and len(told.err.splitlines()) == 1


@pytest.mark.parametrize("fault", ARMS)
def test_wrong_lines_of_a_frontier_are_refused(refusal, fault):
    refusal(lambda: arms.arms(resolve("demo"), *ARMS[fault]))


@pytest.mark.parametrize("text", ["", ",", "x", "1,,2", "-5", "0", "nan", "1e99", "9" * 5000])
def test_wrong_lists_of_numbers_are_refused(refusal, text):
    refusal(lambda: numbers(text, int))
    refusal(lambda: numbers(text, float) if text != "1e99" else numbers("inf", float))


def test_an_unknown_study_and_profile_are_refused(refusal):
    for name in ("", "absent", "../demo", HUGE, "a\nb"):
        refusal(lambda name=name: studies.find(name))
        refusal(lambda name=name: resolve(name))


@pytest.mark.parametrize("fault", CALLS)
def test_a_wrong_call_is_refused_and_writes_nothing(store, refusal, fault):
    uri = f"{store.root}/call.json"
    store.put_json(uri, CALLS[fault])
    refusal(lambda: read("depth", uri, f"{store.root}/result.json"))
    assert [one for one, _ in store.list(store.root)] == [uri]


@pytest.mark.parametrize("fault", BODIES)
def test_a_call_that_is_no_json_is_refused(store, refusal, fault):
    uri = f"{store.root}/call.json"
    store.client.put_object(Bucket="effir", Key=uri.removeprefix("s3://effir/"), Body=BODIES[fault])
    assert uri in refusal(lambda: read("depth", uri, f"{store.root}/result.json")) or fault == "half a character"


@pytest.mark.parametrize("name", ["", "absent", "../gate", "gate\n", HUGE])
def test_an_unknown_phase_is_refused(store, refusal, name):
    refusal(lambda: read(name, f"{store.root}/call.json", f"{store.root}/result.json"))


@pytest.mark.parametrize(
    "values",
    [{"steps": "12"}, {"margin": ".5"}, {"trust_remote_code": "false"}, {"collections": " beir:scifact , /data/nfcorpus/ "}, {"seed": 7.0}],
)
def test_odd_but_legal_values_are_read(values):
    assert parse({"reference_steps": 5000} | values)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(RunSpec.model_fields)) | st.text(max_size=5), SCALARS | st.lists(SCALARS), max_size=4))
def test_any_values_are_a_spec_that_can_be_stored_or_are_refused(refusal, values):
    try:
        spec = parse(values)
    except BadInput:
        refusal(lambda: parse(values))
    else:
        assert parse(json.loads(json.dumps(spec.model_dump(), allow_nan=False))) == spec


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(list(RunSpec.model_fields)), st.text(max_size=8))))
def test_any_assignments_are_taken_or_refused(refusal, assignments):
    try:
        cli.overrides_of("demo", assignments)
    except BadInput:
        refusal(lambda: cli.overrides_of("demo", assignments))
