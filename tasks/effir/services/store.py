"""Artifacts in S3: content-addressed folders whose manifest is written last and conditionally."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from effir import strictjson
from effir.errors import BadInput, EffirError, OutOfReach
from effir.manifest import MANIFEST, File, Manifest, describe, inside, manifest_of

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
        bucket, key = split(uri)
        with plain_errors(uri):
            return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def get_json(self, uri: str) -> Any:
        """An object read as JSON. Raises BadInput if there is none or it is not JSON."""
        return strictjson.loads(self.get_bytes(uri), uri)

    def manifest(self, uri: str) -> Manifest:
        """The manifest at a URI. Raises BadInput if there is none or it is not sound."""
        return manifest_of(self.get_json(uri), uri)

    def put_json(self, uri: str, value: Any, *, only_if_absent: bool = False) -> bool:
        """Write JSON; with `only_if_absent` say whether this call was the one that wrote it."""
        bucket, key = split(uri)
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        body = json.dumps(value, indent=1, sort_keys=True).encode()
        try:
            with plain_errors(uri):
                self.client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json", **condition)
        except _Taken:
            return False
        return True

    def exists(self, uri: str) -> bool:
        """Whether an object is there."""
        bucket, key = split(uri)
        try:
            with plain_errors(uri):
                self.client.head_object(Bucket=bucket, Key=key)
        except _Absent:
            return False
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(URI, size in bytes) of every object below a prefix."""
        for uri, entry in self._below(prefix):
            yield uri, entry["Size"]

    def etags(self, prefix: str) -> dict[str, str]:
        """URI → ETag of every object below a prefix, or of the object there: changes whenever the bytes do, and nothing is downloaded."""
        found = {uri: entry["ETag"] for uri, entry in self._below(prefix)}
        if found or not self.exists(prefix):
            return found
        bucket, key = split(prefix)
        with plain_errors(prefix):
            return {prefix: self.client.head_object(Bucket=bucket, Key=key)["ETag"]}

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

        Raises EffirError naming a file that is missing or damaged; nothing is left behind under its name then.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda item: self._get_file(f"{prefix}/{item[0]}", item[1], folder / item[0]), files.items()))
        return folder

    def download_prefix(self, prefix: str, folder: Path) -> Path:
        """Copy everything below a prefix into a local folder, or a single object to that path. Raises BadInput if nothing is there."""
        targets = {uri: self.inside(folder, uri.removeprefix(prefix.rstrip("/") + "/")) for uri, _ in self.list(prefix)}
        if not targets and self.exists(prefix):
            targets = {prefix: folder}
        if not targets:
            raise BadInput(f"nothing is stored below {prefix}")
        for uri, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            bucket, key = split(uri)
            with plain_errors(uri):
                self.client.download_file(bucket, key, str(target))
        return folder

    @staticmethod
    def inside(folder: Path, name: str) -> Path:
        """Where a file of this name lies in a folder. Raises BadInput for a name that leads out of it."""
        try:
            return folder / inside(name)
        except ValueError as error:
            raise BadInput(f"{error}, and is not downloaded") from None

    # Artifacts

    def find(self, phase: str, digest: str) -> Manifest | None:
        """A finished artifact whose every byte is in place, or None. Damage is a miss: its manifest is removed."""
        prefix = self.artifact(phase, digest)
        try:
            manifest = self.manifest(f"{prefix}/{MANIFEST}")
        except _Absent:
            return None
        except ValueError:
            manifest = None
        if manifest and manifest.digest == digest and self.intact(prefix, manifest.files) and self._parts_intact(manifest):
            return manifest
        self.delete([f"{prefix}/{MANIFEST}"])
        return None

    def intact(self, prefix: str, files: dict[str, File]) -> bool:
        """Whether every file is there with the right bytes (all of them are read)."""

        def good(item: tuple[str, File]) -> bool:
            try:
                return self._hash(f"{prefix}/{item[0]}") == item[1].sha256
            except _Absent:
                return False

        with ThreadPoolExecutor(WORKERS) as pool:
            return all(pool.map(good, files.items()))

    def _parts_intact(self, manifest: Manifest) -> bool:
        return all(self.find(*uri.rsplit("/", 3)[1:3]) for uri in manifest.parts.values())

    def publish(self, manifest: Manifest, folder: Path) -> Manifest:
        """Store a folder as an artifact. If another worker finished the same one first, theirs counts."""
        prefix = self.artifact(manifest.phase, manifest.digest)
        manifest = manifest.model_copy(update={"files": self.upload(folder, prefix)})
        if self.put_json(f"{prefix}/{MANIFEST}", manifest.model_dump(), only_if_absent=True):
            return manifest
        return self.manifest(f"{prefix}/{MANIFEST}")

    def _put_file(self, path: Path, uri: str) -> None:
        bucket, key = split(uri)
        with plain_errors(uri):
            self.client.upload_file(str(path), bucket, key, Config=TransferConfig(max_concurrency=WORKERS))

    def _get_file(self, uri: str, expected: File, path: Path) -> None:
        bucket, key = split(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        try:
            with plain_errors(uri), tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
                for block in self.client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(BLOCK):
                    found.update(block)
                    part.write(block)
            if found.hexdigest() != expected.sha256:
                raise EffirError(f"{uri} is damaged: its sha256 is not the one in the manifest; run again to make it anew")
            os.replace(part.name, path)
        except _Absent:
            raise EffirError(f"{uri} is missing although its manifest names it; run again to make it anew") from None
        finally:
            Path(part.name).unlink(missing_ok=True)

    def _hash(self, uri: str) -> str:
        bucket, key = split(uri)
        found = hashlib.sha256()
        with plain_errors(uri):
            for block in self.client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(BLOCK):
                found.update(block)
        return found.hexdigest()


class _Absent(BadInput):
    """No such object."""


class _Taken(EffirError):
    """A conditional write came second."""


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// URI.

    >>> split("s3://effir/artifacts/depth/1f/manifest.json")
    ('effir', 'artifacts/depth/1f/manifest.json')
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise BadInput(f"{uri!r} is not an s3://bucket/key address")
    return bucket, key


@contextmanager
def plain_errors(uri: str) -> Iterator[None]:
    """Turn boto3's errors into one sentence each."""
    try:
        yield
    except ClientError as error:
        raise _plain(uri, error) from None
    except S3UploadFailedError as error:
        if not isinstance(error.__context__, ClientError):
            raise EffirError(f"S3 failed on {uri}: {error}") from None
        raise _plain(uri, error.__context__) from None
    except NoCredentialsError:
        raise BadInput(
            "no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`effir env` prints the embedded stack's)"
        ) from None
    except EndpointConnectionError:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        raise OutOfReach(f"S3 at {endpoint} is not reachable: is it running? (`effir up` starts the embedded one)") from None
    except BotoCoreError as error:
        raise EffirError(f"S3 failed on {uri}: {error}") from None
    except OSError as error:
        if error.errno == 28:
            raise OutOfReach(f"the disk is full while copying {uri}: free some space and run again") from None
        raise


def _plain(uri: str, error: ClientError) -> EffirError:
    code = str(error.response["Error"].get("Code", ""))
    if code in {"404", "NoSuchKey", "NotFound"}:
        return _Absent(f"{uri} does not exist")
    if code in {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}:
        return _Taken(f"{uri} exists already")
    if code in {"403", "401", "AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "Forbidden"}:
        return BadInput(f"S3 refused {uri} with {code}: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if code == "NoSuchBucket":
        return BadInput(f"the bucket of {uri} does not exist: create it or set EFFIR_STORE")
    return EffirError(f"S3 failed on {uri}: {code}")
