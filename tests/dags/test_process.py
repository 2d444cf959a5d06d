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
        ("os.kill(os.getpid(), signal.SIGKILL)", [75, "the process was killed (SIGKILL)"]),
        ("os.kill(os.getpid(), signal.SIGTERM)", [75, "the process was killed (SIGTERM)"]),
    ],
)
def test_exit_code_and_last_sentence(in_airflow: Callable[..., Any], tmp_path: Path, body: str, told: list[Any]) -> None:
    assert in_airflow(RUN, EFFIR_COMMAND=command(tmp_path, body)) == told


def test_the_phase_gets_its_addresses_and_no_settings_of_airflow(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    body = "print('effir:', *sys.argv[1:], [name for name in os.environ if 'AIRFLOW' in name])"
    said = in_airflow(RUN, EFFIR_COMMAND=command(tmp_path, body), AIRFLOW__CORE__FERNET_KEY="secret")[1]
    assert said == "phase depth --spec s3://effir/spec.json []"


def test_a_killed_task_asks_its_phase_to_stop(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
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
    assert in_airflow(textwrap.dedent(script), EFFIR_COMMAND=command(tmp_path, body)) == [75, "stopped at a checkpoint"]


def test_a_phase_does_not_outlive_its_task(in_airflow: Callable[..., Any], tmp_path: Path, eventually: Callable[..., Any]) -> None:
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
    in_airflow(textwrap.dedent(script), EFFIR_COMMAND=command(tmp_path, body), PID_FILE=str(tmp_path / "pid"))
    pid = int((tmp_path / "pid").read_text())
    assert eventually(lambda: not _alive(pid), 10)
    assert time.monotonic() - began < 59


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


SECRETS = {"AWS_SECRET_ACCESS_KEY": "hush-launch", "MLFLOW_TRACKING_PASSWORD": "hush-log", "EFFIR_AIRFLOW_PASSWORD": "hush-admin"}


def test_a_phase_gets_the_credentials_of_its_role_alone(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    """As the kernel tells what the process was started with, and as `effir` reads it."""
    for role in ("compute", "promote"):
        (tmp_path / f"{role}.env").write_text(f"AWS_SECRET_ACCESS_KEY=hush-{role}\n")
    body = """
    from effir.services import credentials
    started = open("/proc/self/environ").read()
    credentials.load()
    seen = [one for one in ("launch", "log", "admin", "compute", "promote") if "hush-" + one in started]
    print("effir:", seen, os.environ["AWS_SECRET_ACCESS_KEY"])
    """
    files = {"EFFIR_CREDENTIALS": str(tmp_path / "{role}.env"), "EFFIR_COMMAND": command(tmp_path, body)}
    for phase, role in (("depth", "compute"), ("promote", "promote")):
        assert in_airflow(RUN.replace('phase="depth"', f'phase="{phase}"'), **files, **SECRETS) == [0, f"[] hush-{role}"]


def test_where_there_is_one_key_for_all_every_phase_gets_it(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    body = "print('effir:', *(os.environ[name] for name in ('AWS_SECRET_ACCESS_KEY', 'MLFLOW_TRACKING_PASSWORD')))"
    assert in_airflow(RUN, EFFIR_COMMAND=command(tmp_path, body), **SECRETS) == [0, "hush-launch hush-log"]


def test_what_the_kernel_kills_for_want_of_memory_counts_as_that(in_airflow: Callable[..., Any]) -> None:
    script = "import process; print(json.dumps([process.outcome(code, True, 'said') for code in (-9, -15, 1, 0)]))"
    assert [told[0] for told in in_airflow(script)] == [76, 75, 1, 0]
