"""Errors that a user can mend: each message says what is wrong, where (file, key, row), and what to do; and names that are not known."""

import difflib
from collections.abc import Collection

_N_LISTED = 20
"""Known names in a message."""


class SaesteerError(Exception):
    """The base of them all, which every command shows as one message without a traceback."""


class SettingsError(SaesteerError, ValueError):
    """Something wrong with the configuration or a file that it names."""


class NotFiniteError(SaesteerError, ArithmeticError):
    """Numbers of a model that are NaN or infinite."""

    def __init__(self, message: str, row: int = 0) -> None:
        super().__init__(message)
        self.row = row  # the first of them, by its place among those computed together


def did_you_mean(name: str, names: Collection[str]) -> str:
    """A question about the nearest name, with a space before it; empty where none is near, as of a number: another one is no slip."""
    by_lower_case = {known.lower(): known for known in names if not known.isdecimal()}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[near[0]]!r}?" if near else ""


def check_known(what: str, name: str, names: Collection[str]) -> None:
    """Refuse a name that is not among those known, with the nearest and the first of them."""
    if name not in names:
        listed = list(names)[:_N_LISTED]
        more = ", ..." if len(names) > len(listed) else ""
        raise SettingsError(f"there is no {what} {name!r} here.{did_you_mean(name, names)} Known: {', '.join(listed) or 'none'}{more}")
