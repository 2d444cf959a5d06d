"""An HTTP proxy between a client and the real S3 server that does it wrong now and then, by a seeded plan.

The Host header goes through unchanged: AWS signatures cover it. Bodies are held whole, so it is for small objects.
"""

import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KINDS = ("5xx", "throttled", "slow", "cut", "wrong checksum", "stale list")
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
OURS = {"connection", "transfer-encoding", "keep-alive", "content-length"}
HELD_SECONDS = (0.3, 1.5)
BLOCK_SECONDS = 0.02


@dataclass
class Message:
    """A request, or the answer to one (then `status` is its code)."""

    headers: list[tuple[str, str]]
    body: bytes
    status: int = 0


@dataclass
class Plan:
    """Which requests suffer a fault. kind: one of KINDS, or empty for none; rate: share of the requests that it fits."""

    kind: str = ""
    rate: float = 0.0
    chance: random.Random = field(default_factory=random.Random)
    injected: int = 0
    requests: int = 0
    listings: dict[str, bytes] = field(default_factory=dict)
    on_request: Callable[[int, bool], None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, method: str, path: str) -> tuple[int, str]:
        """The request's number, and the fault that it suffers, or nothing."""
        with self.lock:
            self.requests += 1
            number = self.requests
            hit = bool(self.kind) and self._fits(method, path) and self.chance.random() < self.rate
        self.tell(number, False)
        return number, self.kind if hit else ""

    def tell(self, number: int, answered: bool) -> None:
        """Let it be known that the server is about to be asked for the so-manieth time, or has answered."""
        if self.on_request:
            self.on_request(number, answered)

    def count(self) -> None:
        """A fault was done."""
        with self.lock:
            self.injected += 1

    def _fits(self, method: str, path: str) -> bool:
        if self.kind == "stale list":
            return method == "GET" and _listed(path) is not None
        if self.kind in ("cut", "wrong checksum"):
            return method in ("GET", "PUT") and (self.kind == "cut" or _listed(path) is None)
        return True


class Proxy(ThreadingHTTPServer):
    """Listens on loopback, on a port of the kernel's choice; what it does wrong is `plan`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.plan = Plan()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed while they talk: nothing to be said about that."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def answer(self) -> None:
        plan, asked = self.server.plan, Message(self.headers.items(), self._body())
        number, fault = plan.draw(self.command, self.path)
        if fault in ("5xx", "throttled"):
            plan.count()
            if fault == "throttled" or plan.chance.random() < 0.5:
                return self._refuse(fault)
            self._forward(asked)
            return self._refuse(fault)
        if fault == "slow":
            plan.count()
            time.sleep(plan.chance.uniform(*HELD_SECONDS))
        if fault in ("cut", "wrong checksum") and self.command == "PUT":
            if len(asked.body) < 2:
                fault = ""
            elif fault == "cut":
                plan.count()
                self.close_connection = True
                return None
            else:
                plan.count()
                asked.body = _flipped(asked.body, plan.chance)
                fault = ""
        given = self._forward(asked)
        plan.tell(number, True)
        return self._give(given, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def _forward(self, asked: Message) -> Message:
        """The real server's answer."""
        connection = http.client.HTTPConnection(self.server.target.hostname or "", self.server.target.port, timeout=120)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in asked.headers:
                if name.lower() not in OURS | {"expect"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(asked.body)))
            connection.endheaders(asked.body)
            with connection.getresponse() as answer:
                return Message(answer.getheaders(), answer.read(), answer.status)
        finally:
            connection.close()

    def _give(self, given: Message, fault: str) -> None:
        """Hand an answer on, whole or not."""
        plan, body = self.server.plan, given.body
        listed = _listed(self.path) if self.command == "GET" else None
        if listed is not None and given.status == 200:
            before = plan.listings.get(self.path)
            plan.listings.setdefault(self.path, body)
            if fault == "stale list":
                body = before if before is not None and before != body else _emptied(body)
                plan.count()
        if fault == "wrong checksum" and given.status == 200 and body:
            body = _flipped(body, plan.chance)
            plan.count()
        length = next((value for name, value in given.headers if name.lower() == "content-length"), str(len(body)))
        self.send_response(given.status)
        for name, value in given.headers:
            if name.lower() not in OURS | {"date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut" and len(body) > 1:
            plan.count()
            self.wfile.write(body[: plan.chance.randrange(len(body))])
            self.wfile.flush()
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(2)
            return
        for start in range(0, len(body), step := max(1, len(body) // 20) if fault == "slow" else max(1, len(body))):
            self.wfile.write(body[start : start + step])
            if fault == "slow":
                self.wfile.flush()
                time.sleep(BLOCK_SECONDS)

    def _refuse(self, fault: str) -> None:
        chance = self.server.plan.chance
        errors = [(503, "SlowDown"), (429, "TooManyRequestsException")]
        if fault == "5xx":
            errors = [(500, "InternalError"), (502, "BadGateway"), (503, "ServiceUnavailable"), (504, "GatewayTimeout")]
        status, code = chance.choice(errors)
        body = b"" if self.command == "HEAD" else ERROR.format(code=code).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: object) -> None:
        """Not a line a request."""


@contextmanager
def started(target: str) -> Iterator[Proxy]:
    """A proxy in front of the S3 server at this address."""
    with Proxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def _listed(path: str) -> str | None:
    """The prefix that a request lists, or None where it lists nothing."""
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    return query.get("prefix", [""])[0] if "list-type" in query else None


def _flipped(body: bytes, chance: random.Random) -> bytes:
    """The same bytes with one bit wrong."""
    place = chance.randrange(len(body))
    return body[:place] + bytes([body[place] ^ 1 << chance.randrange(8)]) + body[place + 1 :]


def _emptied(listing: bytes) -> bytes:
    """A listing without its entries."""
    start, end = listing.find(b"<Contents>"), listing.rfind(b"</Contents>")
    return listing if start < 0 else listing[:start] + listing[end + len(b"</Contents>") :]
