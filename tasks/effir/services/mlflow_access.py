"""MLflow's server with logins: `python -m … USERS ARGUMENT…` makes the users and runs `mlflow server --app-name basic-auth ARGUMENT…`.

USERS is a JSON file {user: password} of those below, each password of at least 12 characters; a password that changed there changes
here at the next start. MLFLOW_BACKEND_STORE_URI names the database, which keeps the users too; MLFLOW_AUTH_CONFIG_PATH the file that
MLflow's settings are written to, for this user alone. This module needs nothing of effir: the image of the server has it without.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

GRANTS: dict[str, dict[str, str] | None] = {
    "operator": None,
    "promote": {"experiment": "EDIT", "registered_model": "MANAGE"},
    "log": {"experiment": "EDIT"},
    "reader": {},
}
CREATE = "/mlflow/registered-models/create"
EVERY = "*"
CACHE_SECONDS = 300


def main() -> None:
    """Make the users, then serve. Ends with one sentence where USERS or a variable is missing or wrong."""
    if len(sys.argv) < 2:
        sys.exit("effir: name the JSON file with MLflow's users and their passwords")
    users = users_of(Path(sys.argv[1]))
    settings, database = (variable(name) for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_BACKEND_STORE_URI"))
    write_settings(Path(settings), database)
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = hashlib.sha256(f"forms {users['operator']}".encode()).hexdigest()
    make_users(users, database)
    from mlflow import server
    from mlflow.cli import cli

    server._exec_cmd = take_over  # type: ignore[assignment]
    cli.main(["server", "--app-name", "basic-auth", *sys.argv[2:]], prog_name="mlflow")


def take_over(cmd: list[str], *, extra_env: dict[str, str], **_: Any) -> None:
    """Become the server, which MLflow would start beside this process: it would outlive this one if that is killed, and keep its port."""
    os.execvpe(cmd[0], cmd, os.environ | extra_env)


def users_of(path: Path) -> dict[str, str]:
    """User → password."""
    try:
        users = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(
            f"effir: {path} should be a JSON file of MLflow's users and their passwords: {getattr(error, 'strerror', 'it is no JSON')}"
        )
    if (
        not isinstance(users, dict)
        or set(users) != set(GRANTS)
        or not all(isinstance(one, str) and len(one) >= 12 for one in users.values())
    ):
        sys.exit(f"effir: {path} should give each of {', '.join(GRANTS)} a password of at least 12 characters, and nobody else")
    return users


def variable(name: str) -> str:
    """A variable that has to be set."""
    return os.environ.get(name) or sys.exit(f"effir: {name} is not set")


def write_settings(path: Path, database: str) -> None:
    """MLflow's file of settings. Who is let in is remembered for CACHE_SECONDS: to compare a password takes tens of milliseconds."""
    told = {
        "default_permission": "READ",
        "database_uri": database,
        "admin_username": "operator",
        "authorization_function": f"{__spec__.name}:authenticate",
        "auth_cache_ttl_seconds": CACHE_SECONDS,
    }
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write("[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in told.items()).replace("%", "%%"))


def make_users(users: dict[str, str], database: str) -> None:
    """Every user with its password and its grants."""
    from mlflow.server.auth import store

    store.init_db(database)
    for user, password in users.items():
        grants = GRANTS[user]
        if not store.has_user(user):
            store.create_user(user, password, is_admin=grants is None)
        elif not store.authenticate_user(user, password):
            store.update_user(user, password=password)
        for kind, permission in (grants or {}).items():
            store.grant_user_permission(user, kind, EVERY, permission)


def authenticate() -> Any:
    """MLflow's basic authentication, and what its permissions cannot say: models are made by those who may change all of them.

    MLflow lets every user make a registered model, and gives its maker every right over it.
    """
    from flask import Response, make_response, request
    from mlflow.server.auth import authenticate_request_basic_auth

    found = authenticate_request_basic_auth()
    if isinstance(found, Response) or not request.path.rstrip("/").endswith(CREATE) or may_change_models(str(found.username)):
        return found
    return make_response(f"Permission denied: {found.username} may not make registered models", 403)


def may_change_models(user: str) -> bool:
    """Whether a user is an administrator, or may change every registered model."""
    from mlflow.server.auth import resolve_permissions, store
    from mlflow.server.auth.permissions import GrantLoadKey
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    if store.get_user(user).is_admin:
        return True
    (granted,) = resolve_permissions(user, DEFAULT_WORKSPACE_NAME, [GrantLoadKey("registered_model", EVERY)])
    return granted is not None and granted.can_update


if __name__ == "__main__":
    main()
