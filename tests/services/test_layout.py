import socket
import stat
from pathlib import Path

import pytest

from effir.errors import BadInput
from effir.services import layout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no stack ever ran."""
    monkeypatch.setenv("EFFIR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EFFIR_PORT_BASE", raising=False)
    return tmp_path / "home"


def test_two_stacks_have_secrets_of_their_own(tmp_path: Path) -> None:
    one, other = (layout.choose_secrets(tmp_path / name) for name in ("one.json", "other.json"))
    assert not set(one.values()) & set(other.values())
    assert layout.choose_secrets(tmp_path / "one.json") == one


def test_a_lone_busy_port_is_avoided_or_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    chosen = layout.choose_ports(home / "ports.json")
    assert layout.choose_ports(home / "ports.json") == chosen
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", chosen["filer"] + layout.TWIN_DISTANCE))
        busy.listen()
        assert not set(layout.choose_ports(home / "ports.json").values()) & set(chosen.values())
        monkeypatch.setenv("EFFIR_PORT_BASE", str(chosen["airflow"]))
        with pytest.raises(BadInput, match=f"port {chosen['filer'] + layout.TWIN_DISTANCE} is in use"):
            layout.choose_ports(home / "ports.json")


@pytest.mark.parametrize("base", ["80", "60000", "high"])
def test_a_port_base_out_of_range_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("EFFIR_PORT_BASE", base)
    with pytest.raises(BadInput, match=f"EFFIR_PORT_BASE is '{base}'"):
        layout.prepare()


def test_a_start_keeps_what_an_earlier_one_left(home: Path) -> None:
    first = layout.prepare()
    (home / "stack" / "logs" / "old.log").write_text("old")
    (home / "stack" / "s3" / "volume").write_text("data")
    assert layout.prepare() == first == layout.layout_of()
    assert (home / "stack" / "s3" / "volume").exists()
    assert not (home / "stack" / "logs" / "old.log").exists()


def test_sockets_lie_where_paths_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    monkeypatch.setenv("EFFIR_HOME", str(deep))
    place = layout.prepare()
    try:
        assert len(str(place.sockets / "supervisor.sock")) < 100
        assert stat.S_IMODE(place.sockets.stat().st_mode) == 0o700
    finally:
        place.sockets.rmdir()
