"""Starting the server: the model is loaded, the report's pages are written, and the address is printed."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import uvicorn

from saesteer.core.errors import SettingsError
from saesteer.report.site.folder import write_report
from saesteer.run import Run
from saesteer.serve.application import application
from saesteer.serve.guard import LOOPBACK
from saesteer.serve.model import Model
from saesteer.serve.scheduler import Scheduler


def serve(run: Run, host: str, port: int, say: Callable[[str], object]) -> None:
    """Serve until interrupted. Another host than this machine's wants a token, which is part of the address that is printed."""
    if not run.experiment.layers:
        raise SettingsError(f"{run.name} has no layers")
    page = write_report(run, run.figures / "report")
    model = Model(run, run.model(), {layer: run.sae(layer) for layer in run.layers})
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    scheduler = Scheduler(model.lm, model.saes.__getitem__)
    hosts = LOOPBACK if host in LOOPBACK else (host,)
    say(f"steering {model.name}: http://{host}:{port}/{f'?token={token}' if token else ''}#/steer (Ctrl-C ends it)")
    try:
        uvicorn.run(application(model, scheduler, page.parent, hosts, token), host=host, port=port, log_level="warning")
    finally:
        scheduler.close()
