"""The HTTP server: OpenAI's /v1/embeddings and /v1/models, /health, /ready and /metrics (docs/consume.md)."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from effir.errors import BadInput
from effir.serve import asking, metrics
from effir.serve.asking import Asked, Problem
from effir.serve.batching import Batcher
from effir.serve.limits import Limits
from effir.serve.model import Served
from effir.serve.watching import Watcher

SCHEMA = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "model": {"type": "string"},
        "encoding_format": {"enum": list(asking.FORMATS)},
        "dimensions": {"type": "integer"},
        "user": {"type": "string"},
        "input_type": {"enum": list(asking.KINDS)},
    },
}
REQUEST = {"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}}
VERSION = "x-effir-version"


def build(watcher: Watcher, limits: Limits, poll: float) -> FastAPI:
    """The application; poll: seconds from one look at the registry to the next."""
    batcher, told = Batcher(limits, watcher.metrics), watcher.metrics
    ready = False

    @asynccontextmanager
    async def working(_: FastAPI) -> AsyncIterator[None]:
        nonlocal ready
        worker, follower = asyncio.create_task(batcher.run()), asyncio.create_task(watcher.run(poll))
        ready = True
        yield
        ready = False
        follower.cancel()
        await batcher.finish(worker)

    app = FastAPI(title="effir", lifespan=working, docs_url=None, redoc_url=None)
    app.add_exception_handler(HTTPException, _no_route)

    @app.post("/v1/embeddings", openapi_extra=REQUEST)
    async def embeddings(request: Request) -> Response:
        began, served = time.monotonic(), watcher.served
        response = await _told(lambda: _embed(request, served, batcher, limits, watcher.source), watcher.say)
        response.headers[VERSION] = served.version.version
        told.ended(response.status_code, served.version, time.monotonic() - began)
        return response

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        version = watcher.served.version
        names = (version.name, str(version))
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "effir"} for name in names]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok"} | watcher.state()

    @app.get("/ready")
    async def readiness() -> Response:
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(told.text(), media_type=metrics.FORMAT)

    return app


async def _embed(request: Request, served: Served, batcher: Batcher, limits: Limits, source: str) -> Response:
    asked = asking.read(await _body(request, limits.body_bytes), limits)
    version = served.version
    if asked.model not in (None, version.name, str(version), source):
        told = f"{asked.model!r} is not served here: ask for {version.name}, or for {version} where no other version may answer"
        raise Problem(404, told, param="model", code="model_not_found")
    if asked.dimensions not in (None, served.width):
        raise Problem(400, f"vectors of {version.name} have {served.width} dimensions and cannot have other", param="dimensions")
    vectors, tokens = await batcher.embed(served, asked.texts, asked.kind)
    batcher.metrics.answered(asked.kind, len(asked.texts), tokens)
    return Response(await asyncio.to_thread(_answer, asked, vectors, tokens, str(version)), media_type="application/json")


def _answer(asked: Asked, vectors: np.ndarray, tokens: int, model: str) -> bytes:
    rows = [base64.b64encode(row).decode() for row in vectors.astype("<f4")] if asked.base64 else vectors.tolist()
    data = [{"object": "embedding", "index": number, "embedding": row} for number, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": model, "usage": usage}).encode()


async def _body(request: Request, most: int) -> bytes:
    """A request's body. Raises Problem (413) once it is longer than `most` bytes, whatever it says of its length."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Problem(413, f"the request's body has more than {most} bytes: send fewer texts at a time")
    return bytes(body)


async def _told(act: Callable[[], Awaitable[Response]], say: Callable[[str], None]) -> Response:
    """An answer, or a problem told as OpenAI tells it."""
    try:
        return await act()
    except Problem as problem:
        return _problem(problem)
    except BadInput as error:
        return _problem(Problem(400, str(error)))
    except Exception as error:
        say(f"warning: a request failed: {type(error).__name__}: {error}")
        return _problem(Problem(500, f"the model failed on this request ({type(error).__name__}); the server's log says more"))


def _problem(problem: Problem) -> JSONResponse:
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else None
    return JSONResponse(problem.body(), problem.status, headers)


async def _no_route(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _problem(Problem(status, f"{getattr(error, 'detail', 'Not Found')}: POST /v1/embeddings, GET /v1/models"))
