"""Looks for secrets in everything that a stack leaves behind, in whatever spelling they may stand there."""

import base64
import gzip
import io
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

Place = tuple[str, bytes]


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, reversed, in hexadecimal, in an address, and within base64 wherever it begins."""
    plain = secret.encode()
    found = {plain, plain[::-1], plain.hex().encode(), quote(secret, safe="").encode()}
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + plain)[(shift * 8 + 5) // 6 : (shift + len(plain)) * 8 // 6]
        found |= {coded, coded.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def scan(places: Iterable[Place], secrets: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of a secret → where it stands; absent for one that stands nowhere."""
    spelt = {name: spellings(secret) for name, secret in secrets.items()}
    found: dict[str, list[str]] = {}
    for where, content in places:
        for name, ways in spelt.items():
            if any(way in content for way in ways):
                found.setdefault(name, []).append(where)
    return found


def files(folder: Path, but: set[Path]) -> Iterator[Place]:
    """Every file below a folder, databases row by row as well; `but`: files and folders that are the secrets' own place."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not but & {path, *path.parents}:
            content = path.read_bytes()
            yield str(path), content
            if content.startswith(b"SQLite format 3"):
                yield from rows(path)


def rows(path: Path) -> Iterator[Place]:
    """Every table of a database; in the file itself a long value may be torn in two."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            values = (value for row in database.execute(f'select * from "{table}"') for value in row if isinstance(value, str | bytes))
            yield f"{path}, table {table}", b"\n".join(one.encode() if isinstance(one, str) else one for one in values)


def objects(store: Any, buckets: Iterable[str]) -> Iterator[Place]:
    """Every object of these buckets."""
    for bucket in buckets:
        for page in store.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", []):
                body = store.client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                yield f"s3://{bucket}/{entry['Key']}", body + opened(body)


def opened(body: bytes) -> bytes:
    """What a compressed file holds; nothing for others."""
    if body.startswith(b"\x1f\x8b"):
        return gzip.decompress(body)
    if body.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return b"\n".join(archive.read(name) for name in archive.namelist())
    if body.startswith(b"PAR1"):
        from pyarrow import parquet

        return str(parquet.read_table(io.BytesIO(body)).to_pylist()).encode()
    return b""
