import platform
import subprocess
import sys

import pytest

# Pages that the system had to map for a tensor that is made and freed again and again.
PROGRAM = """
import resource, sys, torch
from lib.modeling import freed_memory
if sys.argv[1] == "reuse":
    freed_memory.reuse()
torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16_000_000)
if sys.argv[2] == "give back":
    freed_memory.give_back()
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 64_000_000 // 4096

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def mapped(*how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@glibc
def test_memory_of_freed_tensors_is_mapped_once():
    # A system with huge pages maps few either way, but never more.
    assert mapped("reuse", "") < PAGES // 4
    assert mapped("reuse", "") <= mapped("leave", "")


@glibc
def test_what_is_given_back_is_mapped_again():
    assert mapped("reuse", "give back") > mapped("reuse", "")
