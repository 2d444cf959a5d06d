"""The champion, followed: a new one is fetched, checked and loaded beside the old one, which answers until then, and on if it is broken."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from effir.errors import EffirError, OutOfReach
from effir.serve import model
from effir.serve.metrics import Metrics
from effir.serve.model import Version

AGAIN_SECONDS = 600
"""A version that was refused is tried again after this long: what went wrong may have been mended."""


class Watcher:
    """`served` is the version that answers. say: where a person is told."""

    def __init__(self, source: str, device: str, metrics: Metrics, say: Callable[[str], None]) -> None:
        self.source, self.device, self.metrics, self.say = source, device, metrics, say
        self.served = model.load(source, model.find(source), device)
        self.refused: dict[str, str] | None = None
        self.problem: str | None = None
        self._tried: tuple[Version, float] | None = None
        metrics.serving(self.served.version)

    async def run(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled; a model that can be no other is not looked for."""
        while model.follows(self.source):
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Ask the registry once, and change to its champion if that is another and sound."""
        try:
            found = model.find(self.source)
            self._unreachable(None)
            if found == self.served.version:
                self._refuse(None, "")
            elif not self._tried or self._tried[0] != found or time.monotonic() - self._tried[1] > AGAIN_SECONDS:
                self._tried = (found, time.monotonic())
                self._change(found)
        except OutOfReach as error:
            self._tried = None
            self._unreachable(str(error))
        except Exception as error:
            self._unreachable(f"{type(error).__name__}: {error}")

    def _change(self, found: Version) -> None:
        self.say(f"{found} is named by {self.source} now: it is fetched and checked, and {self.served.version} answers meanwhile")
        try:
            new = model.load(self.source, found, self.device)
        except OutOfReach:
            raise
        except Exception as error:
            why = str(error) if isinstance(error, EffirError) else f"{type(error).__name__}: {error}"
            self._refuse(found, why)
            return
        self.served = new
        self._refuse(None, "")
        self.metrics.serving(found)
        self.metrics.swaps.inc()
        self.say(f"{found} answers from now on")

    def _refuse(self, found: Version | None, why: str) -> None:
        self.refused = {"version": found.version, "why": why} if found else None
        self.metrics.refused.set(found is not None)
        if found:
            self.say(f"warning: {found} is refused, and {self.served.version} goes on answering: {why}")
        else:
            self._tried = None

    def _unreachable(self, why: str | None) -> None:
        if why and why != self.problem:
            self.say(f"warning: {self.source} cannot be looked up, and {self.served.version} goes on answering: {why}")
        self.problem = why
        self.metrics.unreachable.set(why is not None)

    def state(self) -> dict[str, Any]:
        """What /health tells."""
        version = self.served.version
        about = {"model": version.name, "version": version.version, "digest": version.digest, "source": self.source}
        return about | {"refused": self.refused, "problem": self.problem}
