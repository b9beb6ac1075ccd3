"""Programs that read what is not trusted, each in a process of its own, which a hostile file can end."""

import os
import subprocess
import sys
from collections.abc import Mapping

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""For the environment of such a process."""
_LIMITED = """
import resource
for name, most in {limits}.items():
    kind = getattr(resource, name)
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
"""


def run(
    program: str, limits: Mapping[str, int], *arguments: object, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a program in Python with these limits (by their names in `resource`) and this standard input, to its end."""
    limited = _LIMITED.format(limits={**limits, "RLIMIT_CORE": 0}) + program
    command = [sys.executable, "-P", "-c", limited, *map(str, arguments)]
    return subprocess.run(
        command, input=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | ONE_THREAD
    )
