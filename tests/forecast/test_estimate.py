import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from effir.forecast import estimate, texts
from effir.forecast.hardware import CPU2, H100X8
from effir.forecast.judging import tasks
from effir.forecast.volume import Volume, volume
from effir.forecast.work import Work
from effir.spec import resolve

ROUND = replace(
    H100X8, devices=4, cores=8, encode=1e3, train=500.0, float32=100.0, outside=50.0, processor=10.0, memory=1e4, bandwidth=20.0,
    storage=5.0, network=2.0, launch=7.0, start=1.0, imports=3.0, core=0.5, price=2.0,
)  # fmt: skip


def test_seconds_of_a_task_by_hand() -> None:
    work = Work(
        "one", "one", devices=1, heavy=True, encode=2e3, train=1e3, float32=100.0, outside=100.0, processor=30.0, core=2.0, divided=1.0,
        seconds=5.0, traffic=40.0, read=10.0, written=5.0, network=4.0,
    )  # fmt: skip
    found = estimate.job(work, ROUND)
    assert found.serial == 1 + (2 + 1 + 3) / 0.5 + (10 + 5) / 5 + 4 / 2
    assert found.parallel == 5 + 3 + 2 + (2 + 2 + 1 + 2)
    assert (found.wait, found.slots) == (7.0, 1)


def test_devices_divide_what_they_share() -> None:
    found = estimate.job(Work("one", "one", devices=-1, train=1e3, divided=4.0), ROUND)
    assert (found.slots, found.serial) == (4, 1 + 4 / 4 / 0.5)
    assert found.parallel == pytest.approx(1e3 / 500 / (4 * estimate.TOGETHER))


def test_only_tasks_that_compute_cost_devices_and_all_cost_a_shared_processor() -> None:
    works = [Work("first", "first", seconds=3600 - 8.0), Work("second", "second", ("first",), devices=1, seconds=7200 - 8.0)]
    found = estimate.summary(estimate.estimate(works, ROUND), ROUND)
    assert [row["device_hours"] for row in found["phases"]] == pytest.approx([0.0, 2.0])
    assert found["totals"]["cost"] == pytest.approx(4.0)
    assert found["totals"]["kept"] == pytest.approx(3 * 4 * 2.0)
    shared = replace(ROUND, shared=True, devices=1)
    again = estimate.summary(estimate.estimate(works, shared), shared)
    assert [row["device_hours"] for row in again["phases"]] == pytest.approx([8.0, 16.0])
    assert again["totals"]["cost"] == pytest.approx(again["totals"]["kept"]) == pytest.approx(6.0)
    assert (found["unit"], again["unit"]) == ("GPU hours", "core hours")


def test_phases_add_up_their_tasks(small: Callable[..., Volume]) -> None:
    found = estimate.forecast(small(), ROUND)
    rows = {row["phase"]: row for row in found["phases"]}
    works = tasks(small(), ROUND.devices)
    assert rows["encode base"]["tasks"] == 3
    assert sum(row["tasks"] for row in rows.values()) == len(works) == found["totals"]["tasks"] == len(found["seconds"])
    for name in ("tokens", "read", "written", "stored"):
        assert found["totals"][name] == pytest.approx(sum(getattr(one, name) for one in works))
    assert found["critical"][0] == "begin"
    assert found["critical"][-1] == "report"
    assert found["totals"]["wall"] == rows["report"]["ends"]
    assert json.loads(json.dumps(found)) == found


def test_what_does_not_fit_is_marked(small: Callable[..., Volume]) -> None:
    weights = 2 * 134_515_008
    rows = {row["phase"]: row for row in estimate.forecast(small(), replace(ROUND, memory=2.5 * weights))["phases"]}
    assert weights < rows["encode base"]["memory"] < rows["finetune reference"]["memory"]
    assert (rows["narrow"]["fits"], rows["speed"]["fits"]) == (True, False)


def test_more_devices_shorten_what_is_mapped_or_shared_and_nothing_else() -> None:
    """The paper's recipe on the 13 BEIR sets: 499 shards for each model, trainings on all devices."""
    amount = volume(resolve("mistral-7b-paper"), lambda _: None)
    one, eight = (estimate.forecast(amount, replace(H100X8, devices=devices)) for devices in (1, 8))
    before, after = ({row["phase"]: row for row in found["phases"]} for found in (one, eight))
    shards = sum(-(-texts.WORDS[name][0] // 50_000) for name in texts.WORDS if name != "msmarco")
    assert before["encode reference"]["tasks"] == after["encode reference"]["tasks"] == shards == 499
    assert 7.5 < before["encode base"]["wall"] / after["encode base"]["wall"] <= 8.05
    assert 6 < before["finetune reference"]["wall"] / after["finetune reference"]["wall"] < 12
    assert before["prepare"]["wall"] == after["prepare"]["wall"]
    assert one["totals"]["stored"] == eight["totals"]["stored"]
    assert one["totals"]["stored"] == pytest.approx(3 * 24_561_473 * 2 * 4096, rel=0.15), "vectors of three models, above all"


def test_ten_times_the_corpus_takes_ten_times_the_encoding(small: Callable[..., Volume]) -> None:
    """On a machine without overheads."""
    machine = replace(ROUND, launch=0.0, start=0.0, imports=0.0, core=1e12, storage=1e18, devices=1)
    amount = small(shard_documents=1000)
    more = replace(amount.collections[0], documents=replace(amount.collections[0].documents, count=500))
    none = replace(more, queries=replace(more.queries, count=0))
    walls = []
    for documents in (50, 500):
        chosen = replace(none, documents=replace(none.documents, count=documents))
        rows = estimate.forecast(replace(amount, collections=(chosen,)), machine)["phases"]
        walls.append(next(row["wall"] for row in rows if row["phase"] == "encode reference"))
    assert walls[1] == pytest.approx(10 * walls[0], rel=1e-6)


@pytest.mark.slow
def test_the_demo_is_predicted_within_30_percent() -> None:
    """Seconds of every phase of `make demo` on the machine that cpu2 describes (docs/forecast.md)."""
    measured = json.loads((Path(__file__).parent / "demo-run.json").read_text())
    found = estimate.forecast(volume(resolve("demo"), lambda _: None), CPU2)
    rows = estimate.against(found, measured)
    assert {row["name"] for row in rows} == set(found["seconds"])
    assert not [row for row in rows if abs(row["ratio"] - 1) > 0.3]
    assert sum(row["predicted"] for row in rows) == pytest.approx(sum(row["measured"] for row in rows), rel=0.15)


def test_what_came_from_the_cache_is_not_compared() -> None:
    found = {"seconds": {"depth": 2.0, "slim": 3.0}}
    run = {"phases": [{"name": "depth", "cached": True, "seconds": 1.0}, {"name": "slim", "cached": False, "seconds": 4.0}]}
    assert estimate.against(found, run) == [{"name": "slim", "predicted": 3.0, "measured": 4.0, "ratio": 0.75}]
