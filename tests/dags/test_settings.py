import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

DAGS = Path(__file__).parents[2] / "dags"
LEAST = {"image": "effir-task:0.1.0"}


@pytest.fixture(scope="module")
def settings() -> Any:
    """The module under test: it needs the standard library alone."""
    spec = importlib.util.spec_from_file_location("runner_settings", DAGS / "settings.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ([], "FILE should hold one JSON object"),
        ({}, "FILE: image is missing: the task image with its tag, such as effir-task:0.1.0"),
        (LEAST | {"imge": "x"}, "FILE: there is no key 'imge'; choose among image, node_selector, tolerations, environment, secrets,"),
        (LEAST | {"resources": {"cpu": 2}}, "FILE, resources: there is no key 'cpu'; choose among cpus, memory, gpus, shm, disk,"),
        (LEAST | {"phases": {"finetun": {}}}, "FILE, phases: there is no phase 'finetun'; choose among begin, arms, prepare,"),
        (LEAST | {"phases": {"slim": {"gpu": 1}}}, "FILE, phases.slim: there is no key 'gpu'; choose among cpus, memory, gpus,"),
        (LEAST | {"phases": {"slim": {"network": "x"}}}, "FILE, phases.slim: there is no key 'network'"),
        (LEAST | {"phases": []}, "FILE: phases is [], but has to be an object"),
        (LEAST | {"resources": {"memory": "8 GB"}}, 'FILE, resources: memory is "8 GB", but has to be a size such as 512Mi or 8Gi'),
        (LEAST | {"resources": {"memory": 8}}, "FILE, resources: memory is 8, but has to be a size"),
        (LEAST | {"resources": {"disk": "0Gi"}}, 'FILE, resources: disk is "0Gi", but has to be a size'),
        (LEAST | {"resources": {"gpus": -1}}, "FILE, resources: gpus is -1, but has to be a whole number of at least 0"),
        (LEAST | {"resources": {"gpus": True}}, "FILE, resources: gpus is true, but has to be a whole number of at least 0"),
        (LEAST | {"resources": {"cpus": 0}}, "FILE, resources: cpus is 0, but has to be a number above 0"),
        (LEAST | {"resources": {"processes": 0}}, "FILE, resources: processes is 0, but has to be a whole number of at least 1"),
        (LEAST | {"grace_seconds": "120"}, 'FILE: grace_seconds is "120", but has to be a whole number of at least 1'),
        (LEAST | {"secrets": "AWS_SECRET_ACCESS_KEY"}, 'FILE: secrets is "AWS_SECRET_ACCESS_KEY", but has to be a list of names'),
        (LEAST | {"environment": ["A=b"]}, 'FILE: environment is ["A=b"], but has to be a list of names'),
        (LEAST | {"mounts": ["/data:/data"]}, 'FILE: mounts is ["/data:/data"], but has to be a list of "SOURCE:TARGET:ro"'),
        (LEAST | {"mounts": ["data:data:ro"]}, 'FILE: mounts is ["data:data:ro"], but has to be a list'),
        (LEAST | {"node_selector": {"gpu": 1}}, 'FILE: node_selector is {"gpu": 1}, but has to be labels of nodes'),
        (LEAST | {"tolerations": [{"efect": "NoSchedule"}]}, "FILE: tolerations is"),
        (LEAST | {"phases": {"finetune": {"gpus": 1, "processes": 2}}}, "FILE: finetune wants 2 processes on 1 GPUs: at most one a GPU"),
        (LEAST | {"resources": {"memory": "1Gi", "shm": "2Gi"}}, "FILE: begin wants 2Gi of /dev/shm out of 1Gi of memory: give it more"),
        (LEAST | {"phases": {"finetune": {"nodes": 2}}}, "FILE: finetune wants 2 nodes, and the runner 'docker' has one: use"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_in_one_sentence(settings: Any, told: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match="FILE") as refusal:
        settings.parse(told, "FILE", "docker")
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_a_phase_gets_its_own_or_what_holds_for_all(settings: Any) -> None:
    gpu, spot = {"gpu": "h100"}, [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    told = {
        "image": "effir-task:0.1.0", "node_selector": gpu, "tolerations": spot, "resources": {"cpus": 1.5, "memory": "4Gi"},
        "phases": {
            "finetune": {"gpus": 2, "processes": 2, "nodes": 3, "image": "effir-task:0.1.0-cuda"},
            "slim": {"gpus": 1, "node_selector": {}, "tolerations": []},
            "speed": {"node_selector": {"quiet": "yes"}, "memory": "6Gi"},
        },
    }  # fmt: skip
    found = settings.parse(told, "FILE", "kubernetes")
    usual = settings.Resources(cpus=1.5, memory="4Gi")
    assert found.of("gate") == settings.Wanted("effir-task:0.1.0", usual, {}, [])
    trained = settings.replace(usual, gpus=2, processes=2, nodes=3)
    assert found.of("finetune") == settings.Wanted("effir-task:0.1.0-cuda", trained, gpu, spot)
    assert found.of("slim") == settings.Wanted("effir-task:0.1.0", settings.replace(usual, gpus=1), {}, [])
    assert found.of("speed") == settings.Wanted("effir-task:0.1.0", settings.replace(usual, memory="6Gi"), {"quiet": "yes"}, [])


def test_the_example_of_the_documentation_is_accepted(settings: Any) -> None:
    text = (DAGS.parent / "docs" / "runners.md").read_text()
    example = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert set(example) == set(settings.KEYS), "the example shows every key"
    assert settings.parse(example, "FILE", "kubernetes").of("finetune").resources.gpus > 0


def test_every_key_is_documented(settings: Any) -> None:
    text = (DAGS.parent / "docs" / "runners.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {*settings.KEYS, *settings.RESOURCES} <= {name.strip("` ") for row in rows for name in row.split(",")}


@pytest.mark.parametrize(
    ("quantity", "size"), [("512Mi", 512 * 2**20), ("1.5Gi", 3 * 2**29), ("2G", 2 * 10**9), ("1024", 1024), ("3k", 3000), ("1Ti", 2**40)]
)
def test_bytes_of_a_quantity(settings: Any, quantity: str, size: int) -> None:
    assert settings.size(quantity) == size


def test_the_file_is_needed_by_containers_alone(settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EFFIR_RUNNER", "EFFIR_RUNNER_SETTINGS"):
        monkeypatch.delenv(name, raising=False)
    assert settings.load() == settings.Settings()
    monkeypatch.setenv("EFFIR_RUNNER", "docker")
    with pytest.raises(ValueError, match="EFFIR_RUNNER is 'docker': name the JSON file with its settings in EFFIR_RUNNER_SETTINGS"):
        settings.load()
    path = tmp_path / "settings.json"
    monkeypatch.setenv("EFFIR_RUNNER_SETTINGS", os.fspath(path))
    with pytest.raises(ValueError, match="which cannot be read: No such file or directory"):
        settings.load()
    path.write_text("{")
    with pytest.raises(ValueError, match="which is no JSON: Expecting property name"):
        settings.load()
    path.write_text(json.dumps(LEAST))
    assert settings.load().image == LEAST["image"]
    monkeypatch.setenv("EFFIR_RUNNER", "process")
    path.write_text(json.dumps({"phases": {"finetune": {"processes": 2}}}))
    assert settings.load().of("finetune").resources.processes == 2


def test_every_phase_has_a_role(settings: Any) -> None:
    assert {phase: settings.role_of(phase) for phase in settings.PHASES}["promote"] == "promote"
    assert settings.role_of("evaluate") != settings.role_of("finetune")


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        ({"promoter": {}}, "FILE, roles: there is no role 'promoter'; choose among compute, judge, decide, promote"),
        ({"reader": {}}, "FILE, roles: there is no role 'reader'"),
        ({"promote": {"secret": []}}, "FILE, roles.promote: there is no key 'secret'; choose among secrets, mounts, service_account"),
        ({"promote": {"secrets": "x"}}, 'FILE, roles.promote: secrets is "x", but has to be a list of names'),
        ([], "FILE: roles is [], but has to be an object"),
    ],
)
def test_a_role_that_is_wrong_is_refused_in_one_sentence(settings: Any, roles: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match="FILE") as refusal:
        settings.parse(LEAST | {"roles": roles}, "FILE", "docker")
    assert str(refusal.value).startswith(sentence)


def test_a_phase_is_let_in_with_its_own_and_without_roles_with_what_all_have(settings: Any) -> None:
    every = LEAST | {"secrets": ["hub"], "mounts": ["data:/data:ro"], "service_account": "task"}
    one = settings.parse(every, "FILE", "kubernetes")
    assert {one.access_of(phase) for phase in settings.PHASES} == {settings.Access(("hub",), ("data:/data:ro",), "task")}
    own = {"promote": {"secrets": ["keys"], "service_account": "promoter"}, "judge": {"mounts": ["judge:/run/secrets:ro"]}}
    found = settings.parse(every | {"roles": own}, "FILE", "kubernetes")
    assert found.access_of("promote") == settings.Access(("hub", "keys"), ("data:/data:ro",), "promoter")
    assert found.access_of("evaluate") == settings.Access(("hub",), ("data:/data:ro", "judge:/run/secrets:ro"), "task")
    assert found.access_of("finetune") == one.access_of("finetune")
