"""A fake: a few paths of the Kubernetes API on loopback, whose pods run nothing and end as a test says.

It stands for a cluster, which no machine here can run. What it cannot show is whether a cluster accepts the pods: the schemas do that.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATH = re.compile(r"/(?:api|apis/batch)/v1/namespaces/[^/]+/(pods|jobs|events)(?:/([^/]+))?(/log)?")
RUNNING_READS = 2


@dataclass
class End:
    """How a pod ends.

    code, reason, log: of its container        seconds: when, after the start of the hour
    evicted:           why, where it was       gone:    it vanishes
    waiting:           why it never starts     refused: why it is never made
    """

    code: int = 0
    log: str = ""
    reason: str = ""
    seconds: int = 0
    evicted: str = ""
    gone: bool = False
    waiting: str = ""
    refused: str = ""


@dataclass
class Cluster:
    """What was asked of the fake.

    ends: for each pod in the order of their making; the rest ends well
    well: what a pod that ends well has done, given its arguments
    """

    url: str = ""
    ends: list[End] = field(default_factory=list)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    well: Callable[[list[str]], None] = lambda arguments: None
    _ends: dict[str, End] = field(default_factory=dict)
    _reads: dict[str, int] = field(default_factory=dict)

    def make(self, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A pod, or a Job with its pods."""
        name = asked["metadata"]["name"]
        self.made.append(asked)
        if kind == "jobs":
            self.jobs[name] = asked | {"status": {}}
            for index in range(asked["spec"]["completions"]):
                about = asked["spec"]["template"]["metadata"]
                known = {
                    "labels": about["labels"] | {"job-name": name},
                    "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
                }
                self._start(f"{name}-{index}-x", {"metadata": known, "spec": asked["spec"]["template"]["spec"]})
            return self.jobs[name]
        return self._start(name, asked)

    def _start(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        about = asked["metadata"] | {"name": name, "namespace": "effir", "creationTimestamp": _now()}
        self.pods[name] = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": asked["spec"], "status": {"phase": "Pending"}}
        self._ends[name] = self.ends.pop(0) if self.ends else End()
        return self.pods[name]

    def pod(self, name: str) -> dict[str, Any] | None:
        """A pod as it stands: it runs for a few reads, then it ends."""
        found = self.pods.get(name)
        if found is None:
            return None
        end, reads = self._ends[name], self._reads.get(name, 0)
        self._reads[name] = reads + 1
        if end.waiting:
            found["status"] = _status("Pending", {"waiting": {"reason": "InvalidImageName", "message": end.waiting}})
        elif reads < RUNNING_READS:
            found["status"] = _status("Running", {"running": {"startedAt": _now()}})
        elif reads == RUNNING_READS:
            if end.gone:
                del self.pods[name]
                return None
            if end.code == 0:
                self.well(found["spec"]["containers"][0]["args"])
            over = {
                "exitCode": end.code,
                "reason": end.reason or ("Error" if end.code else "Completed"),
                "finishedAt": f"2026-10-01T00:00:{end.seconds:02}Z",
            }
            found["status"] = _status("Failed" if end.code else "Succeeded", {"terminated": over})
            if end.evicted:
                found["status"] |= {"reason": "Evicted", "message": end.evicted}
        return found

    def delete(self, kind: str, name: str) -> None:
        """A pod, or a Job with its pods."""
        self.deleted.append(name)
        if kind == "jobs":
            self.jobs.pop(name, None)
            for one in [one for one, pod in self.pods.items() if pod["metadata"]["labels"].get("job-name") == name]:
                del self.pods[one]
        else:
            self.pods.pop(name, None)

    def log(self, name: str) -> str:
        """What a pod printed."""
        return self._ends[name].log


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The fake, as long as it is needed."""
    found = Cluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def answer(self, value: Any, code: int = 200, kind: str = "application/json") -> None:
            body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            parts = urlsplit(self.path)
            match = PATH.fullmatch(parts.path)
            if match is None:
                return self.answer({"kind": "Status", "message": f"the fake knows no {self.path}"}, 404)
            kind, name, log = match.groups()
            if kind == "events":
                return self.answer({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": []})
            if self.command == "POST" and found.ends and found.ends[0].refused:
                return self.answer({"kind": "Status", "message": found.ends.pop(0).refused, "code": 403}, 403)
            if self.command == "POST":
                return self.answer(found.make(kind, body), 201)
            if name is None:
                wanted = dict(
                    one.split("=") for one in parse_qs(parts.query)["labelSelector"][0].split(",") if "=" in one and "!" not in one
                )
                pods = [found.pod(one) for one in list(found.pods)]
                items = [pod for pod in pods if pod and wanted.items() <= pod["metadata"]["labels"].items()]
                return self.answer({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
            one = found.jobs.get(name) if kind == "jobs" else found.pods.get(name) if log else found.pod(name)
            if one is None:
                return self.answer({"kind": "Status", "message": f"{kind} {name} not found", "code": 404}, 404)
            if log:
                return self.answer(found.log(name), kind="text/plain")
            if self.command == "DELETE":
                found.delete(kind, name)
            if self.command == "PATCH":
                one["metadata"]["labels"] |= body["metadata"]["labels"]
            return self.answer(one)

        do_GET = do_POST = do_PATCH = do_DELETE = serve

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig(url: str) -> str:
    """A kubeconfig that names the fake."""
    return json.dumps(
        {
            "apiVersion": "v1", "kind": "Config", "current-context": "fake", "users": [{"name": "fake", "user": {}}],
            "clusters": [{"name": "fake", "cluster": {"server": url}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
    )  # fmt: skip


def _status(phase: str, state: dict[str, Any]) -> dict[str, Any]:
    container = {"name": "base", "state": state, "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
    return {"phase": phase, "conditions": [{"type": "PodScheduled", "status": "True"}], "containerStatuses": [container]}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
