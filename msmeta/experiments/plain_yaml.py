"""YAML that a user wrote: sweep files and values of parameters, which may be anybody's."""

from __future__ import annotations

from typing import Any

import yaml


class _Plain(yaml.SafeLoader):
    """Without keys that merge others, by which a line or two ask for any amount of memory."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("<< has no meaning here: write its keys out")


def parse(text: str) -> Any:
    """Plain values. Raises ValueError in one line for a text that is none, whatever the reader would raise."""
    try:
        return yaml.load(text, _Plain)  # noqa: S506
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except Exception as error:  # of values whose tag is of another kind, any
        raise ValueError(f"a value is not of the kind that its tag says ({type(error).__name__})") from error
