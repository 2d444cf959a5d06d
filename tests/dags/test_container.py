"""Against a real Docker engine, with a small image in place of the task image: what it runs is the variable PROGRAM."""

import io
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

BASE = "python:3.11-slim-bookworm"
IMAGE = "effir-test-phase:1"
DOCKERFILE = f"""
FROM {BASE}
USER 10001
ENTRYPOINT ["python3", "-c", "import os, signal, sys, time; exec(os.environ['PROGRAM'])"]
"""
SETTINGS = {
    "image": IMAGE, "environment": ["PROGRAM", "PLAIN", "ABSENT"], "secrets": ["PASSWORD", "ABSENT_PASSWORD"], "network": "none",
    "mounts": ["/usr/share:/data:ro"], "grace_seconds": 20,
    "resources": {"cpus": 0.5, "memory": "64Mi", "shm": "16Mi", "disk": "32Mi", "gpus": 0},
}  # fmt: skip
OURS = "effir.dag=effir_test_container"
LAUNCH = """
import container, signal, textwrap, threading

DAG = "effir_test_container"

def launch(program, **known):
    os.environ["PROGRAM"] = textwrap.dedent(program)
    task = container.DockerPhase(task_id="depth", phase="depth")
    return task.launch(["phase", "depth", "--spec", "s3://x"], context(**known))
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.APIClient]:
    """A Docker engine with the test's image, or a loud skip."""
    if "DOCKER_HOST" not in os.environ:
        pytest.skip("NO DOCKER ENGINE: DOCKER_HOST is not set, so nothing of the Docker runner is tested here")
    client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], timeout=60)
    if not client.images(name=BASE):
        pytest.skip(f"NO BASE IMAGE: the Docker engine at DOCKER_HOST has no {BASE}, so nothing of the Docker runner is tested here")
    for told in client.build(fileobj=io.BytesIO(DOCKERFILE.encode()), tag=IMAGE, rm=True, decode=True):
        assert "error" not in told, told
    yield client
    client.remove_image(IMAGE)
    client.close()


@pytest.fixture(scope="module")
def in_containers(engine: docker.APIClient, in_airflow: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run a script that launches phases; it prints JSON."""
    path = tmp_path_factory.mktemp("runner") / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    names = {"EFFIR_RUNNER": "docker", "EFFIR_RUNNER_SETTINGS": str(path), "PLAIN": "seen", "PASSWORD": "hush-hush"}
    return lambda script: in_airflow(LAUNCH + textwrap.dedent(script), **names)


@pytest.fixture(scope="module")
def ended(in_containers: Callable[..., Any]) -> dict[str, Any]:
    """How phases of each kind ended."""
    return in_containers("""
    programs = {
        "done": "print('depth: done')",
        "bad input": "print('effir: k is 40, and there are 30 layers', file=sys.stderr); sys.exit(2)",
        "stopped": "print('effir: stopped'); print('bye'); sys.exit(75)",
        "failed": "raise ValueError('wrong')",
        "out of memory": "seen = [bytearray(10**7) for _ in range(100)]",
        "out of memory in a child": "sys.exit(os.system('python3 -c \\\\'x = [bytearray(10**7) for _ in range(100)]\\\\'') and 1)",
        "killed": "os.system('kill -9 -1'); sys.exit(137)",
    }
    print(json.dumps({name: launch(program) for name, program in programs.items()}))
    """)


@pytest.mark.parametrize(
    ("case", "code", "sentence"),
    [
        ("done", 0, "depth: done"),
        ("bad input", 2, "k is 40, and there are 30 layers"),
        ("stopped", 75, "stopped"),
        ("failed", 1, "ValueError: wrong"),
        ("out of memory", 76, "the container ran out of memory"),
        ("out of memory in a child", 76, "the container ran out of memory"),
        ("killed", 75, "the container was killed (137)"),
    ],
)
def test_exit_codes_and_sentences(ended: dict[str, Any], case: str, code: int, sentence: str) -> None:
    assert ended[case] == [code, sentence]


def test_what_the_engine_is_asked_for(in_containers: Callable[..., Any], engine: docker.APIClient) -> None:
    """As the engine tells it of a container that runs."""
    found = in_containers("""
    import docker
    seen = {}
    def look():
        client = docker.APIClient(base_url=os.environ["DOCKER_HOST"])
        while not (found := client.containers(filters={"label": ["effir.dag=" + DAG, "effir.task=arm.depth-3"]})):
            time.sleep(0.1)
        seen.update(client.inspect_container(found[0]["Id"]))
    thread = threading.Thread(target=look)
    thread.start()
    program = "print(json.dumps([os.getuid(), sys.argv[1:], os.environ['PASSWORD'], os.access('/', os.W_OK), open('/tmp/x', 'w').name]))"
    ended = launch("import json; time.sleep(2); " + program, task_id="arm.depth", map_index=3, try_number=2)
    thread.join()
    print(json.dumps([ended, seen]))
    """)
    (code, said), seen = found
    assert code == 0
    assert json.loads(said) == [10001, ["phase", "depth", "--spec", "s3://x"], "hush-hush", False, "/tmp/x"]
    host = seen["HostConfig"]
    asked = {
        "ReadonlyRootfs": True, "Privileged": False, "CapAdd": None, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"],
        "Memory": 64 * 2**20, "MemorySwap": 64 * 2**20, "NanoCpus": 5 * 10**8, "ShmSize": 16 * 2**20, "NetworkMode": "none",
        "Tmpfs": {"/tmp": f"exec,mode=1777,size={32 * 2**20}"}, "Binds": ["/usr/share:/data:ro"], "AutoRemove": False,
    }  # fmt: skip
    assert {name: host[name] for name in asked} == asked
    assert seen["Config"]["StopTimeout"] == 20
    labels = {name: value for name, value in seen["Config"]["Labels"].items() if name != "effir.stand-in"}
    run = "manual__2026-10-01T00:00:00+00:00"
    assert labels == {"effir.dag": "effir_test_container", "effir.run": run, "effir.task": "arm.depth-3", "effir.try": "2"}
    assert seen["Name"] == "/effir-effir_test_container-manual__2026-10-01T00-00-00-00-00-arm.depth-3-2"
    assert "PLAIN=seen" in seen["Config"]["Env"]
    assert not any("ABSENT" in one for one in seen["Config"]["Env"])


def test_nothing_is_left_behind(ended: dict[str, Any], engine: docker.APIClient) -> None:
    assert engine.containers(all=True, filters={"label": OURS}) == []


def test_a_killed_task_asks_its_phase_to_stop(in_containers: Callable[..., Any], engine: docker.APIClient) -> None:
    found = in_containers("""
    task = container.DockerPhase(task_id="depth", phase="depth")
    os.environ["PROGRAM"] = textwrap.dedent(\"\"\"
    def stop(*_):
        print("effir: stopped at a checkpoint", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    time.sleep(60)
    \"\"\")
    def kill():
        while not getattr(task, "container", None): time.sleep(0.05)
        time.sleep(2)
        task.on_kill()
    threading.Thread(target=kill).start()
    began = time.monotonic()
    print(json.dumps([task.launch([], context()), time.monotonic() - began]))
    """)
    assert found[0] == [75, "stopped at a checkpoint"]
    assert found[1] < 20
    assert engine.containers(all=True, filters={"label": OURS}) == []


def test_a_container_is_ended_and_removed_without_its_task(
    in_containers: Callable[..., Any], engine: docker.APIClient, eventually: Callable[..., Any]
) -> None:
    """Airflow kills a task's process five seconds after it asked it to stop."""
    lost = in_containers("""
    client = container.DockerPhase(task_id="x", phase="depth").client
    parent = os.getpid()
    if os.fork() == 0:
        task = container.DockerPhase(task_id="depth", phase="depth")
        def kill():
            while not task.container or b"ready" not in client.logs(task.container): time.sleep(0.1)
            task.on_kill()
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=kill).start()
        checkpoint = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), sys.exit(75)))"
        os.environ["PROGRAM"] = checkpoint + "; print('ready', flush=True); time.sleep(60)"
        task.launch([], context(task_id="killed"))
    while not (lost := client.containers(filters={"label": ["effir.dag=" + DAG, "effir.task=killed"]})): time.sleep(0.1)
    os.wait()
    print(json.dumps(lost[0]["Id"]))
    """)
    ended = eventually(lambda: not (state := engine.inspect_container(lost)["State"])["Running"] and state, 30)
    assert ended["ExitCode"] == 75, "it had the time to save its checkpoint"
    assert eventually(lambda: not engine.containers(all=True, filters={"id": lost}), 30)


def test_what_a_lost_execution_left_is_ended_first(in_containers: Callable[..., Any], engine: docker.APIClient) -> None:
    found = in_containers("""
    if os.fork() == 0:
        launch("signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('ready', flush=True); time.sleep(60)")
    client = container.DockerPhase(task_id="x", phase="depth").client
    while not (lost := client.containers(filters={"label": "effir.dag=" + DAG})): time.sleep(0.1)
    while b"ready" not in client.logs(lost[0]["Id"]): time.sleep(0.1)
    os.system(f"kill -9 $(pgrep -P {os.getpid()})")
    ended = launch("print('effir: alone')", try_number=2)
    print(json.dumps([ended, len(lost), len(client.containers(all=True, filters={"id": lost[0]["Id"]}))]))
    """)
    assert found == [[0, "alone"], 1, 0]


def test_an_image_that_is_missing_and_a_name_that_is_taken(in_containers: Callable[..., Any], engine: docker.APIClient) -> None:
    found = in_containers("""
    import settings
    told = settings.load()
    container.settings.load = lambda: settings.replace(told, image="effir-absent:1")
    absent = launch("")
    container.settings.load = lambda: settings.replace(told, network="absent")
    print(json.dumps([absent, launch("")]))
    """)
    (code, sentence), (other, refusal) = found
    assert (code, sentence) == (2, "the Docker engine has no image effir-absent:1: build it with `make images`, or pull it")
    assert other == 1
    assert refusal == "the Docker engine refused: network absent not found"


def test_gpus_are_asked_for(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    """No engine here has any."""
    script = """
    import container, settings
    told = settings.Settings()
    devices = container.host((), None, settings.Resources(gpus=2))["device_requests"]
    print(json.dumps([devices, container.host(("/srv/scratch:/tmp:rw",), None, settings.Resources())["tmpfs"]]))
    """
    wanted = {"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    assert in_airflow(script) == [[wanted], {}]


def test_a_container_gets_the_secrets_and_mounts_of_its_role_alone(in_airflow: Callable[..., Any]) -> None:
    """What the engine is asked for; no container is made."""
    script = """
    import container, settings
    own = {role: {"secrets": [f"KEY_{role.upper()}"], "mounts": [f"effir-{role}:/run/secrets:ro"]} for role in ("compute", "promote")}
    told = settings.parse({"image": "x:1", "environment": ["EFFIR_CREDENTIALS"], "secrets": ["HF_TOKEN"], "roles": own}, "FILE", "docker")
    asked = {}
    for phase in ("finetune", "evaluate", "promote"):
        task = container.DockerPhase(task_id=phase, phase=phase)
        asked[phase] = [task.environment(told), container.host(told.access_of(phase).mounts, None, settings.Resources())["binds"]]
    print(json.dumps(asked))
    """
    known = {"HF_TOKEN": "h", "KEY_COMPUTE": "c", "KEY_PROMOTE": "p", "EFFIR_CREDENTIALS": "/run/secrets/{role}.env"}
    assert in_airflow(script, **known) == {
        "finetune": [
            {"HF_TOKEN": "h", "KEY_COMPUTE": "c", "EFFIR_CREDENTIALS": "/run/secrets/compute.env"},
            ["effir-compute:/run/secrets:ro"],
        ],
        "evaluate": [{"HF_TOKEN": "h", "EFFIR_CREDENTIALS": "/run/secrets/judge.env"}, []],
        "promote": [
            {"HF_TOKEN": "h", "KEY_PROMOTE": "p", "EFFIR_CREDENTIALS": "/run/secrets/promote.env"},
            ["effir-promote:/run/secrets:ro"],
        ],
    }
