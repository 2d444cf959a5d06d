import importlib.util
import itertools
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from effir.judge.layers import importance, widths

given = importlib.util.spec_from_file_location("made", Path(__file__).with_name("made.py"))
made: Any = importlib.util.module_from_spec(given)
given.loader.exec_module(made)


def of_class(picture: str, tag: str, kind: str) -> list[dict[str, float]]:
    found = [one for one in ElementTree.fromstring(picture).iter(tag) if kind in one.attrib["class"].split()]
    return [{name: float(value) for name, value in one.attrib.items() if name != "class"} for one in found]


def test_a_bar_is_as_tall_as_the_layer_is_wide() -> None:
    picture = widths(made.layers(full=[64, 64, 32, 64, 64, 64]))
    before, after = of_class(picture, "rect", "before"), of_class(picture, "rect", "after")
    whole = before[0]["height"]
    assert [round(one["height"] / whole, 2) for one in before] == [1, 1, 0.5, 1, 1, 1]
    assert [round(one["height"] / whole, 2) for one in after] == [1, 0.5, 1, 1, 1, 0]
    assert len({round(one["y"] + one["height"], 1) for one in before + after}) == 1


def test_attention_that_was_dropped_is_hollow() -> None:
    picture = widths(made.layers())
    kept, gone = of_class(picture, "rect", "first"), of_class(picture, "rect", "gone")
    assert len(kept) == 4
    assert [one["x"] for one in gone] == sorted(one["x"] for one in gone) and min(one["x"] for one in gone) > max(one["x"] for one in kept)
    assert "2 of 6 attentions and 1 MLPs are gone; 288 of 384 neurons stay" in picture


def test_importance_stands_on_a_scale_of_powers_where_it_spans_them() -> None:
    found = made.layers()
    dots = of_class(importance(found), "circle", "dot0")
    logs = [math.log10(value) for value in found.importance["attention"]]
    slope = (dots[-1]["cy"] - dots[0]["cy"]) / (logs[-1] - logs[0])
    assert [one["cy"] for one in dots] == pytest.approx([dots[0]["cy"] + slope * (log - logs[0]) for log in logs], abs=0.2)
    assert len(of_class(importance(found), "circle", "hollow")) == 3


def test_importance_that_goes_below_nought_stands_on_a_plain_scale() -> None:
    scores = {"attention": [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4], "mlp": [0.1] * 6}
    dots = of_class(importance(made.layers(importance=scores)), "circle", "dot0")
    gaps = [after["cy"] - before["cy"] for before, after in itertools.pairwise(dots)]
    assert gaps == pytest.approx([gaps[0]] * 5, abs=0.2) and gaps[0] < 0
