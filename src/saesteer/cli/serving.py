"""The command that steers live."""

from typing import Annotated

import typer

from saesteer.cli.application import CONFIG, Configfile, Finished, app, run_of
from saesteer.core.errors import SaesteerError


@app.command()
def serve(
    experiment: Finished,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port.")] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen at; any but this machine's own wants the token that is printed.")] = "127.0.0.1",
    configfile: Configfile = CONFIG,
) -> None:
    """Steer live in a browser, and for programs that speak OpenAI's completions."""
    try:
        from saesteer.serve.server import serve as serve_run
    except ImportError as fault:
        raise SaesteerError(f"`saesteer serve` needs the extra `serve` ({fault}): pip install 'saesteer[serve]'") from fault
    serve_run(run_of(experiment, configfile), host, port, typer.echo)
