"""Raw Omniglot files for the tests: the real archives where they are at hand, else a made tree with the same counts."""

import io
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msmeta.data import ClassImages, load, prepare
from msmeta.data.omniglot import CHARACTERS, DRAWINGS, RAW_SIDE

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers beside the tests

REAL = Path(os.environ.get("MSMETA_OMNIGLOT_RAW", Path(__file__).parents[3] / "shared/data/raw/omniglot"))


@pytest.fixture(scope="session")
def made_zips(tmp_path_factory) -> Path:
    """A folder with two archives of random dots, in Omniglot's layout and with its counts."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    drawings = []
    for _ in range(50):
        file = io.BytesIO()
        Image.fromarray(random.random((RAW_SIDE, RAW_SIDE)) < 0.9).save(file, "PNG")
        drawings.append(file.getvalue())
    for part, count in CHARACTERS.items():
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for character in range(count):
                alphabet = f"{part[7:]}_{character // 20:02d}_(made)"
                for drawing in range(DRAWINGS):
                    name = f"{part}/{alphabet}/character{character % 20 + 1:02d}/{character:04d}_{drawing + 1:02d}.png"
                    archive.writestr(name, drawings[(character + drawing) % len(drawings)])
    return folder


@pytest.fixture(scope="session")
def raw(request) -> Path:
    """The folder with the archives to prepare from."""
    return REAL if REAL.is_dir() else request.getfixturevalue("made_zips")


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> Path:
    """A data root with Omniglot prepared in it, not to be changed."""
    root = tmp_path_factory.mktemp("prepared")
    prepare("omniglot", raw, root)
    return root


@pytest.fixture(scope="session")
def omniglot(prepared) -> ClassImages:
    return load("omniglot", prepared)


@pytest.fixture(scope="session")
def glyphs() -> ClassImages:
    return load("glyphs")
