"""Every fault on the list is noticed by a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cupy_host

WANTED = os.environ.get("EINSTRIDE_MUTANTS") == "1"


@pytest.mark.skipif(not WANTED, reason="a minute or two: set EINSTRIDE_MUTANTS=1")
def test_no_fault_survives():
    reason = cupy_host.unavailable_reason()
    if reason:
        pytest.skip(reason)
    script = Path(__file__).parent / "mutants" / "run.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
