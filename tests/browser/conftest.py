"""Debian's Chromium, driven by playwright; axe beside it. Skipped, with the reason, where one of them is absent."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
PICTURES = TESTS.parent / "docs" / "pictures"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
PATIENCE = 120_000
SERIOUS = ("serious", "critical")


def load(path: str) -> Any:
    """A module of the tests."""
    given = importlib.util.spec_from_file_location(Path(path).stem, TESTS / path)
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    return module


@pytest.fixture(name="load", scope="session")
def _load() -> Callable[[str], Any]:
    return load


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup installs it")
    if not CHROMIUM:
        pytest.skip("there is no Chromium here: apt-get install chromium, or name one with CHROMIUM=/path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def timed_out() -> type[Exception]:
    """What playwright raises where something does not come."""
    from playwright.sync_api import TimeoutError

    return TimeoutError


class Window:
    """A page with what its console said wrong and what it fetched beyond itself."""

    def __init__(self, chromium: Any, **about: Any) -> None:
        self.context = chromium.new_context(**about)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.fetched: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))

    def open(self, address: str, text: str) -> None:
        """Go to a page and wait for a text on it; anew where this machine's network changed meanwhile, which breaks off what is loaded."""
        for _ in range(5):
            self.errors.clear()
            self.page.goto(address)
            try:
                self.page.get_by_text(text).first.wait_for(timeout=PATIENCE / 2)
            except timed_out():
                if not self.disturbed():
                    raise
            if not self.disturbed():
                return
            self.page.reload()

    def disturbed(self) -> bool:
        """Whether what was wrong comes of interfaces of this machine that came or went."""
        return any("ERR_NETWORK_CHANGED" in one for one in self.errors)

    def picture(self, name: str, height: int = 1000) -> None:
        """Keep the upper part of the page, as it looks, among the pictures of the documents, where BROWSER_PICTURES says so."""
        if os.environ.get("BROWSER_PICTURES"):
            size = self.page.viewport_size
            self.page.screenshot(path=str(PICTURES / name), clip={"x": 0, "y": 0, "width": size["width"], "height": height}, full_page=True)

    def findings(self) -> list[str]:
        """What axe finds serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in SERIOUS]


@pytest.fixture
def window(chromium: Any) -> Iterator[Callable[..., Window]]:
    """Opens windows, and closes them."""
    opened: list[Window] = []

    def make(width: int = 1200, scheme: str = "light", height: int = 900, **about: Any) -> Window:
        opened.append(Window(chromium, viewport={"width": width, "height": height}, color_scheme=scheme, **about))
        return opened[-1]

    yield make
    for one in opened:
        one.context.close()
