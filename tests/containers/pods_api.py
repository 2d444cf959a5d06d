"""A test double: the part of the Kubernetes API that KubernetesPodOperator uses for pods and Jobs, each pod a container of a Docker engine.

It stands for a cluster, which no machine here can run. The containers are real: their limits, users, signals, exit codes and logs. There is
no scheduler, no image is pulled, no probe and no policy looked at; a restart of the double forgets its pods.

    pods_api.py --kubeconfig FILE [--secrets FILE] [--network NAME] [--record FILE]

The engine is DOCKER_HOST's. The file of Secrets is {"name": {"key": "value"}}. The record has a line for each pod that started: its
manifest as it was asked for, and what the engine says of the container. The kubeconfig is written when the server listens; SIGTERM
removes every container that it made.
"""

import argparse
import contextlib
import hmac
import json
import os
import re
import secrets
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import docker
from pod_cluster import Cluster, Refusal, labelled

PATH = re.compile(r"/(?:api|apis/batch)/v1/namespaces/([^/]+)/(pods|jobs|events)(?:/([^/]+))?(?:/(log|status))?")
LISTS = {"pods": ("PodList", "v1"), "jobs": ("JobList", "batch/v1"), "events": ("EventList", "v1")}
TRUE = {"true", "True", "1"}
LOOK_SECONDS = 0.2
WATCH_SECONDS = 30.0


class Api(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster
    token: str

    def handle(self) -> None:
        """Serve a client until it goes away, in the midst of an answer or not."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def answer(self) -> None:
        """Find out what is asked for, and answer."""
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        found = PATH.fullmatch(address.path)
        try:
            if not hmac.compare_digest(self.headers.get("Authorization") or "", f"Bearer {self.token}"):
                raise Refusal(401, "Unauthorized", "Unauthorized")
            if not found:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")
            self.route(*found.groups(), query, body)
        except Refusal as refusal:
            told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": str(refusal), "reason": refusal.reason}
            self.send(told | {"code": refusal.code}, refusal.code)

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def route(self, space: str, kind: str, name: str | None, part: str | None, query: dict[str, str], body: dict[str, Any]) -> None:
        """Answer one verb on one kind of object."""
        cluster = self.cluster
        grace = query.get("gracePeriodSeconds", body.get("gracePeriodSeconds"))
        match self.command, kind, name, part:
            case "POST", "pods", None, None:
                self.send(cluster.make_pod(space, body), 201)
            case "POST", "jobs", None, None:
                self.send(cluster.make_job(space, body), 201)
            case "GET", "events", None, None:
                self.list_events(space, query)
            case "GET", _, None, None:
                self.list(kind, [one for one in self.all(space, kind) if labelled(one, query.get("labelSelector", ""))])
            case "GET", "pods", str(), "log":
                self.log_of(space, name, query)
            case "GET", "pods", str(), _:
                self.send(cluster.pod(space, name).told())
            case "GET", "jobs", str(), _:
                self.send(cluster.job(space, name))
            case "PATCH", "pods", str(), None:
                merge(cluster.pod(space, name).manifest["metadata"], body.get("metadata") or {})
                self.send(cluster.pod(space, name).told())
            case "DELETE", "pods", str(), None:
                self.send(cluster.delete_pod(space, name, None if grace is None else int(grace)))
            case "DELETE", "jobs", str(), None:
                self.send(cluster.delete_job(space, name))
            case _:
                raise Refusal(405, "MethodNotAllowed", f"the double does not know {self.command} of {kind}")

    def all(self, space: str, kind: str) -> list[dict[str, Any]]:
        """Every object of a kind in a namespace."""
        if kind == "jobs":
            return [self.cluster.job(*key) for key in list(self.cluster.jobs) if key[0] == space]
        return [pod.told() for key, pod in list(self.cluster.pods.items()) if key[0] == space]

    def list(self, kind: str, items: list[dict[str, Any]]) -> None:
        """Answer with a list."""
        name, version = LISTS[kind]
        self.send({"kind": name, "apiVersion": version, "metadata": {"resourceVersion": str(len(self.cluster.events))}, "items": items})

    def list_events(self, space: str, query: dict[str, str]) -> None:
        """Events of a pod: those so far, or as they come until the time is up."""
        wanted = query.get("fieldSelector", "").removeprefix("involvedObject.name=")
        known = int(query.get("resourceVersion") or 0)
        watched = query.get("watch") in TRUE
        until = time.monotonic() + min(float(query.get("timeoutSeconds") or WATCH_SECONDS), WATCH_SECONDS)
        if watched:
            self.begin("application/json")
        while True:
            fresh, known = self.cluster.events[known:], len(self.cluster.events)
            ours = [one for one in fresh if one["metadata"]["namespace"] == space and wanted in {"", one["involvedObject"]["name"]}]
            if not watched:
                return self.list("events", ours)
            for one in ours:
                self.write(json.dumps({"type": "ADDED", "object": one}).encode() + b"\n")
            if time.monotonic() > until:
                return self.write(b"")
            time.sleep(LOOK_SECONDS)

    def log_of(self, space: str, name: str, query: dict[str, str]) -> None:
        """A container's output, and what it goes on to say where that is asked for."""
        pod = self.cluster.pod(space, name)
        if pod.phase == "Pending":
            raise Refusal(400, "BadRequest", f'container in pod "{name}" is waiting to start')
        asked: dict[str, Any] = {name: query.get(name) in TRUE for name in ("timestamps", "follow")} | {"stream": True}
        if "sinceSeconds" in query:
            asked["since"] = time.time() - int(query["sinceSeconds"])
        if "tailLines" in query:
            asked["tail"] = int(query["tailLines"])
        self.begin("text/plain")
        for said in filter(None, docker.from_env().containers.get(pod.container.id).logs(**asked)):
            self.write(said)
        self.write(b"")

    def begin(self, kind: str) -> None:
        """The headers of an answer in chunks."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def write(self, chunk: bytes) -> None:
        """One chunk at once; the empty one is the last."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.wfile.flush()

    def send(self, answer: dict[str, Any], code: int = 200) -> None:
        """Answer with an object."""
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Requests are not told of."""


def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Put a patch's values into an object, level by level; null takes a value out."""
    for name, value in new.items():
        if value is None:
            old.pop(name, None)
        elif isinstance(value, dict) and isinstance(old.get(name), dict):
            merge(old[name], value)
        else:
            old[name] = value


def kubeconfig(address: str, token: str) -> dict[str, Any]:
    """How clients reach the server, as JSON, which is YAML."""
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "double",
        "clusters": [{"name": "double", "cluster": {"server": address}}],
        "users": [{"name": "double", "user": {"token": token}}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double", "namespace": "default"}}],
    }  # fmt: skip


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--secrets", type=Path)
    parser.add_argument("--network", default="bridge")
    parser.add_argument("--record", type=Path)
    told = parser.parse_args()
    known = json.loads(told.secrets.read_text()) if told.secrets else {}
    Api.cluster, Api.token = Cluster(docker.from_env(), known, told.network, told.record), secrets.token_hex(16)
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        content = json.dumps(kubeconfig(f"http://127.0.0.1:{server.server_port}", Api.token))
        with open(os.open(told.kubeconfig.with_suffix(".new"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as stream:
            stream.write(content)
        told.kubeconfig.with_suffix(".new").rename(told.kubeconfig)
        server.serve_forever()
    Api.cluster.clear()


if __name__ == "__main__":
    main()
