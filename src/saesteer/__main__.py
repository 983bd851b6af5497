"""`python -m saesteer`: the same as the `saesteer` command."""

from saesteer.cli import app

app()
