"""Interactive parts of the book: ES modules with a `render({model, el})` each, as anywidget has them.

The same module serves pages and notebooks. It is written into the page: a browser loads no module from a file on disk.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_MODEL = """
class Model {
  constructor(state) { this.state = state; this.heard = {}; }
  get(name) { return this.state[name]; }
  set(name, value) { this.state[name] = value; (this.heard[`change:${name}`] ?? []).forEach((call) => call()); }
  on(event, call) { (this.heard[event] ??= []).push(call); }
  save_changes() {}
}
"""
_NOSCRIPT = "<noscript>This part of the page needs JavaScript. It loads nothing from elsewhere.</noscript>"


class Interactive:
    """A module of this package, to be shown: `explore`, the landscapes, or `turn`, the measured data.

    place: `id` of its element, else its name. state: values for its model.
    """

    def __init__(self, name: str, place: str | None = None, **state: Any) -> None:
        self.name, self.place, self.state = name, place or name, state

    def _repr_html_(self) -> str:
        module, style = source(self.name), files("msmeta.report").joinpath(f"{self.name}.css").read_text()
        state = json.dumps(self.state, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
        start = f'render({{model: new Model({state}), el: document.getElementById("{self.place}")}});'
        script = f'<script type="module">\n{module}{_MODEL}{start}\n</script>'
        return f'<style>{style}</style><div id="{self.place}" class="{self.name}">{_NOSCRIPT}</div>{script}'


def source(name: str) -> str:
    """The text of a module."""
    return files("msmeta.report").joinpath(f"{name}.js").read_text()
