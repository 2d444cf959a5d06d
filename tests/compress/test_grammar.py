import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effir.compress import grammar
from effir.errors import BadInput


@pytest.mark.parametrize(
    ("variant", "found"),
    [
        ("full", ("full", None, None)),
        ("16M8A", ("16M8A", None, None)),
        ("last8M", ("last8M", None, None)),
        ("16M-30%", ("16M", 0.7, "global")),
        ("last16B-5%u", ("last16B", 0.95, "uniform")),
        ("full-10%", ("full", 0.9, "global")),
        ("-30%", ("full", 0.7, "global")),
        ("-99%u", ("full", 0.01, "uniform")),
    ],
)
def test_a_name_has_a_depth_and_a_width_part(variant, found):
    assert grammar.split(variant) == found


@pytest.mark.parametrize(
    "wrong", ["", "-", "16M-", "16M-0%", "16M-100%", "16M-30", "16M-30%U", "16M-30%-30%", "16M30%", "-30%16M", "8X-30%", "16M-3.5%", "8A\n"]
)
def test_what_does_not_parse_is_told_the_grammar(wrong):
    with pytest.raises(BadInput, match="does not parse") as caught:
        grammar.split(wrong)
    assert grammar.GRAMMAR in str(caught.value)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 99), st.sampled_from("ABM")), max_size=3, unique_by=lambda part: part[2]),
    st.integers(1, 99) | st.none(),
    st.booleans(),
)
def test_what_is_written_is_read(parts, percent, uniform):
    depth = "".join(f"{'last' * last}{count}{kind}" for last, count, kind in parts) or "full"
    rule = "uniform" if uniform else "global"
    name = grammar.join(depth, 1 - (percent or 0) / 100, rule)
    assert re.fullmatch(grammar.PATTERN, name)
    assert grammar.parse(name) == parts
    kept = pytest.approx(1 - percent / 100) if percent else None
    assert grammar.split(name) == (depth, kept, rule if percent else None)


def test_layers_are_taken_in_the_order_given_and_last_by_number():
    order = {"A": [2, 0, 1, 3], "M": [1, 3, 2, 0], "B": [0, 1, 2, 3]}
    assert grammar.take("2A1M", 4, order) == ({0, 2}, {1})
    assert grammar.take("last2M1A", 4, order) == ({2}, {2, 3})
    assert grammar.take("1Blast1A", 4, order) == ({0, 3}, {0})
    with pytest.raises(BadInput, match="4B would drop all 4 layers"):
        grammar.take("4B", 4, order)
    with pytest.raises(BadInput, match="drops 5 sub-layers, but the model has only 4"):
        grammar.take("5M-30%", 4, order)


def test_a_table_gets_the_width_in_its_own_fields():
    assert grammar.expand({"variant": "16M-30%u", "batch": 3}) == {
        "variant": "16M", "keep_ratio": 0.7, "width_rule": "uniform", "batch": 3,
    }  # fmt: skip
    assert grammar.expand({"variant": "16M", "keep_ratio": 0.5}) == {"variant": "16M", "keep_ratio": 0.5}
    assert grammar.expand({"variant": "8X-30%"}) == {"variant": "8X-30%"}
    assert grammar.expand({"variant": "-30%", "keep_ratio": "0.70", "width_rule": "global"})["keep_ratio"] == 0.7


@pytest.mark.parametrize(("name", "value"), [("keep_ratio", 0.5), ("keep_ratio", "half"), ("width_rule", "uniform")])
def test_a_table_that_says_two_things_is_refused(name, value):
    with pytest.raises(BadInput, match=rf"variant 16M-30% means {name} .*{name} is {value}"):
        grammar.expand({"variant": "16M-30%", name: value})


def test_the_examples_are_true():
    assert doctest.testmod(grammar).failed == 0
