"""What is freed stays with the process, up to a limit."""

import resource
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import resource, sys
    import numpy as np
    from pipeline.memory import keep_memory
    if sys.argv[1] == "kept" and not keep_memory():
        sys.exit("not glibc")
    for _ in range(3):
        [np.ones(1 << 20) for _ in range(4)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [np.ones(1 << 20) for _ in range(4)]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    line = [sys.executable, "-c", textwrap.dedent(SCRIPT), how]
    return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_arrays_are_used_again_without_page_faults():
    pages = 20 * 4 * (8 << 20) // resource.getpagesize()
    assert faults("kept") < pages / 50 < faults("plain")
