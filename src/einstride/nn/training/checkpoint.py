"""Save arrays atomically to an npz file (without pickle) or a safetensors file, and load them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from einstride.geometry import keywords as parse
from einstride.nn.arrays import HostArray
from einstride.support.errors import bad_type, bad_value

METADATA = "__einstride__"
"""Name of the entry that holds the metadata as JSON text."""
FORMAT = "einstride.nn 1"
"""Format version, stored with the metadata; a file with another one is refused."""


def write(
    path: str | os.PathLike[str], arrays: dict[str, HostArray], metadata: dict[str, Any]
) -> None:
    """Write arrays and JSON metadata to a new file, which then atomically replaces an old one."""
    destination = Path(parse.path("save", "path", path))
    safetensors_format = _is_safetensors(destination, "save")
    text = json.dumps(metadata | {"format": FORMAT, "dtypes": {k: a.dtype.name for k, a in
                                                           arrays.items()}})  # fmt: skip
    if not destination.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "save: the folder must exist; make it first", str(destination.parent)
        )
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if safetensors_format:
                from safetensors.numpy import save

                file.write(save({k: _storable(a) for k, a in arrays.items()}, {METADATA: text}))
            else:
                storable: dict[str, Any] = {k: _storable(a) for k, a in arrays.items()}
                np.savez(file, allow_pickle=False, **{METADATA: np.array(text)}, **storable)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, destination)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """Read arrays and metadata from a file of `write`; raise ValueError if it is no such file."""
    source = Path(parse.path("load", "path", path))
    safetensors_format = _is_safetensors(source, "load")
    try:
        arrays, text = _read_safetensors(source) if safetensors_format else _read_npz(source)
        metadata = json.loads(text)
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise ValueError(f"its metadata is not of format {FORMAT}")
        return {k: _restore(a, metadata["dtypes"][k]) for k, a in arrays.items()}, metadata
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error,
            RuntimeError, MemoryError) as error:  # fmt: skip
        raise bad_value(
            "load", "the file must be a whole checkpoint of einstride.nn",
            f"{source.name}: {type(error).__name__}: {error}", "save it again",
        ) from error  # fmt: skip


def _read_npz(source: Path) -> tuple[dict[str, HostArray], str]:
    with open(source, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of arrays")
        arrays = {k: file[k] for k in file.files}
    return arrays, str(arrays.pop(METADATA))


def _read_safetensors(source: Path) -> tuple[dict[str, HostArray], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, framework="numpy") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()[METADATA]  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _is_safetensors(path: Path, where: str) -> bool:
    if path.suffix not in (".npz", ".safetensors"):
        raise bad_value(
            where, "the file's name must end in .npz or .safetensors", path.name, "rename it"
        )
    if path.suffix == ".npz":
        return False
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError as error:
        raise bad_type(
            where, "a .safetensors file needs the library safetensors", "it is not installed",
            "pip install 'einstride[nn]', or use a name that ends in .npz",
        ) from error  # fmt: skip
    return True


def _storable(a: HostArray) -> HostArray:
    """View bfloat16, which files do not support, as uint16; return other arrays unchanged."""
    a = np.ascontiguousarray(a).reshape(a.shape)
    return a.view(np.uint16) if a.dtype.name == "bfloat16" else a


def _restore(a: HostArray, name: str) -> HostArray:
    if name == "bfloat16" and a.dtype == np.uint16:
        import ml_dtypes

        return a.view(ml_dtypes.bfloat16)
    if a.dtype.name != name:
        raise ValueError(f"an array of {a.dtype.name} where the metadata says {name}")
    return a
