import os
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = """
import process
task = process.ProcessPhase(task_id="depth", phase="depth")
print(json.dumps(task.launch(["phase", "depth", "--spec", "s3://effir/spec.json"], None)))
"""


def command(folder: Path, body: str) -> str:
    """A program that stands where `effir` would."""
    path = folder / "program.py"
    path.write_text("import os, signal, sys, time\n" + textwrap.dedent(body))
    return shlex.join([sys.executable, str(path)])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("print('depth: done')", [0, "depth: done"]),
        ("print('effir: k is 40, and there are 30 layers', file=sys.stderr); sys.exit(2)", [2, "k is 40, and there are 30 layers"]),
        ("print('effir: stopped'); print('bye'); sys.exit(75)", [75, "stopped"]),
        ("raise ValueError('wrong')", [1, "ValueError: wrong"]),
    ],
)
def test_exit_code_and_last_sentence(parse_dags: Callable[..., Any], tmp_path: Path, body: str, told: list[Any]) -> None:
    assert parse_dags(RUN, EFFIR_COMMAND=command(tmp_path, body)) == told


def test_the_phase_gets_its_addresses_and_no_settings_of_airflow(parse_dags: Callable[..., Any], tmp_path: Path) -> None:
    body = "print('effir:', *sys.argv[1:], [name for name in os.environ if 'AIRFLOW' in name])"
    said = parse_dags(RUN, EFFIR_COMMAND=command(tmp_path, body), AIRFLOW__CORE__FERNET_KEY="secret")[1]
    assert said == "phase depth --spec s3://effir/spec.json []"


def test_a_killed_task_asks_its_phase_to_stop(parse_dags: Callable[..., Any], tmp_path: Path) -> None:
    body = """
    def stop(*_):
        print("effir: stopped at a checkpoint", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    time.sleep(60)
    """
    script = """
    import process, threading
    task = process.ProcessPhase(task_id="depth", phase="depth")
    def kill():
        while not getattr(task, "process", None): time.sleep(0.05)
        time.sleep(1)
        task.on_kill()
    threading.Thread(target=kill).start()
    print(json.dumps(task.launch(["phase", "depth"], None)))
    """
    assert parse_dags(textwrap.dedent(script), EFFIR_COMMAND=command(tmp_path, body)) == [75, "stopped at a checkpoint"]


def test_a_phase_does_not_outlive_its_task(parse_dags: Callable[..., Any], tmp_path: Path, eventually: Callable[..., Any]) -> None:
    body = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = """
    import os, process, signal, threading
    task = process.ProcessPhase(task_id="depth", phase="depth")
    if os.fork() == 0:
        def die():
            while not os.path.exists(os.environ["PID_FILE"]): time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=die).start()
        task.launch(["phase", "depth"], None)
    os.wait()
    print(json.dumps(None))
    """
    began = time.monotonic()
    parse_dags(textwrap.dedent(script), EFFIR_COMMAND=command(tmp_path, body), PID_FILE=str(tmp_path / "pid"))
    pid = int((tmp_path / "pid").read_text())
    assert eventually(lambda: not _alive(pid), 10)
    assert time.monotonic() - began < 59


def test_what_an_input_stands_for(parse_dags: Callable[..., Any]) -> None:
    script = """
    import launch
    prepared = {"parts": {"base": "s3://b", "seen": "s3://c"}, "manifest": "s3://p", "output": {"collections": {"seen": {}}}}
    begun = {"parts": {}, "manifest": "s3://0", "output": {"champion": None}}
    crowned = {"output": {"champion": {"manifest": "s3://old"}}}
    encoded = [{"manifest": f"s3://{model}", "arguments": {"model": model}} for model in ("base", "candidate")]
    print(json.dumps([
        launch.pick("base", prepared), launch.pick("prepare", prepared), launch.pick("collections", prepared), launch.pick("base", "s3://x"),
        launch.pick("champion", begun), launch.pick("champion", crowned), launch.pick("encodes", encoded),
        launch.pick("encodes", encoded, "candidate"), launch.pick("collections", ["s3://c"]),
    ]))
    """
    assert parse_dags(textwrap.dedent(script)) == [
        "s3://b", "s3://p", ["s3://c"], "s3://x", None, "s3://old", ["s3://base", "s3://candidate"], ["s3://candidate"],
        ["s3://c"],
    ]  # fmt: skip


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
