"""What effir itself wrote, read back: JSON, plain .npy, safetensors and Parquet; nothing that could be unpickled."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir import strictjson
from effir.errors import BadInput

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises BadInput if it is none."""
    try:
        return strictjson.read(path)
    except BadInput as error:
        raise BadInput(f"{error}: make it anew with effir") from None


def read_arrays(path: Path) -> "dict[str, NDArray[Any]]":
    """The tensors of a safetensors file as numpy arrays, by name. Raises BadInput if it is none."""
    from safetensors.numpy import load_file

    return _read(path, load_file)


def read_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """The tensors of a safetensors file, by name. Raises BadInput if it is none."""
    from safetensors.torch import load_file

    return _read(path, load_file)


def read_array(path: Path, *, mapped: bool = False) -> "NDArray[Any]":
    """The array of a .npy file, in memory or mapped read-only. Raises BadInput if it is none, or holds Python objects."""
    import numpy as np

    try:
        if mapped:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError):
        raise BadInput(f"{path} is no plain array of numbers, and is not read: make it anew with effir") from None


def read_columns(path: Path, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """Columns of a Parquet file by name. Raises BadInput if it is none, or lacks one of them."""
    from pyarrow import ArrowException, parquet

    try:
        return parquet.ParquetFile(path).read(columns=list(columns)).select(list(columns)).to_pydict()
    except (ArrowException, ValueError, KeyError):
        raise BadInput(
            f"{path} is no Parquet file with the columns {', '.join(columns)}, and is not read: make it anew with effir"
        ) from None


def _read(path: Path, load: Any) -> Any:
    from safetensors import SafetensorError

    try:
        return load(path)
    except (SafetensorError, ValueError):
        raise BadInput(f"{path} is no safetensors file, and is not read: make it anew with effir") from None
