"""Every code block of docs/pytorch.md runs, in order, in one namespace."""

import re
import warnings
from pathlib import Path

import pytest

from checks import slow_dense_torch

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("llvmlite", reason="without kernels nothing is routed")
PAGE = Path(__file__).parent.parent / "docs" / "pytorch.md"


def test_the_page_on_pytorch_runs_top_to_bottom(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 4
    namespace = {}
    with (
        slow_dense_torch(),
        warnings.catch_warnings(action="ignore"),
    ):
        # the warnings are those of PyTorch, when it loads its vmap rules
        for number, block in enumerate(blocks):
            exec(compile(block, f"block {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert re.search(r"0 +8x64x56x56 +64x64x3x3 +einstride +winograd: predicted", printed)
    assert "algorithm" in printed


def test_the_first_block_has_ten_lines():
    first = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len([line for line in first[1].splitlines() if line]) <= 10
