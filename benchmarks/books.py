"""Time and disk of a whole book of a preset.

    python benchmarks/books.py [--preset quick]

It is built by book/build.py in a copy of the checkout, with the committed results and without those of earlier
live runs, which it would take instead of training; prepared data are found where they are. Counted are the seconds of
the build and of each page's cells, and the bytes of the pages and of the live runs' results. Writes
results/benchmarks/book-quick.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from msmeta import data, machine, runs
from msmeta.errors import UserError, script
from msmeta.experiments.config import PRESETS

MINUTES = 10
BUILT = shutil.ignore_patterns("_build", "_run", "live", "checkpoints", "__pycache__")


def measure(checkout: Path, preset: str) -> dict[str, Any]:
    """Builds a book; seconds and bytes. Raises UserError with the build's own line where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("book", "notebooks", "results"):
            shutil.copytree(checkout / name, Path(folder, name), ignore=BUILT)
        for name in ("CITATION.cff", "pyproject.toml"):  # from which the book describes itself
            shutil.copy(checkout / name, folder)
        results = Path(folder, "results")
        places = {"MSMETA_RESULTS": str(results), "MSMETA_DATA": str(data.data_root())}
        start = time.monotonic()
        command = [sys.executable, str(Path(folder, "book", "build.py")), "--preset", preset]
        done = subprocess.run(command, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip())
        seconds = time.monotonic() - start
        pages = Path(folder, "book", "_build", "html")
        sizes = {"page_bytes": size(pages), "result_bytes": size(results / "live")}
        return {"seconds": seconds, **sizes, "pages": json.loads((pages / "seconds.json").read_text())}


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    measurement = runs.Measurement.begin(parser)
    preset = measurement.options.preset
    found = measure(machine.repository(), preset)
    print(f"{preset}: {found['seconds'] / 60:.1f} min, {found['page_bytes'] / 1e6:.1f} MB of pages")
    measurement.save(f"benchmarks/book-{preset}.json", vars(measurement.options), found, torch.device("cpu"))


if __name__ == "__main__":
    script(main)
