"""Machines in numbers: named ones, and those that a TOML file describes."""

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from effir.errors import BadInput

HERE = "here"


@dataclass(frozen=True)
class Hardware:
    """What decides how long a phase takes.

    devices: accelerators that phases compute on; 1 where the processor itself is the device
    cores: of the processor, for what does not run on an accelerator; shared: whether the device is that processor
    encode, train: FLOP/s that one device reaches in the recipe's data type, without and with gradients
    float32: FLOP/s that one device reaches in float32, without gradients; outside: on a small model of another make (MiniLM)
    processor: FLOP/s of all cores in float32
    memory, bandwidth: bytes of one device, and bytes/s from and to it
    storage, network: bytes/s of one task from and to S3, and from a model hub or an archive
    launch: seconds until a task's process runs, and after it has ended; start: seconds of a phase that does next to nothing
    imports: seconds until torch and transformers are imported, on a core at speed 1; core: speed of one core, 1: docs/forecast.md's
    price: of one device for an hour
    """

    name: str
    devices: int
    cores: int
    shared: bool
    encode: float
    train: float
    float32: float
    outside: float
    processor: float
    memory: float
    bandwidth: float
    storage: float
    network: float
    launch: float
    start: float
    imports: float
    core: float
    price: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


H100X8 = Hardware(
    name="h100x8", devices=8, cores=96, shared=False, encode=425e12, train=350e12, float32=45e12, outside=20e12, processor=3e12,
    memory=80e9, bandwidth=3.35e12, storage=1.25e9, network=0.25e9, launch=45.0, start=0.5, imports=5.0, core=1.0, price=3.0,
)  # fmt: skip
CPU2 = Hardware(
    name="cpu2", devices=1, cores=2, shared=True, encode=240e9, train=140e9, float32=95e9, outside=150e9, processor=90e9,
    memory=24e9, bandwidth=20e9, storage=0.25e9, network=0.05e9, launch=1.5, start=0.3, imports=5.5, core=0.9, price=0.1,
)  # fmt: skip
NAMED = {
    "h100x8": H100X8,
    "h100x1": replace(H100X8, name="h100x1", devices=1, cores=12, processor=0.4e12),
    "cpu2": CPU2,
}
"""Where each figure comes from: docs/forecast.md."""


def find(name: str) -> Hardware:
    """A machine by name, or from a TOML file: `like`, the named one that it resembles, and what differs.

    Raises BadInput for a name that is not known and for a file with unknown, missing or wrong fields.
    """
    if name in NAMED:
        return NAMED[name]
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        raise BadInput(f"there is no hardware {name!r}; choose one of: {', '.join(NAMED)}, {HERE}, or give a .toml file")
    if not path.is_file():
        raise BadInput(f"the hardware file {name} does not exist")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{name} is no TOML: {error}") from None
    return _described(given, name)


def _described(given: dict[str, Any], where: str) -> Hardware:
    like = given.pop("like", None)
    if like not in NAMED:
        raise BadInput(f"{where}: `like` names the machine that this one resembles, one of: {', '.join(NAMED)}")
    kinds = {one.name: type(getattr(NAMED[like], one.name)) for one in fields(Hardware)}
    if unknown := sorted(set(given) - set(kinds)):
        raise BadInput(f"{where} has {', '.join(unknown)}, which no machine has; known are: {', '.join(kinds)}")
    for field, value in given.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = isinstance(value, kinds[field]) or (kinds[field] is float and whole)
        if not fits or (kinds[field] is int and not whole) or (kinds[field] in (int, float) and value <= 0 and field != "price"):
            raise BadInput(f"{where}: {field} is {value!r}, but must be {_WANTED[kinds[field]]}")
    return replace(NAMED[like], **{"name": Path(where).stem, **given})


_WANTED = {int: "a whole number above 0", float: "a number above 0", bool: "true or false", str: "text"}
