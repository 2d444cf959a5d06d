"""Promoters against each other and against a sudden end, with the real S3 and MLflow."""

import http.client
import http.server
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from effir.services import promotions, registry

EFFIR = [sys.executable, "-m", "effir.cli"]
ALIAS = "/api/2.0/mlflow/registered-models/alias"


def aliases(judged) -> dict[str, str]:
    return {alias: version for alias, version in registry.aliases(judged.name).items() if alias != "challenger"}


def promoter(judged, number: int, encoding: str) -> list[str]:
    """The command of a run that judged a candidate of its own against the champion of now."""
    judged.weights, judged.encoding, judged.inputs = f"weights {number}", encoding, {}
    judged.run = {"id": f"run-{number}"}
    judged.prepare().execute("gate")
    call = f"{judged.store.root}/runs/{judged.name}/calls/promote-{number}.json"
    judged.store.put_json(call, {"run": judged.run, "spec": judged.spec, "inputs": judged.inputs})
    return ["phase", "promote", "--spec", call, "--result", call.replace("calls", "results")]


@pytest.fixture
def crowned(judged):
    """A model whose second version is the champion, judged on few queries so that the next verdicts take no time."""
    judged.queries = {"code": 24, "papers": 24}
    judged.spec |= {"margin": 0.4, "margin_mean": 0.4, "resamples": 200}
    judged.offset |= {"champion": 0.0, "base": -0.34}
    judged.crown("first weights")
    judged.crown("second weights")
    return judged


@pytest.mark.timeout(240)
def test_twenty_at_once_leave_a_log_without_gaps_and_aliases_that_agree(crowned):
    encodings = ["one way"] * 3 + [f"way {number}" for number in range(5)]
    commands = [promoter(crowned, number, encoding) for number, encoding in enumerate(encodings)]
    commands += [["rollback", crowned.name, "--why", "at once"]] * 12
    given = {"input": json.dumps(commands), "capture_output": True, "text": True, "timeout": 200}
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("together.py"))], **given)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)

    count = len(list(crowned.store.list(f"{crowned.store.root}/promotions/{crowned.name}")))
    log = [crowned.store.get_json(f"{crowned.store.root}/promotions/{crowned.name}/{n}.json") for n in range(1, count + 1)]
    assert [record["n"] for record in log] == list(range(1, count + 1))
    for before, record in itertools.pairwise(log):
        assert record["from"] == {"version": before["to"]["version"], "digest": before["to"]["digest"]}
    last = log[-1]["to"]["version"]
    assert aliases(crowned) == {
        name: version
        for name, version in {"champion": last, "previous": promotions.previous(crowned.store, crowned.name, last)}.items()
        if version
    }

    told = [json.loads(crowned.store.get_bytes(command[-1])) if one["code"] == 0 and command[0] == "phase" else None
            for command, one in zip(commands, ended, strict=True)]  # fmt: skip
    crownings = [one for one in told if one and one["output"]["verdict"] == "promoted"]
    back = [one for one, command in zip(ended, commands, strict=True) if one["code"] == 0 and command[0] == "rollback"]
    acts = [record["action"] for record in log[2:]]
    assert (acts.count("promote"), acts.count("rollback")) == (len(crownings), len(back))
    assert len(acts) >= 1
    losers = [one for one in ended if one["code"]]
    assert losers, "nobody lost: they did not act at once"
    for loser in losers:
        assert loser["code"] == 2, loser["said"]
        (sentence,) = [line for line in loser["said"].splitlines() if line.strip()]
        assert sentence.startswith("effir: ")
        assert "by now" in sentence or "under way" in sentence or "no champion of" in sentence


@contextmanager
def killing(mlflow: str, at: int) -> Iterator[tuple[str, dict[str, int]]]:
    """A proxy before MLflow that ends the process `victim["pid"]` with SIGKILL in the place of the call of an alias with this number."""
    server, victim, calls = urlsplit(mlflow), {"pid": 0}, []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.startswith(ALIAS) and self.command in {"POST", "DELETE"}:
                calls.append(json.loads(body)["alias"])
                if len(calls) == at:
                    os.kill(victim["pid"], signal.SIGKILL)
                    return
            with closing(http.client.HTTPConnection(server.hostname, server.port)) as onward:
                login = {name: value for name, value in self.headers.items() if name == "Authorization"}
                onward.request(self.command, self.path, body, {"Content-Type": "application/json"} | login)
                answer = onward.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}", victim
        proxy.shutdown()


def killed(mlflow: str, at: int, command: list[str]) -> None:
    """Carry a command out up to that call of an alias."""
    with killing(mlflow, at) as (address, victim):
        process = subprocess.Popen([*EFFIR, *command], env=os.environ | {"MLFLOW_TRACKING_URI": address})
        victim["pid"] = process.pid
        assert process.wait(120) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("at", "left"),
    [(2, {"champion": "2", "previous": "1"}), (3, {"champion": "2", "previous": "2"})],
    ids=["between the put and the aliases", "between two aliases"],
)
def test_what_a_killed_promoter_left_is_mended(crowned, mlflow, at, left):
    command = promoter(crowned, 1, "one way")
    killed(mlflow, at, command)
    assert promotions.champion(crowned.store, crowned.name)["version"] == "3", "the put decided"
    assert aliases(crowned) == left
    result = crowned.execute("promote")
    assert result["output"]["model"]["version"] == "3"
    assert aliases(crowned) == {"champion": "3", "previous": "2"}
    assert promotions.latest(crowned.store, crowned.name)["n"] == 3, "tried again, it is the champion already"


def test_what_a_killed_rollback_left_is_mended_and_goes_back_no_further(crowned, mlflow):
    crowned.crown("third weights")
    call = f"{crowned.store.root}/runs/{crowned.name}/calls/rollback.json"
    crowned.store.put_json(call, {"run": {"id": "manual__1"}, "spec": {"name": crowned.name}, "arguments": {"to": "", "why": ""}})
    killed(mlflow, 2, ["phase", "rollback", "--spec", call, "--result", call.replace("calls", "results")])
    assert aliases(crowned) == {"champion": "3", "previous": "1"}
    crowned.run, crowned.spec, crowned.inputs = {"id": "manual__1"}, {"name": crowned.name}, {}
    result = crowned.execute("rollback", to="", why="")
    assert (result["output"]["model"]["version"], result["numbers"]["n"]) == ("2", 4)
    assert aliases(crowned) == {"champion": "2", "previous": "1"}
