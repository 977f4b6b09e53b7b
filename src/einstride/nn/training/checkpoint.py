"""Arrays in a file: npz (NumPy's, never pickled) or safetensors. Written whole or not at all."""

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
from einstride.nn.arrays import Host
from einstride.support.errors import bad_type, bad_value

NOTE = "__einstride__"
FORMAT = "einstride.nn 1"


def write(path: str | os.PathLike[str], arrays: dict[str, Host], note: dict[str, Any]) -> None:
    """Arrays and a note (anything JSON holds) in a new file, which replaces an old one at once."""
    target = Path(parse.path("save", "path", path))
    safe = _is_safe(target, "save")
    text = json.dumps(note | {"format": FORMAT, "dtypes": {k: a.dtype.name for k, a in
                                                           arrays.items()}})  # fmt: skip
    if not target.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "save: the folder must exist; make it first", str(target.parent)
        )
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if safe:
                from safetensors.numpy import save

                file.write(save({k: _plain(a) for k, a in arrays.items()}, {NOTE: text}))
            else:
                plain: dict[str, Any] = {k: _plain(a) for k, a in arrays.items()}
                np.savez(file, allow_pickle=False, **{NOTE: np.array(text)}, **plain)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Host], dict[str, Any]]:
    """What `write` wrote; a ValueError for a file that is damaged or something else."""
    source = Path(parse.path("load", "path", path))
    safe = _is_safe(source, "load")
    try:
        arrays, text = _read_safe(source) if safe else _read_npz(source)
        note = json.loads(text)
        if not isinstance(note, dict) or note.get("format") != FORMAT:
            raise ValueError("its note is not ours")
        return {k: _restored(a, note["dtypes"][k]) for k, a in arrays.items()}, note
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error,
            RuntimeError, MemoryError) as error:  # fmt: skip
        raise bad_value(
            "load", "the file must be a whole checkpoint of einstride.nn",
            f"{source.name}: {type(error).__name__}: {error}", "save it again",
        ) from error  # fmt: skip


def _read_npz(source: Path) -> tuple[dict[str, Host], str]:
    with open(source, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of arrays")
        arrays = {k: file[k] for k in file.files}
    return arrays, str(arrays.pop(NOTE))


def _read_safe(source: Path) -> tuple[dict[str, Host], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, framework="numpy") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()[NOTE]  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _is_safe(path: Path, where: str) -> bool:
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


def _plain(a: Host) -> Host:
    """bfloat16, which files do not know, as its bits."""
    a = np.ascontiguousarray(a).reshape(a.shape)
    return a.view(np.uint16) if a.dtype.name == "bfloat16" else a


def _restored(a: Host, name: str) -> Host:
    if name == "bfloat16" and a.dtype == np.uint16:
        import ml_dtypes

        return a.view(ml_dtypes.bfloat16)
    if a.dtype.name != name:
        raise ValueError(f"an array of {a.dtype.name} where the note says {name}")
    return a
