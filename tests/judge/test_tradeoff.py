import xml.etree.ElementTree as ElementTree

from effir.judge.tradeoff import APART, Point, tradeoff

POINTS = [
    Point("bm25", 50.0), Point("minilm", 50.1), Point("reference", 40.0, None, (1.0, 1.0, 1.0)),
    Point("a<b", 42.0, (41.0, 44.0), (1.2, 1.1, 1.4), True),
]  # fmt: skip


def test_intervals_cross_at_the_dot_and_are_as_long_as_they_say() -> None:
    picture = ElementTree.fromstring(tradeoff(POINTS, "told"))
    first, second = ((float(one.attrib["cx"]), float(one.attrib["cy"])) for one in picture.iter("circle"))
    wide, tall = [
        {name: float(one.attrib[name]) for name in ("x1", "x2", "y1", "y2")}
        for one in picture.iter("line")
        if one.attrib["class"] == "spread"
    ][1:]
    scale = (second[0] - first[0]) / 0.2, (first[1] - second[1]) / 2.0
    assert round((second[0] - wide["x1"]) / scale[0], 2) == 0.1 and round((wide["x2"] - second[0]) / scale[0], 2) == 0.2
    assert round((tall["y1"] - second[1]) / scale[1], 1) == 1.0 and round((second[1] - tall["y2"]) / scale[1], 1) == 2.0
    assert wide["y1"] == second[1] and tall["x1"] == second[0]


def test_names_of_levels_keep_apart() -> None:
    picture = ElementTree.fromstring(tradeoff(POINTS, "told"))
    places = [float(text.attrib["y"]) for text in picture.iter("text") if (text.text or "").startswith(("bm25", "minilm"))]
    assert len(places) == 2 and abs(places[0] - places[1]) >= APART


def test_without_a_timed_model_there_is_no_picture() -> None:
    assert tradeoff(POINTS[:2], "told") == ""
