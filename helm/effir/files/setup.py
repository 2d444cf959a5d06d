"""Make Airflow's pools and connections what the chart's values say, by its REST API. To run it again changes nothing.

Reads AIRFLOW_URL, TIMEOUT_SECONDS, the address of S3 and its keys (where there are any) from the environment, the pools from
pools.json beside it, the user from the folder USER, and more connections from the folder CONNECTIONS: a file a connection.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE = Path(__file__).parent
USER = Path(os.environ.get("USER_FOLDER", "/run/effir/user"))
CONNECTIONS = Path(os.environ.get("CONNECTIONS_FOLDER", "/run/effir/connections"))
S3 = "effir_s3"
PAUSE = 5


class Refused(Exception):
    """Airflow does not do what it was asked: final."""


def main() -> None:
    """Wait for Airflow, then set everything."""
    url = os.environ["AIRFLOW_URL"].rstrip("/")
    deadline = time.monotonic() + float(os.environ.get("TIMEOUT_SECONDS", "900"))
    try:
        token = patiently(lambda: sign_in(url), deadline)
        for pool in json.loads((HERE / "pools.json").read_text()):
            body = {"name": pool["name"], "slots": pool["slots"], "description": pool.get("description", ""), "include_deferred": True}
            patiently(lambda body=body: put(url, token, "pools", "name", body), deadline)
        for connection in [s3_connection(), *more_connections()]:
            patiently(lambda body=connection: put(url, token, "connections", "connection_id", body), deadline)
    except Refused as refusal:
        sys.exit(f"effir: {refusal}")


def patiently(act: Any, deadline: float) -> Any:
    """What `act` returns, once Airflow answers. Ends the script where it does not in time."""
    while True:
        try:
            return act()
        except (OSError, TimeoutError) as problem:
            if time.monotonic() > deadline:
                sys.exit(f"effir: Airflow at {os.environ['AIRFLOW_URL']} does not answer: {problem}")
            print(f"waiting for Airflow: {problem}", flush=True)
            time.sleep(PAUSE)


def sign_in(url: str) -> str:
    """A token: the one that is given, or one for the user that is given."""
    if (USER / "token").exists():
        return (USER / "token").read_text().strip()
    login = {"username": secret("username"), "password": secret("password")}
    return call("POST", f"{url}/auth/token", login)["access_token"]


def secret(name: str) -> str:
    """One part of the user's Secret. Raises Refused where it is absent."""
    try:
        return (USER / name).read_text().rstrip("\n")
    except OSError:
        raise Refused(f"the Secret in setup.existingSecret has no key {name}: give it username and password, or token") from None


def put(url: str, token: str, kind: str, key: str, body: dict[str, Any]) -> None:
    """Make a pool or a connection, or make the one of that name the same. A pool is called `pool` where it is changed."""
    name = body[key]
    one = f"{url}/api/v2/{kind}/{quote(name, safe='')}"
    if call("GET", one, token=token, absent=True) is None:
        call("POST", f"{url}/api/v2/{kind}", body, token)
    else:
        call("PATCH", one, {"pool" if (kind, part) == ("pools", "name") else part: value for part, value in body.items()}, token)
    print(f"{kind.removesuffix('s')} {name} is set", flush=True)


def s3_connection() -> dict[str, Any]:
    """Airflow's way to S3; without keys it is by the account of the pods that Airflow runs in."""
    extra = {"region_name": os.environ["AWS_DEFAULT_REGION"]}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3"):
        extra["endpoint_url"] = endpoint
    keys = {"login": os.environ.get("AWS_ACCESS_KEY_ID"), "password": os.environ.get("AWS_SECRET_ACCESS_KEY")}
    return {"connection_id": S3, "conn_type": "aws", "description": "Artifacts of effir", "extra": json.dumps(extra)} | keys


def more_connections() -> list[dict[str, Any]]:
    """A connection for each file: its name the id, its content Airflow's JSON. Raises Refused where that is none."""
    found = []
    for path in sorted(path for path in CONNECTIONS.glob("*/*") if not path.name.startswith("..")):
        try:
            body = json.loads(path.read_text())
            extra = body.get("extra")
            kind = body["conn_type"]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise Refused(f'the connection {path.name} is no JSON like {{"conn_type": "http", "host": "…"}}') from None
        texts = {} if extra is None or isinstance(extra, str) else {"extra": json.dumps(extra)}
        found.append(body | texts | {"connection_id": path.name, "conn_type": kind})
    return found


def call(method: str, url: str, body: Any = None, token: str = "", absent: bool = False) -> Any:
    """What Airflow answers; None where `absent` allows that there is nothing. Raises Refused, or OSError while it is not up."""
    content = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content, headers, method=method), timeout=60) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        if absent and error.code == 404:
            return None
        if error.code >= 500 or error.code in {404, 429}:
            raise OSError(f"{method} {url} answers {error.code}") from None
        reason = error.read().decode(errors="replace")[:300]
        raise Refused(f"Airflow refuses {method} {url} with {error.code}: {reason or error.reason}") from None


if __name__ == "__main__":
    main()
