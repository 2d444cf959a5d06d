import json

import pytest

from effir import cli
from effir.errors import BadInput
from effir.services import promotions, registry


@pytest.fixture
def crowned(judged):
    """A model with two champions, the second of which stands."""
    judged.crown("first weights")
    judged.crown("second weights")
    judged.run, judged.spec = {"id": "manual__1", "by": "ada"}, {"name": judged.name}
    return judged


def test_the_phase_brings_the_champion_before_back(crowned):
    result = crowned.execute("rollback", to="", why=" users complain ")
    assert result["output"]["model"] == {"name": crowned.name, "version": "1", "aliases": ["champion"]}
    record = json.loads(crowned.read("rollback", "promotion.json"))
    assert record == promotions.latest(crowned.store, crowned.name)
    assert (record["why"], record["who"]) == (["users complain"], "ada (Airflow run manual__1)")
    assert record["run"] == {"dag_run_id": "manual__1", "mlflow_run_id": None}
    assert registry.aliases(crowned.name)["champion"] == "1"


def test_tried_again_the_same_run_goes_back_no_further(crowned):
    crowned.crown("third weights")
    first = crowned.execute("rollback", to="", why="")
    again = crowned.execute("rollback", to="", why="")
    assert first["numbers"] == again["numbers"] == {"version": 2, "n": 4}
    crowned.run = {"id": "manual__2"}
    assert crowned.execute("rollback", to="", why="")["numbers"] == {"version": 1, "n": 5}


@pytest.mark.parametrize("to", ["latest", "-1", "1.0", "1; rm", "٣x"])
def test_what_is_no_version_is_refused(crowned, to):
    with pytest.raises(BadInput, match="is no version of"):
        crowned.execute("rollback", to=to)


def test_the_command_says_what_it_did(crowned, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["effir", "rollback", crowned.name, "--why", "users complain"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code or 0, capsys.readouterr().out) == (
        0,
        f"version 1 of {crowned.name} is the champion, no longer version 2 (promotion 3)\n",
    )
    monkeypatch.setattr("sys.argv", ["effir", "rollback", crowned.name, "--to", "2", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    record = json.loads(capsys.readouterr().out)
    assert record == promotions.latest(crowned.store, crowned.name)
    assert "@" in record["who"] and record["run"] is None


def test_the_command_refuses_in_one_sentence(crowned, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["effir", "rollback", "../" + crowned.name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"effir: '../{crowned.name}' cannot be the name of a model")
