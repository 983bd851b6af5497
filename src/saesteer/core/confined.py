"""Paths that come from a file (of a remote, of a colleague's git) and may lead nowhere but below a folder."""

from pathlib import Path

_LONGEST_NAME = 255
"""Bytes of a file's name that file systems take."""
_LONGEST_PATH = 4095
"""Bytes of a path that Linux takes."""


def leads_below(name: str) -> bool:
    """Whether a name is a path below a folder, whichever: neither absolute nor with `..`, and one that file systems take."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\0" in name or "\\" in name:
        return False
    return all(len(part.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME for part in parts)


def confined(folder: Path, name: str) -> Path | None:
    """The path of a name below a folder; None for one that would lie elsewhere (absolute, with `..`, or through a link) or nowhere."""
    if not leads_below(name):
        return None
    parts = name.split("/")
    path = folder.joinpath(*parts)
    if len(str(path).encode("utf-8", "surrogatepass")) > _LONGEST_PATH:
        return None
    return None if any(parent.is_symlink() for parent in path.parents[: len(parts) - 1]) else path
