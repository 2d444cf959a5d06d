"""A phase shared by several processes, started by torchrun's agent, the way a container runs it."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from effir.errors import BadInput
from effir.manifest import MANIFEST
from effir.phases.launcher import launch

REFERENCE = {"model": "reference"}


@pytest.fixture
def taught(chain):
    """Makes a chain that is ready for the fine-tuning, with hard negatives and gradient caching."""
    settings = {"lora_dropout": 0.0, "batch": 9, "micro_batch": 2, "hard_negatives": 2, "learning_rate": 1e-3}

    def make(**changes):
        one = chain(**settings | changes)
        one.cut()
        return one

    return make


class Weights:
    """Weights of an exported model and what training changed them by."""

    def __init__(self, one, label: str, folder: Path) -> None:
        found = load_file(one.file(label, "model/model.safetensors", folder))
        base = load_file(one.file("base", "model.safetensors", folder))
        self.values = {name: value for name, value in found.items() if value.shape == base[name].shape}
        self.changes = {name: value - base[name] for name, value in self.values.items() if not value.equal(base[name])}

    def differ(self, other: "Weights") -> tuple[float, float]:
        """Largest relative difference of a tensor, and of a change."""
        assert self.values.keys() == other.values.keys() and self.changes.keys() == other.changes.keys() and self.changes
        return max(_relative(self.values, other.values)), max(_relative(self.changes, other.changes))


def _relative(one: dict, other: dict) -> list[float]:
    return [float((value - other[name]).norm() / value.norm()) for name, value in one.items()]


def alive(uri: str) -> list[psutil.Process]:
    """Processes that execute this call."""
    return [one for one in psutil.process_iter(["cmdline"]) if uri in (one.info["cmdline"] or [])]


def test_what_ranks_share_in_teacher_and_slim_and_how_they_fail(taught, forked, tmp_path):
    """Three ranks, told their places as an agent tells them; the penalty is heavy enough to be missed."""
    one = taught(teacher="minilm", slim_lambda=1e-2, slim_seeds=1, slim_batch=5, slim_steps=3, batch=2)
    slim = {name: one.uris[name] for name in ("base", "training")} | {"cut": one.uris["depth cut"]}
    scores = one.file("teacher", "scores.json", tmp_path / "one").read_text()
    z = load_file(one.file("slim", "scores.safetensors", tmp_path / "one"))
    asked = [
        one.command("teacher", {"training": one.uris["training"]}),
        one.command("slim", slim),
        one.command("slim", slim, label="again"),
        one.command("finetune", one.lesson(), REFERENCE),
        one.command("depth", {"base": one.uris["base"], "importance": one.uris["importance"]}),
    ]
    for label in ("teacher", "slim"):
        one.forget(label)
    found = forked([(command, 3, None) for command in asked])
    assert found.codes == [[0] * 3, [0] * 3, [0] * 3, [2] * 3, [2] * 3], found.said

    assert one.file("teacher", "scores.json", tmp_path / "three").read_text() == scores
    assert max(_relative(z, load_file(one.file("slim", "scores.safetensors", tmp_path / "three")))) < 1e-5
    assert ["slim: 3 of 3" in said for said in found.said[1]] == [True, False, False]
    assert ["slim: done before" in said for said in found.said[2]] == [True, False, False]
    assert found.words[:3] == [[""] * 3] * 3
    assert found.words[3] == ["finetune has 2 queries a step, too few for 3 processes: use fewer or a larger batch"] * 3
    assert found.words[4][1].startswith("phase depth is work for one process, not 3")


def test_two_processes_give_the_weights_of_one(taught, tmp_path, capsys):
    """The whole loss: hard negatives, a teacher, regression and ranking onto the reference; gradient caching."""
    one = taught(teacher="minilm", teacher_temperature=0.05, ranking_weight=0.5)
    one.run("finetune", one.lesson(), REFERENCE, "reference")
    heal = one.healing()
    one.run("finetune", heal, {"model": "candidate"}, "candidate")
    expected, told = Weights(one, "candidate", tmp_path / "one"), one.store.get_json(one.uris["candidate"])
    one.forget("candidate")
    command = [*one.command("finetune", heal, {"model": "candidate"}, "candidate"), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    weights, changes = expected.differ(Weights(one, "candidate", tmp_path / "two"))
    assert weights < 1e-5
    assert changes < 1e-4
    found = one.store.get_json(one.uris["candidate"])
    assert found["digest"] == told["digest"]
    assert found["numbers"] == pytest.approx(told["numbers"], rel=1e-5)
    assert done.stdout.count("finetune: 8 of 8") == 1
    assert not list(one.store.list(f"{one.store.root}/checkpoints"))

    launch("finetune", command[6], command[8], processes=2)
    assert "finetune: done before" in capsys.readouterr().out


def test_terminated_as_two_processes_and_resumed_on_two_nodes(taught, tmp_path):
    one = taught(reference_steps=40, checkpoint_every=1000, learning_rate=2e-4)
    one.run("finetune", one.lesson(), REFERENCE, "reference")
    expected = Weights(one, "reference", tmp_path / "straight")
    one.forget("reference")

    command = one.command("finetune", one.lesson(), REFERENCE, "reference")
    process = subprocess.Popen([*command, "--processes", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if line.startswith("finetune: "):
            listening = {one.laddr.ip for ours in alive(command[-1]) for one in ours.net_connections("tcp") if one.status == "LISTEN"}
            process.send_signal(signal.SIGTERM)
            break
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    assert output.splitlines()[-1].startswith("effir: stopped on request after step ")
    assert [uri for uri, _ in one.store.list(f"{one.store.root}/checkpoints") if uri.endswith(MANIFEST)]
    assert not alive(command[-1])
    assert listening == {"127.0.0.1"}

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{free.getsockname()[1]}"
    node = [*command, "--nodes", "2", "--rendezvous", meet]
    loopback = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    nodes = [subprocess.Popen(node, env=loopback, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    told = [one.communicate(timeout=200)[0] for one in nodes]
    assert [one.returncode for one in nodes] == [0, 0], told
    assert sorted("resuming after step" in one for one in told) == [False, True]
    weights, changes = expected.differ(Weights(one, "reference", tmp_path / "resumed"))
    assert weights < 1e-5
    assert changes < 1e-4


def test_what_a_killed_launcher_leaves_the_next_try_removes(taught, tmp_path, eventually):
    one = taught()
    one.forget("teacher")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = os.environ | {"TMPDIR": str(scratch)}
    command = one.command("teacher", {"training": one.uris["training"]})
    launcher = subprocess.Popen([*command, "--processes", "2"], env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (left,) = eventually(lambda: list(scratch.glob("effir-at-work-teacher-ranks-*")), 60, 0.01)
    eventually(lambda: (left / "ends").exists(), 60, 0.01)
    launcher.kill()
    launcher.wait()
    eventually(lambda: not alive(command[-1]), 60)
    assert left.exists()
    for path in scratch.iterdir():
        os.utime(path, (0, 0))
    assert subprocess.run(command, env=settings, capture_output=True, timeout=120).returncode == 0
    assert list(scratch.iterdir()) == []


def test_work_that_cannot_be_shared_is_refused(taught):
    one = taught()
    with pytest.raises(BadInput, match="phase depth is work for one process"):
        launch("depth", *one.call("depth", {"base": one.uris["base"]}), processes=2)
    for address in ("", "host", "host:port", "a host:29400"):
        with pytest.raises(BadInput, match="2 nodes need a place to meet: give --rendezvous HOST:PORT"):
            launch("finetune", *one.call("finetune", one.lesson(), REFERENCE), processes=1, nodes=2, rendezvous=address)
