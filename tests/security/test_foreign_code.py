"""A base model's own code: off by default; where it is on, the code that was read and no other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effir import foreign_code
from effir.bases import write_base
from effir.errors import BadInput
from effir.spec import RunSpec, parse

OWN = """
from pathlib import Path

from transformers import LlamaModel

Path({trace!r}).touch()


class OwnModel(LlamaModel):
    pass
"""
SNAPSHOT = """
import sys
from pathlib import Path
from effir.bases import write_base

folder, commit, trace, *codes = sys.argv[1:]
for code in codes:
    try:
        write_base("someone/model", Path(folder), dtype="float32", revision=commit, trust_remote_code=True, code=code)
    except ValueError as error:
        print(error)
    print(Path(trace).exists())
"""


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that running the model's code makes. What transformers keeps of such code goes with the test."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return tmp_path / "ran"


@pytest.fixture
def own(model: Path, trace: Path) -> Path:
    """A model that brings code."""
    (model / "modeling_own.py").write_text(OWN.format(trace=str(trace)))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_own.OwnModel"}}))
    return model


def write(folder: Path, **options: object) -> Path:
    target = folder.parent / "written"
    write_base(str(folder), target, dtype="float32", **options)
    return target


def test_by_default_it_is_not_run(own: Path, trace: Path) -> None:
    assert RunSpec().trust_remote_code is False
    written = write(own)
    assert not trace.exists()
    assert not foreign_code.code_files(written)


def test_code_that_nobody_read_is_named_with_its_digest_and_not_run(own: Path, trace: Path) -> None:
    with pytest.raises(BadInput, match=f"modeling_own.py.*read it, then set base_code={foreign_code.digest(own)}"):
        write(own, trust_remote_code=True)
    assert not trace.exists()


def test_code_that_was_read_is_run_and_not_handed_on(own: Path, trace: Path) -> None:
    written = write(own, trust_remote_code=True, code=foreign_code.digest(own))
    assert trace.exists()
    assert not foreign_code.code_files(written)


@pytest.mark.parametrize("change", ["modeling_own.py", "helper.py", "inner/more.py", "native.so"])
def test_code_that_changed_is_refused(change: str, own: Path, trace: Path) -> None:
    read = foreign_code.digest(own)
    (own / change).parent.mkdir(exist_ok=True)
    with (own / change).open("a") as stream:
        stream.write("\n# another line\n")
    with pytest.raises(BadInput, match=f"not the code that base_code allows.*allowed is {read}"):
        write(own, trust_remote_code=True, code=read)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_another_repository_is_refused(name: str, own: Path, trace: Path) -> None:
    for place in ("someone/else--modeling.Model", ["someone/else--tokenizing.Tokenizer", None]):
        told = json.loads((own / name).read_text()) | {"auto_map": {"AutoModel": place}}
        (own / name).write_text(json.dumps(told))
        with pytest.raises(BadInput, match="code of another repository"):
            write(own, trust_remote_code=True, code=foreign_code.digest(own))
    assert not trace.exists()


@pytest.mark.parametrize("revision", [None, "main", "v1", "abc123"])
def test_on_a_hub_a_whole_commit_is_asked_for(revision: str | None, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="base_revision must pin a whole commit"):
        write_base("someone/model", tmp_path / "x", dtype="float32", revision=revision, trust_remote_code=True, code="0" * 64)


def cached(model: Path, home: Path, commit: str) -> Path:
    """A snapshot as Hugging Face's cache holds it: links to blobs."""
    repository = home / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.copy(path, repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


def test_a_snapshot_from_a_hub_is_checked_before_it_is_run(own: Path, trace: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached(own, tmp_path / "home", commit)
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}

    command = [sys.executable, "-c", SNAPSHOT, str(tmp_path / "written"), commit, str(trace), "0" * 64, foreign_code.digest(own)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    sentence, *ran = done.stdout.splitlines()
    assert sentence.startswith("the code of someone/model is not the code that base_code allows")
    assert ran == ["False", "True"]


@pytest.mark.parametrize(
    "wrong", [{"base_code": "abc"}, {"base_code": "0" * 63 + "\n"}, {"base_revision": "../x"}, {"base_revision": "a b"}]
)
def test_the_spec_knows_what_a_pin_looks_like(wrong: dict[str, str]) -> None:
    with pytest.raises(BadInput, match=next(iter(wrong))):
        parse(wrong)
