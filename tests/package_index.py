"""A package index on the loopback interface (PEP 503), and wheels for it."""

import base64
import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from loopback import Handler, serving_with


def wheel(name: str, files: Mapping[str, bytes], version: str = "1.0") -> bytes:
    """A wheel of files that are no code."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    named = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(), f"{info}/WHEEL": tags}
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode() for path, data in named.items()}
    lines = [f"{path},sha256={digests[path]},{len(data)}" for path, data in named.items()]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in {**named, f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,"]).encode()}.items():
            archive.writestr(path, data)
    return packed.getvalue()


@dataclass
class Index:
    """Wheels by their file names. `hashes`: what the pages say of their digests; `cut`: bytes after which a wheel's download breaks off."""

    wheels: dict[str, bytes] = field(default_factory=dict)
    hashes: bool = True
    cut: int | None = None
    status: int = 200
    downloads: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, files: Mapping[str, bytes], version: str = "1.0") -> None:
        self.wheels[f"{name.replace('-', '_')}-{version}-py3-none-any.whl"] = wheel(name, files, version)

    def serve(self, request: Handler) -> None:
        file = request.path.rpartition("/")[2]
        if file:
            self.downloads[file] += 1
            request.reply(self.status, self.wheels[file], {"Content-Type": "application/octet-stream"}, cut=self.cut)
            return
        project = request.path.strip("/").rpartition("/")[2].replace("-", "_")
        listed = [name for name in self.wheels if name.partition("-")[0] == project]
        links = "".join(f'<a href="/files/{name}{self._fragment(name)}">{name}</a><br>' for name in listed)
        page = f"<!DOCTYPE html><html><body>{links}</body></html>"
        request.reply(200 if listed else 404, page, {"Content-Type": "text/html"})

    def _fragment(self, name: str) -> str:
        return f"#sha256={hashlib.sha256(self.wheels[name]).hexdigest()}" if self.hashes else ""


@contextmanager
def serving_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index, and pip told to use it alone."""
    index = Index()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    with serving_with(type("Served", (Handler,), {"serve": lambda request: index.serve(request)})) as address:
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        yield index
