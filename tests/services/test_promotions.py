import json
import threading

import pytest

from effir.errors import BadInput
from effir.services import promotions, registry
from effir.services.store import Store


@pytest.fixture
def name(request) -> str:
    """A registered model of its own for every test."""
    return f"model-{abs(hash(request.node.nodeid)):x}"


def version(number: int) -> dict:
    """What the log is told of a version."""
    return {"version": str(number), "digest": f"{number:064d}", "manifest": None, "source": f"s3://e/{number}", "files": None}


def registered(name: str, count: int) -> list[dict]:
    """So many versions in MLflow."""
    found = [version(number) for number in range(1, count + 1)]
    for one in found:
        registry.register(name, one["source"], run_id=None, digest=one["digest"], manifest="", description="", tags={})
    return found


def put(store: Store, name: str, action: str, judged: dict | None, to: dict) -> dict:
    return promotions.record(store, name, action, judged, to, why=["because"], who="ada", code="c")


def aliases(name: str) -> dict[str, str]:
    return {alias: version for alias, version in registry.aliases(name).items() if alias != "challenger"}


def test_the_highest_record_names_the_champion(mlflow, store, name):
    one, two, three = registered(name, 3)
    assert (promotions.champion(store, name), promotions.previous(store, name, "1"), list(promotions.history(store, name))) == (
        None,
        None,
        [],
    )
    put(store, name, "promote", None, one)
    put(store, name, "promote", one, two)
    record = put(store, name, "promote", two, three)
    assert promotions.champion(store, name) == three
    assert promotions.latest(store, name) == record
    assert [one["n"] for one in promotions.history(store, name)] == [3, 2, 1]
    assert promotions.sentence(record) == f"version 3 of {name} is the champion, no longer version 2 (promotion 3)"


def test_only_the_champion_that_was_compared_is_replaced(mlflow, store, name):
    one, two, three = registered(name, 3)
    with pytest.raises(promotions.Overtaken, match="is nobody by now, and no longer version 1"):
        put(store, name, "promote", one, two)
    put(store, name, "promote", None, one)
    put(store, name, "promote", one, two)
    with pytest.raises(promotions.Overtaken, match="is version 2 by now, and no longer version 1"):
        put(store, name, "promote", one, three)
    with pytest.raises(promotions.Overtaken):
        put(store, name, "promote", two | {"digest": "of other bytes"}, three)
    assert promotions.latest(store, name)["n"] == 2


def test_of_twenty_at_once_one_wins_each_record(mlflow, store, name):
    ended: list[object] = []
    start = threading.Barrier(20)

    def promote(number: int) -> None:
        start.wait()
        try:
            ended.append(put(Store(), name, "promote", None, version(number)))
        except promotions.Overtaken as overtaken:
            ended.append(str(overtaken))

    threads = [threading.Thread(target=promote, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [one for one in ended if isinstance(one, dict)]
    assert promotions.latest(store, name) == won
    winner = won["to"]["version"]
    assert sorted(map(str, ended)) == sorted([str(won)] + [f"the champion of {name} is version {winner} by now, and no longer nobody"] * 19)


def test_a_put_whose_answer_was_lost_counts(mlflow, store, name):
    """botocore repeats a put whose answer never came, and is told that the object exists already."""
    (one,) = registered(name, 1)
    answers: list[int] = []
    events = store.client.meta.events
    events.register("before-parse.s3.PutObject", lambda response_dict, **_: answers.append(response_dict["status_code"]))
    events.register("needs-retry.s3.PutObject", lambda attempts, **_: 0 if attempts == 1 else None)
    record = put(store, name, "promote", None, one)
    assert answers == [200, 412], "it was put twice"
    assert promotions.latest(store, name) == record


def test_a_list_that_is_behind_the_times_does_no_harm(mlflow, store, name, monkeypatch):
    one, two = registered(name, 2)
    put(store, name, "promote", None, one)
    stale = list(store.list(f"{store.root}/promotions/{name}"))
    record = put(store, name, "promote", one, two)
    monkeypatch.setattr(store, "list", lambda prefix: iter(stale))
    assert promotions.latest(store, name) == record


def test_settle_makes_the_aliases_agree(mlflow, store, name):
    one, two, three = registered(name, 3)
    promotions.settle(store, name)
    assert aliases(name) == {}
    put(store, name, "promote", None, one)
    promotions.settle(store, name)
    assert aliases(name) == {"champion": "1"}
    put(store, name, "promote", one, two)
    put(store, name, "promote", two, three)
    for _ in range(2):
        promotions.settle(store, name)
        assert aliases(name) == {"champion": "3", "previous": "2"}
    registry.point(name, "champion", "1")
    promotions.settle(store, name)
    assert aliases(name) == {"champion": "3", "previous": "2"}
    put(store, name, "rollback", three, two)
    promotions.settle(store, name)
    assert aliases(name) == {"champion": "2", "previous": "1"}
    put(store, name, "rollback", two, one)
    promotions.settle(store, name)
    assert aliases(name) == {"champion": "1"}, "nothing came before the first"


def test_a_champion_that_mlflow_lost_is_named(mlflow, store, name):
    registered(name, 1)
    put(store, name, "promote", None, version(7))
    with pytest.raises(BadInput, match=r"the log says that version 7 of .* is its champion, and MLflow has no such version"):
        promotions.settle(store, name)


def test_a_champion_from_before_the_log_is_adopted(mlflow, store, name):
    _, two, three = registered(name, 3)
    registry.point(name, "previous", "1")
    registry.point(name, "champion", "2")
    promotions.settle(store, name)
    assert aliases(name) == {"champion": "2", "previous": "1"}
    assert (promotions.champion(store, name)["version"], promotions.previous(store, name, "2")) == ("2", "1")
    record = put(store, name, "promote", two, three)
    assert (record["n"], record["from"]) == (1, {"version": "2", "digest": two["digest"]})
    promotions.settle(store, name)
    assert aliases(name) == {"champion": "3", "previous": "2"}


def test_bytes_are_withdrawn_until_somebody_brings_them_back(mlflow, store, name):
    one, two, three = registered(name, 3)
    put(store, name, "promote", None, one)
    put(store, name, "promote", one, two)
    assert promotions.withdrawn(store, name, two["digest"]) is None
    record = put(store, name, "rollback", two, one)
    assert promotions.withdrawn(store, name, two["digest"]) == record
    put(store, name, "promote", one, three)
    assert promotions.withdrawn(store, name, two["digest"]) == record
    assert [promotions.withdrawn(store, name, given["digest"]) for given in (one, three)] == [None, None]
    put(store, name, "rollback", three, two)
    assert promotions.withdrawn(store, name, two["digest"]) is None


@pytest.mark.parametrize("name", ["", "../artifacts", "a/b", "a\n", "-x", "{{ x }}", "x" * 65])
def test_a_name_that_reaches_elsewhere_is_refused(store, name):
    with pytest.raises(BadInput, match="cannot be the name of a model"):
        promotions.latest(store, name)


@pytest.mark.parametrize("found", [[], {"n": 1}, {"n": 2, "model": "m"}, "x"])
def test_a_record_that_effir_did_not_write_is_refused(store, found):
    store.put_json(f"{store.root}/promotions/m/1.json", found)
    with pytest.raises(BadInput, match=r"promotions/m/1.json is no record of the promotion log"):
        promotions.latest(store, "m")


def test_other_objects_beside_the_records_are_no_records(mlflow, store, name):
    (one,) = registered(name, 1)
    for other in ("notes.txt", "07.json", "old/9.json", "5.json.bak"):
        store.put_json(f"{store.root}/promotions/{name}/{other}", {})
    assert promotions.latest(store, name) is None
    assert put(store, name, "promote", None, one)["n"] == 1


def test_who_acts(monkeypatch):
    assert promotions.author({"id": "manual__1", "by": "ada"}) == "ada (Airflow run manual__1)"
    assert promotions.author({"id": "scheduled__1", "by": None}) == "Airflow run scheduled__1"
    monkeypatch.setenv("LOGNAME", "ada")
    user, _, host = promotions.author().partition("@")
    assert user == "ada" and host
    json.dumps(promotions.author())
