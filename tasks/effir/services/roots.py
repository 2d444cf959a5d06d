"""What must stay in the store, and everything that this was made from.

Roots are the artifacts of every registered model version, what chose its cut, its card, the promotion log, what that log names, and what
the pointers to indexes name.
From a manifest one comes to its parts (addresses) and its inputs (digests).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from effir.manifest import MANIFEST
from effir.services import indexes, registry
from effir.services.store import Store

ADDRESS = re.compile(r"s3://[^\s\"]+/artifacts/[a-z_]+/[0-9a-f]{64}")


def needed(store: Store, folders: Mapping[str, Any]) -> set[str]:
    """Addresses of artifact folders that must stay.

    folders: every artifact folder there is, by its address. Raises EffirError where the registry or the store cannot be read:
    what is not known to be free is not free.
    """
    by_digest: dict[str, list[str]] = {}
    for folder in folders:
        by_digest.setdefault(folder.rsplit("/", 1)[1], []).append(folder)
    versions = registry.every_version()
    entries = list(log(store, set(versions)))
    registered = [version for found in versions.values() for version in found]
    waiting = addresses([[version["source"], version["manifest"], version["made"]] for version in registered])
    waiting += [folder for entry in entries for folder in addresses([entry.get("to"), entry.get("from")])]
    found: set[str] = set()
    while waiting:
        folder = waiting.pop()
        if folder not in found:
            found.add(folder)
            waiting += _named_by(store, folder, by_digest)
    return found | set(addresses([*(version["card"] for version in registered), *entries, *indexes.pointers(store)]))


def log(store: Store, models: set[str]) -> Iterator[dict[str, Any]]:
    """Every entry of the promotion log: promotions/MODEL/1.json, 2.json, … without gaps."""
    prefix = f"{store.root}/promotions/"
    listed = {uri.removeprefix(prefix).rpartition("/")[0] for uri, _ in store.list(prefix)}
    for model in sorted(models | listed):
        number = 1
        while (entry := store.get_json_or_none(f"{prefix}{model}/{number}.json")) is not None:
            yield entry
            number += 1


def addresses(value: Any) -> list[str]:
    """Every artifact folder that is named somewhere within a JSON value."""
    if isinstance(value, str):
        return ADDRESS.findall(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [folder for one in inner for folder in addresses(one)]


def _named_by(store: Store, folder: str, by_digest: Mapping[str, list[str]]) -> list[str]:
    """Artifacts that a manifest names: its parts, and its inputs. None where there is no manifest: the folder itself stays all the same."""
    manifest = store.get_json_or_none(f"{folder}/{MANIFEST}") or {}
    digests: list[str] = []
    for value in manifest.get("key", {}).get("inputs", {}).values():
        digests += value if isinstance(value, list) else [value]
    return addresses(manifest.get("parts", {})) + [one for digest in digests for one in by_digest.get(digest, [])]
