import xml.etree.ElementTree as ElementTree

from effir.judge.pictures import curves, intervals


def dots(picture: str) -> list[float]:
    return [float(dot.attrib["cx"]) for dot in ElementTree.fromstring(picture).iter("circle")]


def test_intervals_stand_where_their_numbers_say():
    picture = ElementTree.fromstring(intervals([("code", -0.5, -1.5, 0.5, 3.0), ("a<b", 1.0, 0.0, 2.0, 4.0)]))
    lines = {kind: [line for line in picture.iter("line") if line.attrib["class"] == kind] for kind in ("interval", "margin", "zero")}
    first, _ = lines["interval"]
    scale = (float(first.attrib["x2"]) - float(first.attrib["x1"])) / 2.0
    zero = float(lines["zero"][0].attrib["x1"])
    assert abs(float(first.attrib["x1"]) - (zero - 1.5 * scale)) < 0.2
    assert abs(float(lines["margin"][1].attrib["x1"]) - (zero - 4 * scale)) < 0.2
    assert [round((x - zero) / scale, 1) for x in dots(ElementTree.tostring(picture, encoding="unicode"))] == [-0.5, 1.0]
    assert "a<b" in [text.text for text in picture.iter("text")]


def test_no_difference_at_all_can_be_drawn():
    assert len(dots(intervals([("code", 0.0, 0.0, 0.0, 0.0)]))) == 1


def test_curves_fall_where_the_loss_falls_and_skip_what_is_no_number():
    picture = ElementTree.fromstring(curves({"reference": [(1, 3.0), (2, float("nan")), (3, 1.0)], "candidate": [(1, 2.0)]}))
    lines = [[tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] for line in picture.iter("polyline")]
    assert [len(line) for line in lines] == [2, 1]
    assert lines[0][0][1] < lines[0][1][1]
    assert [text.text for text in picture.iter("text") if text.attrib["class"].startswith("legend")] == ["reference", "candidate"]


def test_nothing_to_draw_gives_no_picture():
    assert curves({"reference": []}) == ""
