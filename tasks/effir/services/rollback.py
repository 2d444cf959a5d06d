"""Going back: a former champion takes its place again, if every one of its files is as it was registered."""

from typing import Any

from effir.errors import BadInput
from effir.manifest import MANIFEST, code_version, content_of
from effir.services import promotions, registry
from effir.services.store import Store


def rollback(store: Store, model: str, version: str | None, why: str, *, who: str, run: dict[str, Any] | None = None) -> dict[str, Any]:
    """Bring a former champion back, by default the one before the current one; returns the record.

    Raises BadInput if there is none, if `version` never was champion, or if its files are gone or damaged, and Overtaken if somebody else
    makes another version the champion meanwhile.
    """
    promotions.settle(store, model)
    now = promotions.champion(store, model)
    if now is None:
        raise BadInput(f"{model} has no champion, so there is nothing to go back from: check the name")
    target = version or promotions.previous(store, model, now["version"])
    if target is None:
        raise BadInput(f"no champion of {model} before {promotions.called(now)} is known: name a former one with --to, if there is one")
    if target == now["version"]:
        raise BadInput(f"version {target} of {model} is the champion already")
    if target not in _crowned(store, model):
        raise BadInput(f"version {target} of {model} never was its champion: only a former champion can be brought back")
    to = registry.find_model(f"models:/{model}/{target}")
    to["files"] = _files(store, model, target) or to["files"]
    sound(store, model, to)
    try:
        code = code_version("effir.services.rollback")
        record = promotions.record(store, model, "rollback", now, to, why=[why] if why else [], who=who, code=code, run=run)
    except promotions.Overtaken as overtaken:
        raise promotions.Overtaken(f"{overtaken}: nothing was changed, so look at the new one before you ask again") from None
    promotions.settle(store, model)
    return record


def sound(store: Store, model: str, version: dict[str, Any]) -> None:
    """Every file of a version is there, with the bytes that were registered. Raises BadInput naming what is not."""
    name, uri = f"version {version['version']} of {model}", version["manifest"]
    if not uri or version["source"] != uri.removesuffix(f"/{MANIFEST}"):
        raise BadInput(f"{name} has no manifest, so its files cannot be checked: effir did not register it")
    if not store.exists(uri):
        raise BadInput(f"{name} is gone: {uri} does not exist")
    try:
        manifest = store.manifest(uri)
    except BadInput:
        raise BadInput(f"{name} is damaged: {uri} is no manifest") from None
    if manifest.digest != version["digest"] or version["files"] not in (None, content_of(manifest.files)):
        raise BadInput(f"{name} is not what was registered: its manifest {uri} describes other files")
    if wrong := store.damaged(version["source"], manifest.files):
        raise BadInput(
            f"{name} is damaged: {', '.join(wrong[:3])} in {version['source']} {'is' if len(wrong) == 1 else 'are'} not as registered"
        )


def _crowned(store: Store, model: str) -> set[str]:
    """Every version that is or was champion."""
    ends = [end["version"] for record in promotions.history(store, model) for end in (record["from"], record["to"]) if end]
    before = registry.by_alias(model, "previous") if not ends else None
    return {*ends, before["version"]} if before else set(ends)


def _files(store: Store, model: str, version: str) -> str | None:
    """Digest of the files of a former champion, as it was when it was crowned."""
    return next((record["to"]["files"] for record in promotions.history(store, model) if record["to"]["version"] == version), None)
