"""The `saesteer` command: what surrounds the workflow.

A command imports what it needs itself: all of it would take each of them a second, and `make figures` starts with one.
"""

from saesteer.cli import start, steering, sharing, maintenance  # noqa: I001 (the order of the commands)
from saesteer.cli.application import app

__all__ = ["app", "maintenance", "sharing", "start", "steering"]
