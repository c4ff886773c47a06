import functools
import platform
import subprocess
import sys

import pytest

# Pages that the system had to map for ten passes of a network with feature maps of 13 MB.
PROGRAM = """
import resource, sys, torch
from lib.modeling import freed_memory

if sys.argv[1] == "reuse":
    freed_memory.reuse()
layers = [torch.nn.Conv2d(16, 16, 3, padding=1, groups=16) for _ in range(4)]
network, pictures = torch.nn.Sequential(*layers), torch.zeros(16, 16, 112, 112)
with torch.inference_mode():
    for passed in range(13):
        if passed == 3:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network(pictures)
        if sys.argv[2] == "give back":
            freed_memory.give_back()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@functools.cache
def mapped(*how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@glibc
def test_memory_of_freed_tensors_is_mapped_once():
    assert mapped("reuse", "") < mapped("leave", "") / 2


@glibc
def test_what_is_given_back_is_mapped_again():
    assert mapped("reuse", "give back") > 2 * mapped("reuse", "")
