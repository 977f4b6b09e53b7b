"""Is cuDNN's frontend here, and new enough? Found by looking; imported only if it is there."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from einstride.support.caches import cached

INSTALL = "pip install 'einstride[cudnn]'"
LEAST_FRONTEND = (1, 24)
LEAST_CUDNN = 90000


@cached(1, "process")
def missing() -> str | None:
    """None, or what stands in the way and how it is put right."""
    if find_spec("cudnn") is None:
        return f"nvidia-cudnn-frontend is not installed: {INSTALL}"
    try:
        cudnn = import_module("cudnn")
        version = str(cudnn.__version__)
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < LEAST_FRONTEND:
            wanted = ".".join(map(str, LEAST_FRONTEND))
            return f"nvidia-cudnn-frontend {version} is older than {wanted}: {INSTALL}"
        found = cudnn.backend_version()
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"nvidia-cudnn-frontend does not work here ({line(error)}): {INSTALL}"
    if found < LEAST_CUDNN:
        return f"cuDNN {found} is older than {LEAST_CUDNN}: {INSTALL}"
    return None


def library() -> Any:
    """The frontend's module; ask `missing` before."""
    return import_module("cudnn")


def line(error: BaseException) -> str:
    """The beginning of an error's text, in one line."""
    text = " ".join(str(error).replace(";", ",").split())
    return text if len(text) < 160 else f"{text[:157]}..."
