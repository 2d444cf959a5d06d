"""Airflow's REST API: trigger a run, follow it, read what its tasks handed back."""

import time
from typing import Any
from urllib.parse import quote

import requests

from effir.errors import BadInput, EffirError, OutOfReach

TIMEOUT = (5, 60)
ATTEMPTS = 3


class Airflow:
    """One Airflow api-server, spoken to as one user.

    Raises BadInput for wrong credentials or a request that Airflow refuses, EffirError where nothing answers.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._login = {"username": user, "password": password}
        self._session = requests.Session()

    def trigger(self, dag: str, conf: dict[str, Any], run_id: str | None = None) -> str:
        """Start a DAG run; returns its id. Raises BadInput with Airflow's reason where a parameter is out of bounds."""
        body = {"logical_date": None, "conf": conf} | ({"dag_run_id": run_id} if run_id else {})
        return self._call("POST", f"dags/{quote(dag)}/dagRuns", json=body)["dag_run_id"]

    def dag(self, dag: str) -> dict[str, Any] | None:
        """A DAG's details with its params, or None while Airflow has not read it."""
        return self._call("GET", f"dags/{quote(dag)}/details", absent=True)

    def pause(self, dag: str, paused: bool = True) -> None:
        """Let no run of a DAG start, or let them start again."""
        self._call("PATCH", f"dags/{quote(dag)}?update_mask=is_paused", json={"is_paused": paused})

    def forget(self, dag: str, run_id: str) -> None:
        """Delete a run's record."""
        self._call("DELETE", f"dags/{quote(dag)}/dagRuns/{quote(run_id)}")

    def import_errors(self) -> list[str]:
        """What Airflow could not read of the DAG folder."""
        return [f"{one['filename']}: {one['stack_trace']}" for one in self._call("GET", "importErrors")["import_errors"]]

    def run(self, dag: str, run_id: str) -> dict[str, Any]:
        """A DAG run: state, start_date, end_date, …"""
        return self._call("GET", f"dags/{quote(dag)}/dagRuns/{quote(run_id)}")

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The newest runs of a DAG, newest first."""
        return self._call("GET", f"dags/{quote(dag)}/dagRuns?order_by=-run_after&limit=20")["dag_runs"]

    def unfinished(self) -> list[dict[str, Any]]:
        """Every run of every DAG that is queued or under way: dag_id, dag_run_id, state, …"""
        return self._all("dags/~/dagRuns?state=queued&state=running", "dag_runs")

    def tasks(self, dag: str, run_id: str) -> list[dict[str, Any]]:
        """A run's task instances: task_id, map_index, state, start_date, duration, …"""
        return self._all(f"dags/{quote(dag)}/dagRuns/{quote(run_id)}/taskInstances?", "task_instances")

    def _all(self, path: str, name: str) -> list[dict[str, Any]]:
        """Every entry of a listing, page by page; path: up to its query, to which more is added."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", f"{path}&limit=100&offset={len(found)}")
            found += page[name]
            if not page[name] or len(found) >= page["total_entries"]:
                return found

    def xcom(self, dag: str, run_id: str, task: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task handed back under a key, or None."""
        path = f"dags/{quote(dag)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task)}/xcomEntries/{quote(key)}"
        entry = self._call("GET", f"{path}?map_index={map_index}&deserialize=true", absent=True)
        return entry["value"] if entry else None

    def asset_event(self, name: str, extra: dict[str, Any] | None = None) -> None:
        """Tell Airflow that the asset called `name` changed."""
        assets = self._call("GET", f"assets?name_pattern={quote(name)}")["assets"]
        found = next((one["id"] for one in assets if one["name"] == name), None)
        if found is None:
            raise BadInput(f"Airflow at {self.url} knows no asset {name}")
        self._call("POST", "assets/events", json={"asset_id": found, "extra": extra or {}})

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool where there is none. A pod that Airflow waits for keeps its slots."""
        if self._call("GET", f"pools/{quote(name)}", absent=True) is None:
            self._call("POST", "pools", json={"name": name, "slots": slots, "description": description, "include_deferred": True})

    def _call(self, method: str, path: str, *, absent: bool = False, **content: Any) -> Any:
        try:
            if "Authorization" not in self._session.headers:
                self._sign_in()
            for attempt in range(ATTEMPTS):
                answer = self._session.request(method, f"{self.url}/api/v2/{path}", timeout=TIMEOUT, **content)
                if answer.status_code == 401:
                    self._sign_in()
                elif answer.status_code < 500:
                    break
                time.sleep(attempt)
        except requests.RequestException:
            raise OutOfReach(f"Airflow at {self.url} is not reachable: is it running? (`effir up` starts the embedded one)") from None
        if absent and answer.status_code == 404:
            return None
        if answer.status_code >= 500:
            raise EffirError(
                f"Airflow at {self.url} failed on {path.partition('?')[0]} with {answer.status_code}: its api-server's log says why"
            )
        if not answer.ok:
            raise BadInput(f"Airflow refused {path.partition('?')[0]}: {_reason(answer)}")
        return answer.json() if answer.content else None

    def _sign_in(self) -> None:
        answer = self._session.post(f"{self.url}/auth/token", json=self._login, timeout=TIMEOUT)
        if answer.status_code in {401, 403}:
            raise BadInput(f"Airflow at {self.url} refused the login: check EFFIR_AIRFLOW_USER and EFFIR_AIRFLOW_PASSWORD")
        if not answer.ok:
            raise EffirError(f"Airflow at {self.url} could not sign in: it answered {answer.status_code}")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _reason(answer: requests.Response) -> str:
    try:
        detail = answer.json().get("detail", answer.text)
    except ValueError:
        detail = answer.text
    return " ".join(str(detail).split())[:500]
