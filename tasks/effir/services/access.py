"""What lets each role into the embedded stack, and each no further than it has to: files below the stack's folder, for its owner alone.

credentials/ROLE.env is what a phase of that role is given; tracking.ini what MLflow's server reads S3 with. Every key is derived from
the stack's one secret, so that none has to be stored beside it.
"""

import hashlib
import hmac
import json
from pathlib import Path

from effir.services import roles
from effir.services.credentials import VARIABLE
from effir.services.layout import Layout, write_private
from effir.services.mlflow_access import GRANTS

STORE, REPORTS = "s3://effir", "s3://mlflow"
LAUNCH, TRACKING = "launch", "tracking"


def write(layout: Layout, dags: Path) -> None:
    """Write them all anew."""
    table = roles.table(dags)
    keys = {role: s3_key(layout, role) for role in [roles.OPERATOR, *table]}
    write_private(s3_configuration(layout), json.dumps(roles.identities(table, keys, STORE, REPORTS)))
    write_private(mlflow_users(layout), json.dumps({user: mlflow_password(layout, user) for user in GRANTS}))
    folder = layout.folder / "credentials"
    folder.mkdir(mode=0o700, exist_ok=True)
    for role, about in table.items():
        told = s3_variables(layout, role) | (mlflow_variables(layout, about["mlflow"]) if about["mlflow"] else {})
        write_private(folder / f"{role}.env", "".join(f"{name}={value}\n" for name, value in told.items()))
    key, secret = keys[TRACKING]
    write_private(tracking_keys(layout), f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")


def s3_configuration(layout: Layout) -> Path:
    """SeaweedFS' identities."""
    return layout.folder / "s3.json"


def mlflow_users(layout: Layout) -> Path:
    """MLflow's users and their passwords."""
    return layout.folder / "mlflow-users.json"


def tracking_keys(layout: Layout) -> Path:
    """What MLflow's server reads S3 with."""
    return layout.folder / "credentials" / f"{TRACKING}.ini"


def of_phases(layout: Layout) -> dict[str, str]:
    """What Airflow is told of the phases' credentials: where they lie, and not what they are."""
    return {VARIABLE: str(layout.folder / "credentials" / "{role}.env")}


def s3_key(layout: Layout, role: str) -> tuple[str, str]:
    """Access key and secret key of a role."""
    if role == roles.OPERATOR:
        return layout.secrets["s3_key"], layout.secrets["s3_secret"]
    return f"effir-{role}", _derived(layout, f"s3 {role}")


def s3_variables(layout: Layout, role: str) -> dict[str, str]:
    """A role's keys as S3 clients read them."""
    key, secret = s3_key(layout, role)
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}


def mlflow_password(layout: Layout, user: str) -> str:
    """The password of a user of MLflow."""
    return _derived(layout, f"mlflow {user}")


def mlflow_variables(layout: Layout, user: str) -> dict[str, str]:
    """A user's login as MLflow's clients read it."""
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": mlflow_password(layout, user)}


def _derived(layout: Layout, purpose: str) -> str:
    return hmac.new(layout.secrets["s3_secret"].encode(), purpose.encode(), hashlib.sha256).hexdigest()
