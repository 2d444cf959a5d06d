import pytest

from effir.forecast import schedule
from effir.forecast.schedule import CROWDED, Job


def chain(*seconds: float) -> list[Job]:
    return [Job(str(number), (str(number - 1),) if number else (), 1, 0.0, 0.0, one) for number, one in enumerate(seconds)]


def test_a_chain_takes_the_sum_and_waiting_is_no_work() -> None:
    jobs = [*chain(3.0, 4.0), Job("late", ("1",), 0, 2.0, 1.0, 5.0)]
    spans = schedule.place(jobs, slots=1, cores=1, shared=False)
    assert (spans["late"].start, spans["late"].seconds, spans["late"].end) == (7.0, 6.0, 15.0)
    assert schedule.critical(jobs, spans) == ["0", "1", "late"]


def test_the_pool_bounds_how_many_run_at_a_time() -> None:
    many = [Job(f"shard {number}", (), 1, 0.0, 0.0, 10.0) for number in range(7)]
    ends = [max(span.end for span in schedule.place(many, slots, 1, shared=False).values()) for slots in (1, 3, 7)]
    assert ends == [70.0, 30.0, 10.0]
    assert (
        max(one.end for one in schedule.place([Job(job.name, (), 0, 0.0, 0.0, 10.0) for job in many], 1, 1, shared=False).values()) == 10.0
    )


def test_a_task_of_all_slots_waits_until_they_are_free_and_is_not_overtaken() -> None:
    jobs = [Job("one", (), 1, 0.0, 0.0, 5.0), Job("all", (), 4, 0.0, 0.0, 2.0), Job("small", (), 1, 0.0, 0.0, 1.0)]
    spans = schedule.place(jobs, slots=4, cores=1, shared=False)
    assert [spans[name].start for name in ("one", "all", "small")] == [0.0, 5.0, 7.0]
    assert schedule.critical(jobs, spans)[-1] == "small"


def test_waiting_for_slots_is_on_the_critical_chain() -> None:
    jobs = [Job("begin", (), 1, 0.0, 0.0, 1.0), *[Job(f"shard {number}", ("begin",), 1, 0.0, 0.0, 2.0) for number in range(3)]]
    jobs.append(Job("end", tuple(job.name for job in jobs[1:]), 0, 0.0, 0.0, 1.0))
    spans = schedule.place(jobs, slots=1, cores=1, shared=False)
    assert schedule.critical(jobs, spans) == ["begin", "shard 0", "shard 1", "shard 2", "end"]


def test_tasks_on_the_same_cores_share_them() -> None:
    """Alone a task has its full speed; two parallel ones have half each, less what crowding costs."""
    alone = schedule.place([Job("one", (), 0, 0.0, 2.0, 3.0)], 1, 2, shared=True)
    assert alone["one"].end == 5.0
    both = [Job("one", (), 0, 0.0, 0.0, 10.0), Job("other", (), 0, 0.0, 0.0, 10.0)]
    assert schedule.place(both, 1, 2, shared=True)["other"].end == pytest.approx(20.0 / CROWDED)
    serial = [Job("one", (), 0, 0.0, 10.0, 0.0), Job("other", (), 0, 0.0, 10.0, 0.0)]
    assert schedule.place(serial, 1, 2, shared=True)["other"].end == pytest.approx(10.0 / CROWDED)
    assert schedule.place(both, 1, 2, shared=False)["other"].end == 10.0


def test_whoever_is_left_gets_its_speed_back() -> None:
    jobs = [Job("short", (), 0, 0.0, 0.0, 7.0), Job("long", (), 0, 0.0, 0.0, 14.0)]
    spans = schedule.place(jobs, 1, 2, shared=True)
    assert spans["short"].end == pytest.approx(14.0 / CROWDED)
    assert spans["long"].end == pytest.approx(14.0 / CROWDED + 7.0)


def test_thousands_of_shards_are_placed_in_a_moment() -> None:
    jobs = [Job(f"shard {number}", (), 1, 1.0, 2.0, 3.0 + number % 5) for number in range(4000)]
    spans = schedule.place(jobs, slots=8, cores=1, shared=False)
    work = sum(6.0 + number % 5 for number in range(4000))
    assert max(span.end for span in spans.values()) == pytest.approx(work / 8, rel=0.01)
