"""`effir phase NAME --spec URI --result URI`: look the result up, or compute and publish it.

The call at --spec is JSON: {"run": {"id", "mlflow_run_id", …}, "inputs": {name: manifest URI or a list of them},
"arguments": {…}, "caption": {what people tell it apart by}, and either "spec": {RunSpec} or "profile": NAME with
"overrides": {field: value}}.
The result at --result is JSON: {"phase", "arguments", "caption", "manifest", "digest", "cached", "seconds", "forward_passes",
"numbers", "parts", "output"}. Both files are small; artifacts never pass through the orchestrator.
"""

import datetime
import importlib
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from effir.errors import BadInput, Stopped
from effir.manifest import MANIFEST, Manifest, code_version, digest_of, library_versions, machine
from effir.phases.job import Job
from effir.services.store import Store
from effir.spec import RunSpec, parse, resolve

PHASES = (
    "begin", "arms", "prepare", "teacher", "importance", "depth", "slim", "narrow", "finetune",
    "encode", "evaluate", "speed", "verify", "gate", "promote", "report", "assess", "frontier",
)  # fmt: skip


def execute(name: str, call_uri: str, result_uri: str) -> dict[str, Any]:
    """Run one phase. Raises EffirError (BadInput, Stopped) with one sentence; writes nothing then."""
    if name not in PHASES:
        raise BadInput(f"there is no phase {name!r}; choose one of: {', '.join(PHASES)}")
    signal.signal(signal.SIGTERM, _stop)
    began = time.monotonic()
    store = Store()
    call = store.get_json(call_uri)
    spec = resolve(call["profile"], call.get("overrides")) if "profile" in call else parse(call["spec"])
    module = importlib.import_module(f"effir.phases.{name}")
    fresh = getattr(module, "FRESH", False)
    key = key_of(name, module, spec, call)
    if fresh:
        key |= {"run": call["run"], "at": time.time()}
    digest = digest_of(key)
    manifest = None if fresh else store.find(name, digest)
    cached = manifest is not None
    if manifest is None:
        manifest = _compute(name, module, spec, call, key, digest, store, result_uri)
    else:
        print(f"{name}: done before, {store.artifact(name, digest)}", flush=True)
    result = {
        "phase": name,
        "arguments": call.get("arguments", {}),
        "caption": call.get("caption", {}),
        "manifest": f"{store.artifact(name, digest)}/{MANIFEST}",
        "digest": digest,
        "cached": cached,
        "seconds": round(time.monotonic() - began, 3),
        "forward_passes": 0 if cached else manifest.forward_passes,
        "numbers": manifest.numbers,
        "parts": manifest.parts,
        "output": manifest.output,
    }
    store.put_json(result_uri, result)
    return result


def key_of(name: str, module: Any, spec: RunSpec, call: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides a phase's bytes.

    A module names the fields of the spec that it uses in FIELDS; its `unused(spec, arguments)` takes out fields and inputs that do not
    matter under them, and its `fingerprint(spec)` adds what lies outside spec and inputs.
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


def _compute(
    name: str, module: Any, spec: RunSpec, call: dict[str, Any], key: dict[str, Any], digest: str, store: Store, result_uri: str
) -> Manifest:
    from effir.services import registry

    began = time.monotonic()
    run = call.get("run", {})
    with (
        tempfile.TemporaryDirectory(prefix=f"effir-{name}-") as scratch,
        registry.phase_run(run, name, call.get("arguments", {}) | call.get("caption", {})) as tracker,
    ):
        job = Job(
            phase=name, digest=digest, spec=spec, inputs=call.get("inputs", {}), arguments=call.get("arguments", {}), run=run,
            store=store, out=Path(scratch) / "out", scratch=Path(scratch), tracker=tracker,
            progress_uri=result_uri.replace("/results/", "/progress/") if "/results/" in result_uri else None,
        )  # fmt: skip
        job.out.mkdir()
        numbers = module.run(job)
        for label, value in numbers.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                job.metric(label, value)
        manifest = Manifest(
            phase=name,
            digest=digest,
            key=key,
            files={},
            parts=job.parts,
            numbers=numbers,
            output=job.output,
            seconds=round(time.monotonic() - began, 3),
            forward_passes=job.forward_passes,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            mlflow_run_id=tracker.run_id if tracker else None,
        )
        manifest = store.publish(manifest, job.out)
        for act in job.afterwards:
            act()
        return manifest


def _stop(*_: Any) -> None:
    raise Stopped("stopped on request; what was checkpointed is kept, and a retry goes on from there")
