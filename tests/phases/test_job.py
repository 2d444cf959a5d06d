from pathlib import Path

import pytest

from effir.phases import job
from effir.phases.job import Job
from effir.spec import RunSpec


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A job's progress at a second of its phase: what it prints."""
    made = Job("slim", "0", RunSpec(), {}, {}, {}, None, tmp_path, tmp_path)

    def at(second: float, done: float, total: float) -> str:
        monkeypatch.setattr(job.time, "monotonic", lambda: 1000 + second)
        made.progress(done, total, "loss 1")
        return capsys.readouterr().out.strip()

    return at


def test_the_time_left_is_that_of_the_steps_not_of_what_came_before_them(told):
    assert told(60, 1, 21) == "slim: 1 of 21, loss 1", "a minute of loading says nothing of a step"
    assert told(62, 2, 21) == "", "at most every five seconds"
    assert told(66, 4, 21) == "slim: 4 of 21, 34 s left, loss 1"
    assert told(100, 21, 21) == "slim: 21 of 21, loss 1", "what comes after the last step is not known"


def test_the_next_thing_that_is_counted_starts_anew(told):
    told(0, 5, 10), told(100, 10, 10)
    assert told(110, 1, 10) == "slim: 1 of 10, loss 1"
    assert told(120, 2, 10) == "slim: 2 of 10, 80 s left, loss 1"
    assert told(130, 2, 4) == "slim: 2 of 4, loss 1"
