"""`make audit`: pip-audit's own reports, made against a small stand-in for OSV's server on loopback, and how they are judged."""

import datetime
import http.server
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

ROOT = Path(__file__).parents[1]
FIXED = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}]
TODAY = datetime.date(2026, 11, 21)


def script(name: str) -> Any:
    """A script of requirements/ as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "requirements" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    loader.exec_module(module)
    return module


audit = script("audit")


class FakeOsv(http.server.BaseHTTPRequestHandler):
    """Stands in for OSV's server, which no test may depend on: answers as it does, from a table (name, version) → ids."""

    known: ClassVar[dict[tuple[str, str], list[str]]] = {}

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        told = [
            {
                "id": one, "aliases": [f"CVE-{one}"], "summary": "Something\nbad.",
                "affected": [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": FIXED}],
            }
            for one in self.known.get((name, asked["version"]), [])
        ]  # fmt: skip
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"vulns": told} if told else {}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    """The address of the fake."""
    FakeOsv.known = {("jinja2", "2.4.1"): ["GHSA-control"]}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeOsv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.fixture
def run(tmp_path: Path, osv: str) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Audit two pins with this allow-list, as `make audit` does."""

    def call(allowed: str = "", *options: str, url: str = osv) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "pins.txt").write_text("one==1.0\ntwo==2.0\n")
        (tmp_path / "audit.toml").write_text(allowed)
        env = os.environ | {"EFFIR_OSV_URL": url, "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, str(ROOT / "requirements" / "audit"), "--allowed", str(tmp_path / "audit.toml"), *options]
        return subprocess.run([*command, str(tmp_path / "pins.txt")], env=env, capture_output=True, text=True, timeout=120)

    return call


def entry(name: str, until: datetime.date | None = None) -> str:
    day = until or datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=30)
    return f'[[allow]]\nid = "{name}"\npackage = "two"\nreason = "nobody calls it"\nuntil = {day}\n'


def test_a_finding_fails_until_an_entry_lets_it_pass(run: Callable[..., Any]) -> None:
    FakeOsv.known[("two", "2.0")] = ["GHSA-real"]
    found = run()
    assert found.returncode == 1, found.stderr
    assert "two 2.0: CVE-GHSA-real (GHSA-real), fixed in 99: Something bad." in found.stdout
    passed = run(entry("GHSA-real"))
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "2 packages audited, 1 findings let pass, 0 problems" in passed.stdout


def test_where_nobody_can_be_asked_that_is_said_loudly_and_only_ci_goes_on(run: Callable[..., Any]) -> None:
    FakeOsv.known.clear()
    refused, past = run(), run(entry("GHSA-old", datetime.date(2026, 1, 1)), "--may-skip")
    assert (refused.returncode, past.returncode) == (3, 1), refused.stderr
    for one in (refused, past):
        assert "SKIPPED: THE DEPENDENCIES WERE NOT AUDITED" in one.stdout
    assert "until 2026-01-01: look at it again" in past.stdout


def test_an_unreachable_server_is_no_clean_report(run: Callable[..., Any]) -> None:
    done = run("", "--may-skip", url="http://127.0.0.1:9/")
    assert (done.returncode, "SKIPPED" in done.stdout) == (0, True)
    assert "osv could not be asked" in done.stderr


REPORT = {
    "dependencies": [
        {"name": "one", "version": "1.0", "vulns": []},
        {"name": "two", "version": "2.0", "vulns": [{"id": "GHSA-a", "aliases": ["CVE-1"], "fix_versions": [], "description": "x"}]},
        {"name": "three", "skip_reason": "not found"},
    ]
}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], ["two 2.0: GHSA-a (CVE-1), fixed in no release: x"]),
        ([("GHSA-a", 10)], []),
        ([("CVE-1", 10)], []),
        ([("GHSA-a", -1)], ["look at it again"]),
        ([("GHSA-a", 181)], ["give at most 180 days"]),
        ([("GHSA-a", 10), ("GHSA-b", 10)], ["lets GHSA-b of two pass, which nobody finds any more"]),
    ],
)
def test_how_findings_are_judged(entries: list[tuple[str, int]], says: list[str]) -> None:
    allowed = [{"id": name, "package": "two", "reason": "r", "until": TODAY + datetime.timedelta(days=days)} for name, days in entries]
    problems = audit.judge(audit.findings_of(REPORT), allowed, TODAY)
    assert len(problems) == len(says)
    for problem, part in zip(problems, says, strict=True):
        assert part in problem
    assert audit.unknown_of(REPORT) == ["three"]


@pytest.mark.parametrize("wrong", ['[[allow]]\nid = "x"\n', entry("x").replace("nobody calls it", ""), entry("x") + "more = 1\n"])
def test_an_entry_without_a_reason_or_a_day_is_refused(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(wrong)
    with pytest.raises(ValueError, match="entry 1 must have id, package, reason and until"):
        audit.read_allowed(tmp_path / "audit.toml")


def test_our_own_allow_list_can_be_read() -> None:
    audit.read_allowed(ROOT / "requirements" / "audit.toml")


licences = script("licences")
RULES = {"allowed": ["MIT", "Apache-2.0"], "spellings": {"mit license": "MIT", "bsd license": "BSD-3-Clause"}, "packages": {}}


@pytest.mark.parametrize(
    ("told", "licence", "right"),
    [
        ({"License-Expression": ["MIT OR GPL-3.0-only"]}, "MIT OR GPL-3.0-only", True),
        ({"License-Expression": ["MIT AND GPL-3.0-only"]}, "MIT AND GPL-3.0-only", False),
        ({"License-Expression": ["Apache-2.0 WITH LLVM-exception"]}, "Apache-2.0 WITH LLVM-exception", True),
        ({"License": ["MIT License"], "Classifier": ["License :: OSI Approved :: BSD License"]}, "MIT", True),
        ({"License": ["see LICENSE"], "Classifier": ["License :: OSI Approved :: MIT License"]}, "MIT", True),
        ({"Classifier": [f"License :: OSI Approved :: {one} License" for one in ("MIT", "BSD")]}, "BSD-3-Clause AND MIT", False),
        ({"License": ["All rights reserved.\nEver."]}, "All rights reserved.", False),
        ({}, "nothing", False),
    ],
)
def test_what_metadata_say_of_a_licence(told: dict[str, list[str]], licence: str, right: bool) -> None:
    import email.message

    metadata = email.message.Message()
    for key, values in told.items():
        for value in values:
            metadata[key] = value
    assert licences.licence_of(metadata, RULES["spellings"]) == licence
    assert (licences.problem_of(licence, "x", RULES) == "") == right


def test_every_licence_here_is_allowed() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "requirements" / "licences")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "torch 2" in done.stdout
    assert len(done.stdout.splitlines()) > 250
