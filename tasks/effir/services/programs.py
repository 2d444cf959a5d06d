"""The embedded stack's programs: their command lines, their environment, and the supervisor configuration that runs them."""

import os
import shlex
import sys
from pathlib import Path

from effir.services import access, roles
from effir.services.layout import LOOPBACK, TWINS, Layout

BUCKETS = ("effir", "mlflow")
REGION = "us-east-1"
MOST_SHARDS = 100_000
SETTINGS = ("AIRFLOW", "MLFLOW_", "AWS_", "EFFIR_")
KEPT = (
    "AWS_CA_BUNDLE", "EFFIR_DATA", "EFFIR_DEPLOYMENTS", "EFFIR_DAGS", "EFFIR_RUNNER", "EFFIR_RUNNER_SETTINGS", "EFFIR_COMMAND",
    "AIRFLOW_CONN_EFFIR_ALERTS", "EFFIR_VERIFY_CRON", "EFFIR_INDEXES",
)  # fmt: skip
DROPPED = ("PYTHONDONTWRITEBYTECODE",)


def commands(layout: Layout) -> dict[str, list[str]]:
    """Program → command line. Every address is on loopback; every port is one of the layout's."""
    data, sockets, port = layout.folder, layout.sockets, layout.ports
    airflow = [sys.executable, "-m", "airflow"]
    return {
        "s3": [
            beside_python("weed"), "mini", f"-dir={data / 's3'}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}",
            "-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            *(f"-{one}.port={port[one]}" for one in TWINS), f"-filer.localSocket={sockets / 'filer.sock'}", f"-bucket={','.join(BUCKETS)}",
            f"-s3.config={access.s3_configuration(layout)}",
        ],
        "mlflow": [
            sys.executable, "-m", "effir.services.mlflow_access", str(access.mlflow_users(layout)), "--host", LOOPBACK,
            "--port", str(port["mlflow"]), "--workers", "1", "--default-artifact-root", access.REPORTS, "--no-serve-artifacts",
        ],
        "api-server": [*airflow, "api-server", "-H", LOOPBACK, "-p", str(port["airflow"]), "-w", "1"],
        "scheduler": [*airflow, "scheduler", "--skip-serve-logs"],
        "dag-processor": [*airflow, "dag-processor"],
        "triggerer": [*airflow, "triggerer", "--skip-serve-logs"],
    }  # fmt: skip


AIRFLOW_PROGRAMS = ("api-server", "scheduler", "dag-processor", "triggerer")


def variables(layout: Layout) -> dict[str, dict[str, str]]:
    """Program → variables that it alone has. None of them is a secret: those lie in the files that they name.

    GOGC: Go else lets garbage grow to the size of what is alive. WEED_LEVELDB…: names of objects in one table in memory, not in eight that
    fill slowly; a folder that began with eight keeps them. MALLOC_ARENA_MAX: a server with many threads else keeps freed memory in
    a pool for every few of them. All of them grew from run to run (docs/reliability.md).
    """
    names, eight = layout.folder / "s3" / "filer", layout.folder / "s3" / "filerldb2" / "00"
    one_table = {"WEED_LEVELDB2_ENABLED": "false", "WEED_LEVELDB_ENABLED": "true", "WEED_LEVELDB_DIR": str(names)}
    return {
        "s3": {"GOGC": "50"} | ({} if eight.exists() else one_table),
        "api-server": {"MALLOC_ARENA_MAX": "2"},
        "mlflow": {
            "AWS_SHARED_CREDENTIALS_FILE": str(access.tracking_keys(layout)),
            "MLFLOW_AUTH_CONFIG_PATH": str(layout.folder / "mlflow-auth.ini"),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{layout.folder / 'mlflow.db'}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
    }


def client_environment(layout: Layout) -> dict[str, str]:
    """What the stack's operator needs to reach it: may do everything."""
    airflow = {"EFFIR_AIRFLOW_USER": "admin", "EFFIR_AIRFLOW_PASSWORD": layout.secrets["airflow_password"]}
    return addresses(layout) | airflow | access.s3_variables(layout, roles.OPERATOR) | access.mlflow_variables(layout, roles.OPERATOR)


def addresses(layout: Layout) -> dict[str, str]:
    """Where the stack is, and nothing secret."""
    return {
        "AWS_ENDPOINT_URL_S3": layout.url("s3"),
        "AWS_DEFAULT_REGION": REGION,
        "MLFLOW_S3_ENDPOINT_URL": layout.url("s3"),
        "MLFLOW_TRACKING_URI": layout.url("mlflow"),
        "EFFIR_STORE": access.STORE,
        "EFFIR_AIRFLOW_URL": layout.url("airflow"),
        "NO_PROXY": ",".join(dict.fromkeys([*os.environ.get("NO_PROXY", "").split(","), LOOPBACK, "localhost"])).strip(","),
    }


def environment(layout: Layout, dags: Path) -> dict[str, str]:
    """The environment of every program of the stack, with Airflow's secrets and no phase's.

    EFFIR_STACK marks them as ours; SPT_NOENV keeps process titles off that mark.
    """
    inherited = {name: value for name, value in os.environ.items() if name in KEPT or not (name.startswith(SETTINGS) or name in DROPPED)}
    marks = {"EFFIR_STACK": str(layout.folder), "SPT_NOENV": "1", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = {"EFFIR_COMMAND": os.environ.get("EFFIR_COMMAND", shlex.join([sys.executable, "-m", "effir.cli"]))}
    return inherited | addresses(layout) | access.of_phases(layout) | _airflow_environment(layout, dags) | marks | command


def _airflow_environment(layout: Layout, dags: Path) -> dict[str, str]:
    home = layout.folder / "airflow"
    settings: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": dags, "plugins_folder": dags / "plugins", "executor": "LocalExecutor", "parallelism": 3,
            "mp_start_method": "fork", "load_examples": False, "dags_are_paused_at_creation": False,
            "hostname_callable": "socket.gethostname",
            "simple_auth_manager_users": "admin:admin", "simple_auth_manager_passwords_file": layout.folder / "airflow-passwords.json",
            "fernet_key": layout.secrets["airflow_fernet"], "execution_api_server_url": f"{layout.url('airflow')}/execution/",
            "min_serialized_dag_update_interval": 5, "max_active_tasks_per_dag": 3, "max_map_length": MOST_SHARDS,
        },
        "api": {"base_url": layout.url("airflow"), "secret_key": layout.secrets["airflow_secret"]},
        "api_auth": {"jwt_secret": layout.secrets["airflow_jwt"]},
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}?timeout=60"},
        "logging": {"base_log_folder": home / "logs", "logging_level": "INFO"},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.6, "enable_health_check": False, "task_instance_heartbeat_timeout": 60,
            "orphaned_tasks_check_interval": 20,
        },
        "dag_processor": {"parsing_processes": 1, "min_file_process_interval": 300, "refresh_interval": 20, "print_stats_interval": 0},
    }  # fmt: skip
    named = {f"AIRFLOW__{section}__{key}".upper(): str(value) for section, values in settings.items() for key, value in values.items()}
    browser = f"{layout.url('filer')}/buckets/{{bucket}}/{{key}}/"
    return named | {"AIRFLOW_HOME": str(home), "AIRFLOW_CONN_EFFIR_S3": _s3_connection(layout), "EFFIR_S3_BROWSER": browser}


def _s3_connection(layout: Layout) -> str:
    import json

    extra = {"endpoint_url": layout.url("s3"), "region_name": REGION}
    key, secret = access.s3_key(layout, access.LAUNCH)
    return json.dumps({"conn_type": "aws", "login": key, "password": secret, "extra": extra})


def supervisor_configuration(layout: Layout) -> str:
    """supervisord's configuration: every program in one group, its group of processes ended with it, its log in logs/."""
    logs = layout.folder / "logs"
    programs, own = commands(layout), variables(layout)
    parts = [
        f"[supervisord]\nlogfile={logs / 'supervisord.log'}\npidfile={layout.folder / 'supervisord.pid'}\nchildlogdir={logs}\n",
        f"[unix_http_server]\nfile={layout.sockets / 'supervisor.sock'}\nchmod=0700\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
        f"[group:stack]\nprograms={','.join(programs)}\n",
    ]
    for name, command in programs.items():
        parts.append(
            f"[program:{name}]\ncommand={shlex.join(command)}\ndirectory={layout.folder}\n"
            f"autostart={str(name not in AIRFLOW_PROGRAMS).lower()}\nautorestart=true\nstartsecs=2\nstartretries=2\n"
            "stopasgroup=true\nkillasgroup=true\nstopwaitsecs=8\n"
            f"redirect_stderr=true\nstdout_logfile={logs / name}.log\nstdout_logfile_maxbytes=20MB\nstdout_logfile_backups=1\n"
            f"environment={_pairs(own.get(name, {}))}\n"
        )
    return "\n".join(parts).replace("%", "%%")


def _pairs(values: dict[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in values.items())


def beside_python(program: str) -> str:
    """A program installed next to the interpreter, or found on PATH."""
    import shutil

    return shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program) or program
