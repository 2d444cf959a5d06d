"""A phase call, read: what is asked, which digest names its result, and whether that was made before.

The call is JSON: {"run": {"id", "mlflow_run_id", …}, "inputs": {name: manifest URI or a list of them}, "arguments": {…},
"caption": {what people tell it apart by}, "halvings": how often memory ran out before (default 0), and either "spec": {RunSpec} or
"profile": NAME with "overrides": {field: value}}.
The result is JSON: {"phase", "arguments", "caption", "manifest", "digest", "cached", "seconds", "forward_passes", "numbers",
"parts", "output", "mlflow_run_id": the run that recorded the work, or null}. Both files are small; artifacts never pass through the
orchestrator.
"""

import importlib
import time
from dataclasses import dataclass, field
from typing import Any

from effir.errors import BadInput, shown
from effir.manifest import MANIFEST, Manifest, code_version, digest_of, library_versions, machine
from effir.names import check_name, check_run_id
from effir.services.store import Store
from effir.spec import RunSpec, parse, resolve

PHASES = (
    "begin", "arms", "prepare", "teacher", "importance", "depth", "slim", "narrow", "finetune",
    "encode", "evaluate", "speed", "verify", "gate", "promote", "report", "assess", "frontier", "rollback", "audit", "corpora", "reindex",
)  # fmt: skip

NAMES = {"model", "collection"}
MOST_HALVINGS = 64


@dataclass
class Request:
    """One call of a phase. `key` is everything that decides the result's bytes, `digest` its name."""

    name: str
    module: Any
    call: dict[str, Any]
    spec: RunSpec
    key: dict[str, Any]
    store: Store
    result_uri: str
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.digest = digest_of(self.key)
        self.fresh: bool = getattr(self.module, "FRESH", False)
        self.shares: bool = getattr(self.module, "SHARES", False)

    def found(self) -> Manifest | None:
        """The artifact, where it was finished before and every byte is in place."""
        return None if self.fresh else self.store.find(self.name, self.digest)

    def answer(self, manifest: Manifest, cached: bool) -> dict[str, Any]:
        """Write the result and return it."""
        artifact = self.store.artifact(self.name, self.digest)
        if cached:
            print(f"{self.name}: done before, {artifact}", flush=True)
        result = {
            "phase": self.name,
            "arguments": self.call.get("arguments", {}),
            "caption": self.call.get("caption", {}),
            "manifest": f"{artifact}/{MANIFEST}",
            "digest": self.digest,
            "cached": cached,
            "seconds": round(time.monotonic() - self.began, 3),
            "forward_passes": 0 if cached else manifest.forward_passes,
            "numbers": manifest.numbers,
            "parts": manifest.parts,
            "output": manifest.output,
            "mlflow_run_id": manifest.mlflow_run_id,
        }
        self.store.put_json(self.result_uri, result)
        return result


def read(name: str, call_uri: str, result_uri: str) -> Request:
    """Read a call. Raises BadInput if there is no such phase or call, or its spec, run id or names are wrong."""
    if name not in PHASES:
        raise BadInput(f"there is no phase {shown(name)}; choose one of: {', '.join(PHASES)}")
    store = Store()
    call = _checked(store.get_json(call_uri), call_uri)
    spec = resolve(call["profile"], call.get("overrides")) if "profile" in call else parse(call["spec"])
    module = importlib.import_module(f"effir.phases.{name}")
    key = key_of(name, module, spec, call)
    if getattr(module, "FRESH", False):
        key |= {"run": call["run"], "at": time.time()}
    return Request(name, module, call, spec, key, store, result_uri)


def _checked(call: Any, uri: str) -> dict[str, Any]:
    """A call whose parts are what they must be. Raises BadInput naming the one that is not.

    Names out of a call become parts of paths, keys and filters: they may hold nothing but themselves.
    """
    if not isinstance(call, dict) or not ("profile" in call or "spec" in call):
        raise BadInput(f"{uri} is no phase call: it must be a JSON object with a spec or a profile")
    for name, kind in (("profile", str), ("spec", dict), ("overrides", dict), ("arguments", dict), ("caption", dict), ("run", dict)):
        optional = name == "overrides" and call.get(name) is None
        if name in call and not isinstance(call[name], kind) and not optional:
            raise BadInput(f"{uri}: {name} is {shown(call[name])}, but must be {'text' if kind is str else 'an object with named fields'}")
    if call.get("run", {}).get("id") is not None:
        check_run_id(call["run"]["id"])
    _check_arguments(call.get("arguments", {}), uri)
    _check_inputs(call.get("inputs", {}), uri)
    halvings = call.get("halvings") or 0
    if not isinstance(halvings, int) or not 0 <= halvings <= MOST_HALVINGS:
        raise BadInput(f"{uri}: halvings is {shown(halvings)}, but must be a whole number from 0 to {MOST_HALVINGS}")
    return call


def _check_arguments(arguments: dict[str, Any], uri: str) -> None:
    for label in NAMES & set(arguments):
        check_name(arguments[label], f"the argument {label} of {uri}")
    if not isinstance(arguments.get("shard", 0), int):
        raise BadInput(f"the argument shard of {uri} is {shown(arguments['shard'])}: it must be a whole number")


def _check_inputs(inputs: Any, uri: str) -> None:
    if not isinstance(inputs, dict):
        raise BadInput(f"{uri}: inputs is {shown(inputs)}, but must map names to manifests' addresses")
    for name, value in inputs.items():
        for one in value if isinstance(value, list) else [value] if value is not None else []:
            if not isinstance(one, str) or (one and not one.endswith(f"/{MANIFEST}")):
                raise BadInput(f"{uri}: the input {shown(name)} is {shown(one)}, which is no manifest's address")


def key_of(name: str, module: Any, spec: RunSpec, call: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides a phase's bytes.

    A module names the fields of the spec that it uses in FIELDS; its `unused(spec, arguments)` takes out fields and inputs that do not
    matter under them, and its `fingerprint(spec)` adds what lies outside spec and inputs. How many processes share the work, and how
    often memory ran out, does not matter.
    """
    values, arguments = spec.model_dump(), call.get("arguments", {})
    unused = module.unused(spec, arguments) if hasattr(module, "unused") else set()
    fingerprint = getattr(module, "fingerprint", None)
    return {
        "phase": name,
        "code": code_version(f"effir.phases.{name}"),
        "libraries": library_versions(),
        "machine": machine(spec.device, spec.threads),
        "spec": {one: values[one] for one in sorted(set(module.FIELDS) - unused)},
        "inputs": {one: _digests(value) for one, value in sorted(call.get("inputs", {}).items()) if value and one not in unused},
        "arguments": arguments,
        "outside": fingerprint(spec) if fingerprint else None,
    }


def _digests(value: str | list[str]) -> str | list[str]:
    """A manifest's URI ends in its digest: artifacts/<phase>/<digest>/manifest.json."""
    return [one.rsplit("/", 2)[1] for one in value] if isinstance(value, list) else value.rsplit("/", 2)[1]
