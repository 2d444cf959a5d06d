"""The documents as a site, and the pages that are made from the code."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run([*command, "--config-file", "docs/site/mkdocs.yml"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("index", "tutorial", "reference/commands", "decisions/0001-flat-spec"):
        assert "<h1" in (tmp_path / f"{name}.html").read_text()
    assert not (tmp_path / "site").exists()


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs/site/reference"), "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    commands = (ROOT / "docs/reference/commands.md").read_text()
    assert "## `effir run`" in commands and "[default: demo]" in commands
    assert "| `keep_ratio` | `0.7` | number, > 0, ≤ 1 |" in (ROOT / "docs/reference/spec.md").read_text()
