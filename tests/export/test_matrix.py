"""The table in docs/engines.md is the one that `make test-export` makes here."""

from . import matrix


def test_every_engine_and_every_family_has_its_cell() -> None:
    table = matrix.DOCUMENT.read_text().partition(matrix.MARKS[0])[2].partition(matrix.MARKS[1])[0]
    head, _, *found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    assert head == ["engine", *matrix.FAMILIES]
    assert [row[0] for row in found] == [engine.name for engine in matrix.ENGINES] + list(matrix.LOOPS)
    for row in found:
        for text in row[1:]:
            assert text in ("refused", "unknown", "no biases", "in part") or float(text) <= matrix.SMALL, row
    assert not any(text == "refused" for row in found if "transformers" in row[0] or "onnx" in row[0] for text in row)


def test_what_a_cell_says() -> None:
    (old, *_) = matrix.ENGINES
    assert matrix.cell(old, [1e-7, 2e-7]) == ("2e-07", True)
    assert matrix.cell(old, [1e-7, 2e-3]) == ("2e-03", False)
    assert matrix.cell(old, [float("nan")])[1] is False
    assert matrix.cell(old, []) == ("refused", True)
    assert matrix.cell(old, ["AttributeError: EffirQwen3Model needs a later transformers: 4.46.3 lacks it"]) == ("unknown", True)
    assert matrix.cell(old, [1e-7, "ValueError: something else"]) == ("ValueError: something else", False)
