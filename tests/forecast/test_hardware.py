from pathlib import Path

import pytest

from effir.errors import BadInput
from effir.forecast import hardware


def test_named_machines() -> None:
    assert hardware.find("h100x8").devices == 8 * hardware.find("h100x1").devices == 8
    assert hardware.find("cpu2").shared
    assert not hardware.find("h100x1").shared


def test_a_file_describes_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "a100x4.toml"
    path.write_text('like = "h100x8"\ndevices = 4\nencode = 140e12\nprice = 0\nmemory = 40_000_000_000\n')
    found = hardware.find(str(path))
    assert (found.name, found.devices, found.encode, found.price, found.memory) == ("a100x4", 4, 140e12, 0, 40e9)
    assert found.bandwidth == hardware.H100X8.bandwidth


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices = 4", "`like` names the machine that this one resembles, one of: h100x8, "),
        ('like = "h200"', "`like` names"),
        ('like = "cpu2"\nflops = 1.0', "has flops, which no machine has; known are: name, devices, "),
        ('like = "cpu2"\ndevices = 1.5', "devices is 1.5, but must be a whole number above 0"),
        ('like = "cpu2"\ncores = true', "cores is True, but must be a whole number above 0"),
        ('like = "cpu2"\nencode = -1.0', "encode is -1.0, but must be a number above 0"),
        ('like = "cpu2"\nshared = 1', "shared is 1, but must be true or false"),
        ("like = cpu2", "is no TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=".*" + said.replace("`", ".").replace("(", r"\(")):
        hardware.find(str(path))


def test_what_is_no_machine_is_refused() -> None:
    with pytest.raises(BadInput, match=r"there is no hardware 'h200x9'; choose one of: h100x8, h100x1, cpu2, here, or give a \.toml file"):
        hardware.find("h200x9")
    with pytest.raises(BadInput, match=r"the hardware file /absent\.toml does not exist"):
        hardware.find("/absent.toml")
