"""Makes the helpers beside the tests importable, whatever folder pytest starts from; and a store of made results."""

import sys
from pathlib import Path

import pytest

from msmeta import runs

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Puts made results where the report finds them."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))

    def put(*results):
        for entry in results:
            config = entry["config"]
            place = runs.Run(entry.get("kind", "few-shot"), "r", config["preset"], config, tmp_path)
            place.save_result({k: v for k, v in entry.items() if k not in ("kind", "config")})

    return put
