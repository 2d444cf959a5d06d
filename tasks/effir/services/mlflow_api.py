"""MLflow's REST API, spoken directly: importing the mlflow package takes seconds, which every short phase would pay.

Address and credentials come from MLflow's own environment variables: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_SERVER_CERT_PATH, MLFLOW_TRACKING_INSECURE_TLS.
"""

import os
import random
import time
from typing import Any

import requests

from effir.errors import BadInput, EffirError, OutOfReach

TIMEOUT = (3, 30)
ATTEMPTS = 3
BUSY = {429, 500, 502, 503, 504}
COLLIDED, COLLISIONS = "BAD_REQUEST", 10  # what MLflow says of every error of its database but a busy one: two writers met at a row


class Refused(EffirError):
    """MLflow answered, and said no. `code` is MLflow's error code, such as RESOURCE_DOES_NOT_EXIST."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Denied(BadInput):
    """MLflow knows this user, who may not do that. A version of a model that does not exist may be read by its operator alone."""


class Api:
    """One MLflow server.

    Raises BadInput where MLFLOW_TRACKING_URI is unset or no http address or the credentials are wrong, EffirError where
    nothing answers (after some ten seconds at most), Denied where this user may not do that, Refused where MLflow answers with
    an error of its own.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = (address or os.environ.get("MLFLOW_TRACKING_URI", "")).rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise BadInput(
                f"MLFLOW_TRACKING_URI must be the http address of an MLflow server, and is {self.address!r} "
                "(`effir env` prints the embedded stack's)"
            )
        self.session = requests.Session()
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            self.session.headers["Authorization"] = f"Bearer {token}"
        elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
            self.session.auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
        certificate = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        self.session.verify = certificate or os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() != "true"

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """GET api/2.0/mlflow/`path`."""
        return self._call("GET", path, {"params": query})

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """POST api/2.0/mlflow/`path`."""
        return self._call("POST", path, {"json": body})

    def patch(self, path: str, **body: Any) -> dict[str, Any]:
        """PATCH api/2.0/mlflow/`path`."""
        return self._call("PATCH", path, {"json": body})

    def delete(self, path: str, **body: Any) -> dict[str, Any]:
        """DELETE api/2.0/mlflow/`path`."""
        return self._call("DELETE", path, {"json": body})

    def _call(self, method: str, path: str, content: dict[str, Any]) -> dict[str, Any]:
        for _ in range(COLLISIONS):
            try:
                return self._ask(method, path, content)
            except Refused as refusal:
                if refusal.code != COLLIDED:
                    raise
            time.sleep(random.uniform(0, 0.2))
        return self._ask(method, path, content)

    def _ask(self, method: str, path: str, content: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.5 * attempt)
            try:
                answer = self.session.request(method, f"{self.address}/api/2.0/mlflow/{path}", timeout=TIMEOUT, **content)
            except requests.ReadTimeout:
                break
            except requests.RequestException:
                continue
            if answer.status_code not in BUSY:
                return self._read(answer, path)
        raise OutOfReach(f"MLflow at {self.address} is not reachable: is it running? (`effir up` starts the embedded one)")

    def _read(self, answer: requests.Response, path: str) -> dict[str, Any]:
        if answer.status_code == 401:
            raise BadInput(f"MLflow at {self.address} refused the credentials: check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        if answer.status_code == 403:
            user = os.environ.get("MLFLOW_TRACKING_USERNAME", "this client")
            said = answer.text.strip().partition("\n")[0][:200]
            raise Denied(f"MLflow at {self.address} does not let {user} do {path}: {said} (who may what: docs/access.md)")
        try:
            body = answer.json()
        except ValueError:
            raise EffirError(f"what answers at {self.address} is no MLflow server: check MLFLOW_TRACKING_URI") from None
        if answer.ok:
            return body
        said = str(body.get("message") or answer.status_code).splitlines()[0]
        raise Refused(body.get("error_code", str(answer.status_code)), f"MLflow refused {path}: {said}")
