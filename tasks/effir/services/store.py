"""Artifacts in S3: content-addressed folders whose manifest is written last and conditionally."""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from effir import strictjson
from effir.errors import BadInput, EffirError
from effir.manifest import MANIFEST, File, Manifest, describe, parse
from effir.names import below
from effir.services.s3 import ATTEMPTS, Absent, Taken, persist, plain_errors, split

BLOCK = 1 << 22
WORKERS = 4


class Store:
    """An S3 bucket, addressed by `s3://bucket/key` URIs.

    Endpoint and credentials come from boto3's usual environment variables (AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, …).
    Every method raises BadInput for wrong credentials or a bucket that does not exist, and EffirError when S3 is out of reach.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = (root or os.environ.get("EFFIR_STORE", "s3://effir")).rstrip("/")
        config = Config(retries={"max_attempts": 5, "mode": "standard"}, connect_timeout=5, read_timeout=120)
        self.client: Any = boto3.Session().client("s3", config=config)

    def artifact(self, phase: str, digest: str) -> str:
        """URI of an artifact's folder."""
        return f"{self.root}/artifacts/{phase}/{digest}"

    # Single objects

    def get_bytes(self, uri: str) -> bytes:
        """An object's bytes. Raises BadInput if there is none."""
        found = io.BytesIO()
        with plain_errors(uri):
            self._fetch(uri, found)
        return found.getvalue()

    def get_json(self, uri: str) -> Any:
        """An object read as JSON. Raises BadInput if there is none or it is not JSON."""
        return strictjson.loads(self.get_bytes(uri), uri)

    def manifest(self, uri: str) -> Manifest:
        """The manifest at a URI. Raises BadInput if there is none or it is not sound."""
        return parse(self.get_json(uri), uri)

    def get_json_or_none(self, uri: str) -> Any:
        """An object read as JSON, or None if there is none."""
        try:
            return self.get_json(uri)
        except Absent:
            return None

    def put_json(self, uri: str, value: Any, *, only_if_absent: bool = False) -> bool:
        """Write JSON; with `only_if_absent` say whether this call was the one that wrote it."""
        bucket, key = split(uri)
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        body = json.dumps(value, indent=1, sort_keys=True).encode()
        try:
            with plain_errors(uri):
                persist(lambda: self.client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json", **condition))
        except Taken:
            return False
        return True

    def exists(self, uri: str) -> bool:
        """Whether an object is there."""
        bucket, key = split(uri)
        try:
            with plain_errors(uri):
                self.client.head_object(Bucket=bucket, Key=key)
        except Absent:
            return False
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(URI, size in bytes) of every object below a prefix."""
        for uri, entry in self._below(prefix):
            yield uri, entry["Size"]

    def dated(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """(URI, size in bytes, seconds since 1970 when it was written) of every object below a prefix."""
        for uri, entry in self._below(prefix):
            yield uri, entry["Size"], entry["LastModified"].timestamp()

    def etags(self, prefix: str) -> dict[str, str]:
        """URI → ETag of every object below a prefix, or of the object there: changes whenever the bytes do, and nothing is downloaded."""
        found = self._settled(prefix)
        if found or not self.exists(prefix):
            return found
        bucket, key = split(prefix)
        with plain_errors(prefix):
            return {prefix: self.client.head_object(Bucket=bucket, Key=key)["ETag"]}

    def _settled(self, prefix: str) -> dict[str, str]:
        """URI → ETag, once two listings in a row agree: one that lags behind must not make a source look smaller than it is."""
        found: dict[str, str] | None = None
        for _ in range(2 * ATTEMPTS):
            before, found = found, {uri: entry["ETag"] for uri, entry in self._below(prefix)}
            if found == before:
                return found
        raise EffirError(f"what is stored below {prefix} changes all the time: run again once it is at rest")

    def _below(self, prefix: str) -> Iterator[tuple[str, Any]]:
        bucket, key = split(prefix)
        with plain_errors(prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key.rstrip("/") + "/"):
                for entry in page.get("Contents", []):
                    yield f"s3://{bucket}/{entry['Key']}", entry

    def delete(self, uris: Iterable[str]) -> None:
        """Remove objects; absent ones are no error."""
        for uri in uris:
            bucket, key = split(uri)
            with plain_errors(uri):
                self.client.delete_object(Bucket=bucket, Key=key)

    # Folders

    def upload(self, folder: Path, prefix: str) -> dict[str, File]:
        """Copy a local folder below a prefix; returns what was copied."""
        files = describe(folder)
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda name: self._put_file(folder / name, f"{prefix}/{name}"), files))
        return files

    def download(self, prefix: str, files: dict[str, File], folder: Path) -> Path:
        """Copy files of an artifact into a local folder, checking every digest.

        Raises EffirError naming a file that is missing or damaged; nothing is left behind under its name then. Raises BadInput
        before anything is written for a name that leads out of the folder.
        """
        targets = {name: below(folder, name, f"the manifest below {prefix}") for name in files}
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda item: self._get_file(f"{prefix}/{item[0]}", item[1], targets[item[0]]), files.items()))
        return folder

    def download_prefix(self, prefix: str, folder: Path) -> Path:
        """Copy everything below a prefix into a local folder, or a single object to that path.

        Raises BadInput if nothing is there, or, before anything is written, for a key that leads out of the folder; EffirError if
        something else is there afterwards than before.
        """
        before = self.etags(prefix)
        inside = prefix.rstrip("/") + "/"
        targets = {
            uri: folder if uri == prefix else below(folder, uri.removeprefix(inside), prefix) for uri in before if not uri.endswith("/")
        }
        if not targets:
            raise BadInput(f"nothing is stored below {prefix}")
        for uri, target in targets.items():
            self._get_file(uri, None, target)
        if self.etags(prefix) != before:
            raise EffirError(f"what is stored below {prefix} changed while it was read: run again once it is at rest")
        return folder

    # Artifacts

    def find(self, phase: str, digest: str) -> Manifest | None:
        """A finished artifact whose every byte is in place, or None. Damage is a miss: its manifest is removed."""
        prefix = self.artifact(phase, digest)
        try:
            manifest = self._manifest(prefix, digest)
        except Absent:
            return None
        if manifest and self.intact(prefix, manifest.files) and self._parts_intact(manifest):
            return manifest
        self.delete([f"{prefix}/{MANIFEST}"])
        return None

    def _manifest(self, prefix: str, digest: str) -> Manifest | None:
        """The manifest there, or None if it is none of this digest however often it is read."""
        uri = f"{prefix}/{MANIFEST}"
        for _ in range(ATTEMPTS):
            body = self.get_bytes(uri)
            with suppress(BadInput):
                manifest = parse(strictjson.loads(body, uri), uri)
                if manifest.digest == digest:
                    return manifest
        return None

    def intact(self, prefix: str, files: dict[str, File]) -> bool:
        """Whether every file is there with the right bytes (all of them are read)."""
        return not self.damaged(prefix, files)

    def damaged(self, prefix: str, files: dict[str, File]) -> tuple[str, ...]:
        """The files that are missing or hold other bytes (all of them are read)."""

        def good(item: tuple[str, File]) -> bool:
            try:
                return self._arrives(f"{prefix}/{item[0]}", item[1], None)
            except Absent:
                return False

        with ThreadPoolExecutor(WORKERS) as pool:
            return tuple(name for name, sound in zip(files, pool.map(good, files.items()), strict=True) if not sound)

    def _parts_intact(self, manifest: Manifest) -> bool:
        return all(self.find(*uri.rsplit("/", 3)[1:3]) for uri in manifest.parts.values())

    def publish(self, manifest: Manifest, folder: Path) -> Manifest:
        """Store a folder as an artifact. If another worker finished the same one first, theirs counts.

        Two that upload at once mix their files where these differ (a measured speed always does), so theirs is read before it is
        believed, and made anew if it is damaged. Raises EffirError if that never ends well.
        """
        prefix = self.artifact(manifest.phase, manifest.digest)
        for _ in range(ATTEMPTS):
            if theirs := self.find(manifest.phase, manifest.digest):
                return theirs
            manifest = manifest.model_copy(update={"files": self.upload(folder, prefix)})
            if self.put_json(f"{prefix}/{MANIFEST}", manifest.model_dump(), only_if_absent=True):
                return manifest
        raise EffirError(f"{prefix} is written by other workers at the same time, whose files differ: run again once they are done")

    def _put_file(self, path: Path, uri: str) -> None:
        bucket, key = split(uri)
        settings = TransferConfig(max_concurrency=WORKERS)
        with plain_errors(uri):
            persist(lambda: self.client.upload_file(str(path), bucket, key, Config=settings))

    def _get_file(self, uri: str, expected: File | None, path: Path) -> None:
        """expected: None where nobody knows what to expect."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with plain_errors(uri), tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
            try:
                if not self._arrives(uri, expected, part):
                    raise EffirError(f"{uri} is damaged: its sha256 is not the one in the manifest; run again to make it anew")
                os.replace(part.name, path)
            except Absent:
                raise EffirError(f"{uri} is missing although its manifest names it; run again to make it anew") from None
            finally:
                Path(part.name).unlink(missing_ok=True)

    def _arrives(self, uri: str, expected: File | None, target: Any) -> bool:
        """Whether an object's bytes are as expected; read again before that is denied, since the way here may garble them too."""
        with plain_errors(uri):
            return any(self._fetch(uri, target) == expected.sha256 for _ in range(ATTEMPTS)) if expected else bool(self._fetch(uri, target))

    def _fetch(self, uri: str, target: Any) -> str:
        """Copy an object into an open binary file (None: nowhere), from the start again where it breaks off; returns its sha256."""
        bucket, key = split(uri)

        def copy() -> str:
            found = hashlib.sha256()
            if target:
                target.seek(0)
                target.truncate()
            for block in self.client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(BLOCK):
                found.update(block)
                if target:
                    target.write(block)
            if target:
                target.flush()
            return found.hexdigest()

        return persist(copy)
