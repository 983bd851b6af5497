"""A hub on the loopback interface: the parts of Hugging Face's that its client calls to look at and download a repository.

Large files (`LFS` below) are redirected to another host, as the hub does, and named after their SHA-256; the others after git's SHA-1
of a blob. Faults are asked for by path: an error a number of times, a cut connection, wrong bytes.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from loopback import Handler, serving_with

LFS = (".safetensors", ".npz", ".bin", ".pt", ".pth")
TOKEN = "hf_loopback"
"""The token that opens gated repositories."""
EXPIRED, FINE_GRAINED = "hf_expired", "hf_fine_grained"
"""A token that is no longer one, and one of an account with access that lacks it itself."""
BAD_TOKEN = "Invalid credentials in Authorization header"
NO_GATED_ACCESS = "Please enable access to public gated repositories in your fine-grained token settings to view this repository."
LOGIN_PAGE = "<!DOCTYPE html><html><body>Welcome to Hotel Example: please log in to use the network.</body></html>"


def blob_name(path: str, content: bytes) -> str:
    """The hash by which the hub names a file."""
    if path.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """All commits of a repository, and where its branches stand."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own name stands for."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path matches."""

    pattern: re.Pattern[str]
    times: int
    status: int | None = None
    cut_after: int | None = None


@dataclass
class Hub:
    """Repositories, faults, and a record of what was asked."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Authorization header of each request."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_portal: bool = False
    """Whether a network's login page answers in the hub's place, whatever is asked for."""
    turns_away: Callable[[int], bool] = lambda port: False
    """Whether the client at a port of this host finds nobody here, as from a node without a way to the internet."""
    turned_away: list[str] = field(default_factory=list)
    """What such clients asked for."""

    def add(self, repo: str, content: Path | Mapping[str, bytes], branch: str = "main", gated: bool = False) -> str:
        """Commit files (a folder's, or name -> bytes) to a repository's branch and give the commit's name."""
        if isinstance(content, Path):
            content = {path.relative_to(content).as_posix(): path.read_bytes() for path in sorted(content.rglob("*")) if path.is_file()}
        entry = self.repos.setdefault(repo, Repo(gated=gated))
        names = repr([repo, len(entry.commits), sorted((name, blob_name(name, data)) for name, data in content.items())])
        commit = hashlib.sha1(names.encode()).hexdigest()
        entry.commits[commit] = dict(content)
        entry.branches[branch] = commit
        return commit

    def fail(self, pattern: str, status: int, times: int = 1) -> None:
        """Answer the next requests whose path matches with an error."""
        self.faults.append(Fault(re.compile(pattern), times, status=status))

    def cut(self, pattern: str, after: int, times: int = 1) -> None:
        """Break off the next downloads whose path matches after some bytes."""
        self.faults.append(Fault(re.compile(pattern), times, cut_after=after))

    def corrupt(self, path: str) -> None:
        """Serve wrong bytes, of the right length, for a file of any repository from now on."""
        self.wrong.add(path)

    def fault(self, path: str, headers_only: bool) -> Fault | None:
        """The fault that a request meets, counted down."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.pattern.search(path) and not (headers_only and fault.cut_after is not None):
                    fault.times -= 1
                    return fault
        return None

    def blob(self, name: str) -> tuple[str, bytes] | None:
        """Path and bytes of the large file with this hash."""
        for repo in self.repos.values():
            for files in repo.commits.values():
                for path, content in files.items():
                    if blob_name(path, content) == name:
                        return path, content
        return None


class _Handler(Handler):
    hub: Hub

    def serve(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        with self.hub.lock:
            self.hub.requests.append((self.command, path, self.headers.get("Authorization")))
        if self.hub.turns_away(self.client_address[1]):
            self.hub.turned_away.append(path)
            self.close_connection = True
            return
        self.fault = self.hub.fault(path, self.command == "HEAD")
        if self.hub.is_portal:
            self._reply(200, LOGIN_PAGE, {"Content-Type": "text/html"})
        elif self.headers.get("Authorization") == f"Bearer {EXPIRED}":
            self._reply(401, {"error": BAD_TOKEN}, {"X-Error-Message": BAD_TOKEN})
        elif self.fault and self.fault.status:
            self._reply(self.fault.status, b"try later")
        elif path.startswith("/cdn/"):
            self._large(path.removeprefix("/cdn/"))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(auth-check|revision|tree)(?:/(.*))?)?", path):
            self._api(match[1], match[2], match[3] or "", parse_qs(address.query))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._reply(404, b"no such address")

    def _api(self, name: str, what: str | None, rest: str, query: Mapping[str, list[str]]) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._refuse(404, "RepoNotFound")
        elif what == "auth-check":
            self._refuse(403, "GatedRepo") if self._closed(repo) else self._reply(200, b"{}")
        else:
            revision, _, folder = rest.partition("/")
            commit = repo.commit_of(revision or "main")
            if commit is None:
                self._refuse(404, "RevisionNotFound")
            elif what == "tree":
                self._tree(repo.commits[commit], folder, query.get("recursive") in (["True"], ["true"]))
            else:
                siblings = [{"rfilename": path} for path in repo.commits[commit]]
                self._reply(200, {"id": name, "modelId": name, "sha": commit, "gated": repo.gated, "siblings": siblings})

    def _tree(self, files: Mapping[str, bytes], folder: str, recursive: bool) -> None:
        below = f"{folder}/" if folder else ""
        entries, folders = [], set()
        for path, content in files.items():
            if not path.startswith(below):
                continue
            if "/" in path.removeprefix(below) and not recursive:
                folders.add(below + path.removeprefix(below).split("/")[0])
                continue
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob_name("small", content)}
            if path.endswith(LFS):
                entry["lfs"] = {"oid": blob_name(path, content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        if entries:
            self._reply(200, entries)
        else:
            self._refuse(404, "EntryNotFound")

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        commit = repo.commit_of(revision) if repo else None
        if repo is None:
            self._refuse(404, "RepoNotFound")
        elif commit is None:
            self._refuse(404, "RevisionNotFound")
        elif self._closed(repo):
            self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        elif path not in repo.commits[commit]:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        elif path.endswith(LFS):
            content = repo.commits[commit][path]
            linked = blob_name(path, content)
            headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{linked}"', "X-Linked-Size": str(len(content))}
            self._reply(302, b"", headers | {"Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{linked}"})
        else:
            content = repo.commits[commit][path]
            self._content(path, content, {"X-Repo-Commit": commit, "ETag": f'"{blob_name(path, content)}"'})

    def _large(self, name: str) -> None:
        blob = self.hub.blob(name)
        if blob is None:
            self._reply(404, b"no such blob")
        else:
            self._content(*blob, {"ETag": f'"{name}"'})

    def _content(self, path: str, content: bytes, headers: Mapping[str, str]) -> None:
        if path in self.hub.wrong:
            content = bytes([*content[:-1], content[-1] ^ 1])
        part, status, extra = slice(0, len(content)), 200, {"Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            part, status = slice(int(match[1]), int(match[2]) + 1 if match[2] else len(content)), 206
            extra["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
        self._reply(status, content[part], {**headers, **extra})

    def _closed(self, repo: Repo) -> bool:
        return repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}"

    def _reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self.reply(status, body, headers, self.fault.cut_after if self.fault else None)

    def _refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        lacks_access = code == "GatedRepo" and self.headers.get("Authorization") == f"Bearer {FINE_GRAINED}"
        message = NO_GATED_ACCESS if lacks_access else code
        self._reply(status, {"error": message}, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub on a free port; subprocesses use it with HF_ENDPOINT=hub.url, this process with `use_hub`."""
    hub = Hub()
    with serving_with(type("Handler", (_Handler,), {"hub": hub})) as hub.url:
        yield hub


def use_hub(patch: pytest.MonkeyPatch, url: str, offline: bool = False, token: str | None = None) -> None:
    """Point the hub's client in this process at an address. It reads its environment once, when it is imported."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", offline)
    patch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    patch.delenv("HF_TOKEN", raising=False)
    patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)
