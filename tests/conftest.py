"""Makes the helpers beside the tests importable, whatever folder pytest starts from; the command line in this process;
and a store of made results."""

import os
import signal
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

# Typer asks when it is imported: continuous integration would have colours among the words that tests read.
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
os.environ.pop("FORCE_COLOR", None)

from msmeta import cli, runs, workers  # noqa: E402
from msmeta.experiments import finished, training  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
signal.signal(signal.SIGINT, signal.default_int_handler)  # some tests send it, and a shell's background jobs ignore it


def pytest_addoption(parser):
    parser.addoption("--every-trial", action="store_true", help="of tests/reliability, not a sample; keeps the counts")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Puts made results where the report finds them, whose numbers need not belong together."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    monkeypatch.setattr(finished, "disagreements", lambda found: iter(()))

    def put(*results):
        for entry in results:
            config = entry["config"]
            place = runs.Run(entry.get("kind", "few-shot"), "r", config["preset"], config, tmp_path)
            place.save_result({k: v for k, v in entry.items() if k not in ("kind", "config")})

    return put


@pytest.fixture(scope="module")
def no_worker_stays():
    """Ends the processes of a module's tests, which have no part in those of others."""
    yield
    workers.end()


@pytest.fixture
def clock(monkeypatch):
    """A second passes each time that a training looks at the time."""
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=count(1.0).__next__))


@pytest.fixture
def msmeta(tmp_path, monkeypatch, capfd):
    """Calls the command in this process; gives (status, output, errors)."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["msmeta", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    handler = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, handler)
