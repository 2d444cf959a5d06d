import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effir import manifest
from effir.manifest import code_version, describe, digest_of, library_versions, machine, sha256_of

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_a_digest_depends_on_content_and_not_on_order(key: dict[str, object]) -> None:
    turned = dict(reversed(key.items()))
    assert digest_of(key) == digest_of(turned) == digest_of(json.loads(json.dumps(key)))
    assert digest_of(key | {"one more": 1}) != digest_of(key)


def test_a_digest_is_stable() -> None:
    assert digest_of({"b": [1, "ä"], "a": None}) == hashlib.sha256(b'{"a":null,"b":[1,"\\u00e4"]}').hexdigest()


def test_a_folder_is_described_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x.bin").write_bytes(b"x" * 70_000)
    (tmp_path / "y").write_text("")
    found = describe(tmp_path)
    assert list(found) == ["inner/x.bin", "y"]
    assert found["inner/x.bin"].sha256 == hashlib.sha256(b"x" * 70_000).hexdigest() == sha256_of(tmp_path / "inner" / "x.bin")
    assert found["inner/x.bin"].size == 70_000


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small effir of its own, in which a phase imports a library."""
    for name, text in {
        "phases/depth.py": '"""Drops."""\n\nfrom effir.compress.surgery import cut\n\n\ndef run():\n    return cut(1)\n',
        "compress/surgery.py": '"""Cuts."""\n\nimport math\n\n\ndef cut(x):\n    """Cut."""\n    return math.floor(x)  # down\n',
        "compress/other.py": "x = 1\n",
        "compress/__init__.py": "",
        "phases/__init__.py": "",
        "__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(manifest, "ROOT", tmp_path)
    code_version.cache_clear()
    yield tmp_path
    code_version.cache_clear()


def version() -> str:
    code_version.cache_clear()
    return code_version("effir.phases.depth")


def test_comments_docstrings_and_layout_change_nothing(package: Path) -> None:
    before = version()
    path = package / "compress" / "surgery.py"
    path.write_text(
        '"""Says more."""\n\nimport math\n\n\ndef cut(x):\n    """Says more."""\n    # why\n    return math.floor(\n        x\n    )\n'
    )
    (package / "compress" / "other.py").write_text("x = 2\n")
    assert version() == before


@pytest.mark.parametrize("path", ["phases/depth.py", "compress/surgery.py"])
def test_code_that_is_reached_changes_the_version(package: Path, path: str) -> None:
    before = version()
    (package / path).write_text((package / path).read_text().replace("return", "return 2 *"))
    assert version() != before


def test_a_new_import_is_followed(package: Path) -> None:
    before = version()
    path = package / "compress" / "surgery.py"
    path.write_text(path.read_text().replace("import math", "import math\nfrom effir.compress import other"))
    reached = version()
    (package / "compress" / "other.py").write_text("x = 3\n")
    assert len({before, reached, version()}) == 3


def test_where_it_is_computed_counts() -> None:
    assert machine("cpu", 0) == {"device": "cpu", "threads": os.cpu_count()}
    assert machine("cuda", 3) == {"device": "cuda", "threads": 3}
    assert machine("auto", 1)["device"] == ("cuda" if Path("/dev/nvidia0").exists() else "cpu")


def test_library_versions_are_those_installed() -> None:
    import torch
    import transformers

    found = library_versions()
    assert torch.__version__.startswith(found["torch"].partition("+")[0])
    assert found["transformers"] == transformers.__version__
