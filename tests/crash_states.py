"""What a folder may hold after a crash: the system calls of its writers are traced, and what a file system may make of them is replayed.

    with traced(folder) as trace:
        write_text(folder / "a/b.txt", "text")
        trace.done("written")
    for state, done in trace.crashes():  # relative path -> bytes; what was done before the crash
        ...

As SQLite's crash tests do, every moment between two calls is a crash, and what no fsync has made durable may be there or not:

* A file's bytes since its last fsync: none, the first half, zeros of the same length, all; of each write in turn.
* A folder's entries since its last fsync: any of the names made, renamed and removed, without the others. A rename within a folder is one.
* A new folder is there only with its own entry in the folder above.

How: the folder is looked at around each call in `CALLS` of the module os, and what differs has happened since the look before, whoever did
it, in Python or in Rust. Only an fsync of the module os is seen: another library's counts as none. Not covered: writes that undo each other
between two such calls, disks that lie about fsync, bits that rot.
"""

import itertools
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = ("open", "close", "fsync", "fdatasync", "replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "truncate")
State = dict[str, bytes]
Disk = dict[int, Any]
"""A number -> _File or _Folder."""
ROOT = 0


@dataclass
class _File:
    """Bytes that are durable, and those written since."""

    durable: bytes = b""
    later: list[bytes] = field(default_factory=list)

    def may_hold(self) -> list[bytes]:
        broken = (part for data in self.later for part in (b"", data[: len(data) // 2], bytes(len(data)), data))
        return list(dict.fromkeys([self.durable, *broken]))

    def sync(self) -> None:
        self.durable, self.later = (self.later or [self.durable])[-1], []


@dataclass
class _Folder:
    """Entries, name -> inode, that are durable, and the changes since: names with their inodes, None where one is removed."""

    durable: dict[str, int] = field(default_factory=dict)
    later: list[dict[str, int | None]] = field(default_factory=list)

    def may_hold(self) -> list[dict[str, int]]:
        subsets = itertools.chain.from_iterable(itertools.combinations(self.later, n) for n in range(len(self.later) + 1))
        return [self._after(changes) for changes in subsets]

    def _after(self, changes: tuple[dict[str, int | None], ...]) -> dict[str, int]:
        entries: dict[str, int | None] = dict(self.durable)
        for change in changes:
            entries |= change
        return {name: inode for name, inode in entries.items() if inode is not None}

    def sync(self) -> None:
        self.durable, self.later = self._after(tuple(self.later)), []


class Trace:
    """What happened below a folder, as a list of functions that do it to a model of the disk, each a moment for a crash.

    Files and folders have numbers of their own, as a file system gives an inode's number anew once nothing names it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._events: list[Callable[[Disk], None]] = []
        self._done: list[tuple[int, Hashable]] = []
        self._numbers = {root.stat().st_ino: ROOT}
        self._fresh = itertools.count(ROOT + 1)
        self._entries: dict[int, dict[str, int]] = {ROOT: {}}
        self._bytes: dict[int, bytes] = {}

    def done(self, what: Hashable) -> None:
        """From now on, this has to survive."""
        self.look()
        self._done.append((len(self._events), what))

    def synced(self, inode: int) -> None:
        if (number := self._numbers.get(inode)) is not None:
            self._events.append(lambda disk: disk[number].sync())

    def look(self) -> None:
        """Note what has changed since the look before."""
        entries, contents = self._scan()
        for number in entries.keys() - self._entries.keys():
            self._events.append(lambda disk, number=number: disk.update({number: _Folder()}))
        for number in contents.keys() - self._bytes.keys():
            self._events.append(lambda disk, number=number: disk.update({number: _File()}))
        for number, data in contents.items():
            if data != self._bytes.get(number, b""):
                self._events.append(lambda disk, number=number, data=data: disk[number].later.append(data))
        for number, names in entries.items():
            for change in _changes(self._entries.get(number, {}), names):
                self._events.append(lambda disk, number=number, change=change: disk[number].later.append(change))
        self._entries, self._bytes = entries, contents

    def _scan(self) -> tuple[dict[int, dict[str, int]], dict[int, bytes]]:
        numbers, entries, contents = {self.root.stat().st_ino: ROOT}, {ROOT: {}}, {}
        for path in sorted(self.root.rglob("*")):
            inode = path.stat().st_ino
            number = numbers[inode] = self._numbers[inode] if inode in self._numbers else next(self._fresh)
            entries[numbers[path.parent.stat().st_ino]][path.name] = number
            if path.is_dir():
                entries[number] = {}
            else:
                contents[number] = path.read_bytes()
        self._numbers = numbers
        return entries, contents

    def crashes(self) -> Iterator[tuple[State, list[Hashable]]]:
        """Every state in which a crash may leave the folder, with all that was done before; each once."""
        seen = set()
        disk: Disk = {ROOT: _Folder()}
        for moment in range(len(self._events) + 1):
            done = [what for at, what in self._done if at <= moment]
            for state in _states(disk):
                if (key := (frozenset(state.items()), len(done))) not in seen:
                    seen.add(key)
                    yield state, done
            if moment < len(self._events):
                self._events[moment](disk)


def _states(disk: Disk) -> Iterator[State]:
    """All that the disk may hold, what is lost most first."""
    for held in itertools.product(*(one.may_hold() for one in disk.values())):
        yield dict(_below(dict(zip(disk, held, strict=True)), ROOT, ""))


def _below(disk: dict[int, Any], number: int, name: str) -> Iterator[tuple[str, bytes]]:
    if isinstance(disk[number], bytes):
        yield name, disk[number]
        return
    for entry, child in disk[number].items():
        yield from _below(disk, child, f"{name}/{entry}".lstrip("/"))


def _changes(before: dict[str, int], names: dict[str, int]) -> Iterator[dict[str, int | None]]:
    """What may be on the disk each without the others; a file's new name goes with the old one that it no longer has."""
    gone = {name: number for name, number in before.items() if name not in names}
    for name, number in names.items():
        if before.get(name) != number:
            yield {name: number} | {old: None for old in gone if gone[old] == number}
    yield from ({name: None} for name, number in gone.items() if number not in names.values())


def _looked_at(trace: Trace, call: Callable[..., Any]) -> Callable[..., Any]:
    def around(*arguments: Any, **named: Any) -> Any:
        trace.look()
        inode = os.fstat(arguments[0]).st_ino if call.__name__ in ("fsync", "fdatasync") else None
        result = call(*arguments, **named)
        trace.look() if inode is None else trace.synced(inode)
        return result

    return around


@contextmanager
def traced(root: Path) -> Iterator[Trace]:
    """Trace what happens below an empty folder."""
    trace = Trace(root)
    with mock.patch.multiple(os, **{name: _looked_at(trace, getattr(os, name)) for name in CALLS}):
        yield trace
    trace.look()


def put(state: State, folder: Path) -> None:
    """Make a folder hold a state."""
    for name, data in state.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
