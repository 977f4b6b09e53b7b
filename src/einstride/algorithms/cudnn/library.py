"""Find out whether cuDNN's frontend is installed and new enough; import it only then."""

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
    """Return None, or why cuDNN cannot be used and what to install."""
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
    """Return the frontend's module; only valid if `missing()` is None."""
    return import_module("cudnn")


def line(error: BaseException) -> str:
    """Return the beginning of an error's text, in one line."""
    text = " ".join(str(error).replace(";", ",").split())
    return text if len(text) < 160 else f"{text[:157]}..."
