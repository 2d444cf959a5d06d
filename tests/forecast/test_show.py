from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from effir.forecast import show
from effir.forecast.estimate import forecast
from effir.forecast.hardware import H100X8
from effir.forecast.volume import Volume


def lines(shown: Any) -> list[str]:
    console = Console(width=170)
    with console.capture() as captured:
        console.print(shown)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_a_person_reads_every_phase_and_what_stands_out(small: Callable[..., Volume]) -> None:
    found = forecast(small(), replace(H100X8, memory=3e8, price=2.5))
    shown = lines(show.table(found))
    assert shown[0] == "smollm2-135m-instruct last4B on h100x8"
    assert [line.split()[0] for line in shown[2:5]] == ["begin", "prepare", "importance"]
    assert any(line.startswith("together 27 ") for line in shown)
    remarks = list(show.remarks(found))
    assert remarks[0].startswith("The wall time is that of: begin 45.5 s, prepare ")
    assert remarks[1].startswith("Keeping the machine from start to end costs ")
    assert remarks[1].endswith(", at 2.5 an hour for each of 8.")
    assert remarks[2].startswith("! slim, finetune reference, ")
    assert "more than fits into 300 MB" in remarks[2]
    assert len(list(show.remarks(forecast(small(), H100X8)))) == 2


def test_predicted_beside_measured() -> None:
    rows = [
        {"name": "depth", "predicted": 2.0, "measured": 1.0, "ratio": 2.0},
        {"name": "slim", "predicted": 6.0, "measured": 7.0, "ratio": 6 / 7},
    ]
    shown = lines(show.comparison(rows))
    assert "depth 2.0 1.0 2.00 !" in shown
    assert "slim 6.0 7.0 0.86" in shown
    assert "together 8.0 8.0 1.00" in shown
    assert "1 of 2 within 30%" in shown
