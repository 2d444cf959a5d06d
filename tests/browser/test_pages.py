"""The pages that effir makes, as a person sees them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
LAYOUTS = [(1200, "light"), (1200, "dark"), (360, "light"), (360, "dark")]


@pytest.fixture(scope="session")
def pages(load: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report, a comparison and a frontier, as files."""
    from effir.judge import comparison, frontier, frontier_page, report
    from effir.spec import resolve

    frontiers, runs = load("judge/test_frontier.py"), load("judge/test_comparison.py")
    rows, pairs = (
        frontier.rows(frontiers.entries(), frontiers.LIMITS),
        frontier.contrasts(frontiers.entries(), [("8M", "8A")], frontiers.LIMITS),
    )
    texts = {
        "report": report.render(load("judge/made.py").report(load("judge/conftest.py").Case())),
        "comparison": comparison.render(comparison.compare_runs(runs.run(0.0), runs.run(0.2, steps=9), resamples=500)),
        "frontier": frontier_page.render(rows, {"8M": "8M"}, pairs, [{"arm": "15M", "seed": 3}], resolve("demo"), "2026-01-01 00:00 UTC"),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize("name", ["report", "comparison", "frontier"])
@pytest.mark.parametrize(("width", "scheme"), LAYOUTS)
def test_a_page_is_accessible_fits_and_fetches_nothing(window: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    shown = window(width, scheme)
    shown.page.goto(pages[name].as_uri())
    shown.page.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    assert shown.findings() == []
    assert shown.page.evaluate("document.documentElement.scrollWidth") == width
    assert shown.fetched == [pages[name].as_uri()] and shown.errors == []


def test_dark_is_dark(window: Any, pages: dict[str, Path]) -> None:
    tones = []
    for scheme in ("light", "dark"):
        shown = window(scheme=scheme)
        shown.page.goto(pages["report"].as_uri())
        colour = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        tones.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
    assert tones[0] > 3 * 200 and tones[1] < 3 * 60


def test_wide_tables_are_scrolled_by_the_keyboard(window: Any, pages: dict[str, Path]) -> None:
    shown = window(360)
    shown.page.goto(pages["report"].as_uri())
    box = shown.page.get_by_role("region", name="Speed of the reference and the candidate")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.focus()
    for _ in range(10):
        shown.page.keyboard.press("ArrowRight")
    shown.page.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())


def test_print_shows_what_is_folded_on_white(window: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    shown = window(794, "dark")
    shown.page.goto(pages["report"].as_uri())
    folded = shown.page.locator("details:not([open])", has_text="Versions and machine").get_by_text("2.13.0")
    assert not folded.is_visible()
    shown.page.emulate_media(media="print")
    assert folded.is_visible()
    assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 794
    shown.page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
