"""Names that a user gives, looked up among those that there are."""

import difflib
from collections.abc import Collection

from saesteer.core.errors import SettingsError

_N_LISTED = 20


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
