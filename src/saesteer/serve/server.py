"""Starting the server: the model is loaded, the report's pages are written, and the address is printed."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from saesteer.core.errors import SettingsError
from saesteer.run import Run
from saesteer.serve.application import application
from saesteer.serve.guard import LOOPBACK
from saesteer.serve.model import Model
from saesteer.serve.scheduler import Scheduler
from saesteer.site.folder import write_report

SECONDS_TO_END = 3
"""How long requests may go on once the server is told to end."""
_EVERY_ADDRESS = ("", "0.0.0.0", "::")


def serve(run: Run, host: str, port: int, say: Callable[[str], object]) -> None:
    """Serve until interrupted. Another host than this machine's wants a token, which is part of the address that is printed."""
    if not run.experiment.layers:
        raise SettingsError(f"{run.name} has no layers")
    with _listening(host, port) as listener:
        page = write_report(run, run.figures / "report")
        model = Model(run, run.model(), {layer: run.sae(layer) for layer in run.layers})
        token = None if host in LOOPBACK else secrets.token_urlsafe(24)
        scheduler = Scheduler(model.lm, model.saes.__getitem__)
        address = address_of(host, listener.getsockname()[1])
        say(f"steering {model.name}: {address}{f'?token={token}' if token else ''}#/steer (Ctrl-C ends it)")
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server_of(application(model, scheduler, page.parent, token)).run(sockets=[listener])
        finally:
            scheduler.close()


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that ends soon after it is told to, whatever its clients do."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_END))


def address_of(host: str, port: int) -> str:
    """What a browser opens. A server that listens on every address is named as this machine is."""
    name = socket.gethostname() if host in _EVERY_ADDRESS else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def _listening(host: str, port: int) -> socket.socket:
    """Bound before anything is loaded."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as fault:
        raise SettingsError(f"cannot listen on {host}, port {port}: {fault.strerror}; name another with --host or --port") from fault
