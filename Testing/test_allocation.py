"""Freed memory that the process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from MaskSAMCore.allocation import keep_freed_memory

keep_freed_memory()
sizes = [40 << 20, 3 << 20, 90 << 20]
def use():
    for size in sizes:
        torch.ones(size, dtype=torch.uint8)
for _ in range(10):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True
    )
    # By default, each of the 20 rounds faults on each of its 34,000 pages. A small object that lies
    # within a freed tensor's memory may still make the heap grow, by a tensor or two.
    assert int(done.stdout) < 20 * 34_000 / 4
