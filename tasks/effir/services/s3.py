"""What S3 says when something goes wrong: what is asked again, and what a person is told."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import botocore.exceptions
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from effir.errors import BadInput, EffirError, NoRoom, OutOfReach

ATTEMPTS = 6
BROKEN = (FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
"""What goes wrong in the middle of an object on its way here, when botocore's own retries are over."""
GARBLED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
"""What S3 answers where bytes did not arrive as they were sent."""
VERBS = {"PutObject": "write", "CreateMultipartUpload": "write", "UploadPart": "write", "DeleteObject": "remove", "ListObjectsV2": "list"}
FULL = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}


class Absent(BadInput):
    """No such object."""


class Taken(EffirError):
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


def persist(act: Callable[[], Any]) -> Any:
    """What `act` returns; it is done again, ATTEMPTS times at most, where bytes were lost or garbled on their way."""
    for attempt in range(1, ATTEMPTS):
        try:
            return act()
        except BROKEN:
            pass
        except (ClientError, S3UploadFailedError) as error:
            if _code(error) not in GARBLED:
                raise
        time.sleep(0.2 * 2**attempt)
    return act()


@contextmanager
def plain_errors(uri: str) -> Iterator[None]:
    """Turn boto3's errors into one sentence each."""
    try:
        yield
    except (ClientError, S3UploadFailedError) as error:
        raise _plain(uri, error) from None
    except NoCredentialsError:
        raise BadInput(
            "no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`effir env` prints the embedded stack's)"
        ) from None
    except EndpointConnectionError:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        raise OutOfReach(f"S3 at {endpoint} is not reachable: is it running? (`effir up` starts the embedded one)") from None
    except (HTTPClientError, botocore.exceptions.ConnectionError) as error:
        raise OutOfReach(f"S3 went away while at {uri}: {error}") from None
    except BotoCoreError as error:
        raise EffirError(f"S3 failed on {uri}: {error}") from None
    except OSError as error:
        if error.errno == 28:
            raise NoRoom(f"the disk is full while copying {uri}: free some space and run again") from None
        raise


def _plain(uri: str, error: Exception) -> EffirError:
    code = _code(error)
    if code in {"404", "NoSuchKey", "NotFound"}:
        return Absent(f"{uri} does not exist")
    if code in {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}:
        return Taken(f"{uri} exists already")
    if code in {"401", "SignatureDoesNotMatch", "InvalidAccessKeyId"}:
        return BadInput(f"S3 refused {uri} with {code}: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if code in {"403", "AccessDenied", "Forbidden"}:
        doing = VERBS.get(_cause(error).operation_name, "read")
        return BadInput(f"S3 refused {uri} with {code}: these credentials may not {doing} it (what each role may: docs/access.md)")
    if code in FULL:
        return NoRoom(f"S3 has no room for {uri} ({code}): free some space or raise the quota, and run again; what was finished is kept")
    if code == "NoSuchBucket":
        return BadInput(f"the bucket of {uri} does not exist: create it or set EFFIR_STORE")
    if _status(error) >= 500:
        return OutOfReach(f"S3 is out of order at {uri}: {code or error}")
    return EffirError(f"S3 failed on {uri}: {code or error}")


def _status(error: Exception) -> int:
    """What S3 answered over HTTP; 0 where it is not S3 that failed."""
    cause = _cause(error)
    return int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(cause, ClientError) else 0


def _code(error: Exception) -> str:
    """What S3 calls an error; empty where it is not S3 that failed."""
    cause = _cause(error)
    return str(cause.response["Error"].get("Code", "")) if isinstance(cause, ClientError) else ""


def _cause(error: Exception) -> Any:
    """The answer of S3 behind an error, where there is one."""
    return error if isinstance(error, ClientError) else error.__context__
