"""What the security tests share: a tiny model, and a trap, which is a pickle that leaves a trace when it is unpickled."""

import importlib.util
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TINY = Path(__file__).parents[1] / "e2e" / "tiny.py"


class Sprung:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return open, (str(self.trace), "w")


@dataclass
class Trap:
    """trace: the file that unpickling makes; object: what to pickle; bytes: its pickle."""

    trace: Path
    object: Sprung
    bytes: bytes


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """A trap that is known to work, and that nothing has sprung when the test is over."""
    one = Sprung(tmp_path / "sprung")
    made = Trap(one.trace, one, pickle.dumps(one))
    pickle.loads(made.bytes).close()
    assert made.trace.exists()
    made.trace.unlink()
    yield made
    assert not made.trace.exists(), "a pickle was run"


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The module that makes the tiny model and its data."""
    given = importlib.util.spec_from_file_location("tiny", TINY)
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model_once(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("tiny") / "model", layers=1, width=16)


@pytest.fixture
def model(model_once: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder."""
    import shutil

    return shutil.copytree(model_once, tmp_path / "model")


@pytest.fixture(scope="session")
def exported_once(model_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from effir.compress.cut import Cut
    from effir.export import writer
    from effir.export.loading import load_backbone, load_tokenizer
    from effir.retrieve.settings import Settings

    folder = tmp_path_factory.mktemp("exported") / "made"
    settings = Settings(pooling="mean", append_eos=False, query_template="{text}", document_template="{text}")
    writer.write(load_backbone(model_once), load_tokenizer(model_once), Cut(1), settings, folder, ("old river",))
    return folder


@pytest.fixture
def exported(exported_once: Path, tmp_path: Path) -> Path:
    """A copy of a folder that effir exported."""
    import shutil

    return shutil.copytree(exported_once, tmp_path / "exported")


@pytest.fixture
def one_sentence() -> Callable[[BaseException], None]:
    """Checks that an error is one for people."""

    def check(error: BaseException) -> None:
        said = str(error)
        assert 20 < len(said) < 400, said
        assert "\n" not in said
        assert "Traceback" not in said

    return check
