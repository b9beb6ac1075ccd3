"""Jupyter-book always loads sphinx-thebe, whose script names a remote host on every page. This book runs no code live."""


def setup(app):
    app.connect("config-inited", _disconnect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _disconnect(app, config):
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)
