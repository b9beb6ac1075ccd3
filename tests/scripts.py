"""Python files of book/, which are in no package, as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

BOOK = Path(__file__).parent.parent / "book"


def load(name: str) -> ModuleType:
    """name: below book/."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, BOOK / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
