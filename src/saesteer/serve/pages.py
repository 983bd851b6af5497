"""The report's pages when they are served. Their data go out as JSON for `fetch`: a page of another site could run them as scripts."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from saesteer.core.confined import confined
from saesteer.serve.guard import refused
from saesteer.site.folder import ASSETS
from saesteer.site.pieces import read_piece


def page_routes(report: Path) -> list[Route]:
    """The routes of a report's folder: its data, the files that it was made from, and the page with its assets and figures."""
    page = _served_page((report / "index.html").read_text(encoding="utf-8"))

    def data(request: Request) -> Response:
        text = read_piece(report, request.path_params["name"])
        return _absent() if text is None else Response(text, media_type="application/json")

    def file(request: Request) -> Response:
        index = read_piece(report, "index")
        tables = [] if index is None else json.loads(index)["files"]
        addresses = {name: address for table in tables for name, address, _ in table["files"]}
        address = addresses.get(request.path_params["name"])
        return _sent(None if address is None else report / address, is_download=True)

    def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name in ("", "index.html"):
            return HTMLResponse(page)
        return _sent(confined(report, name) if name in ASSETS or name.startswith("figures/") else None)

    return [Route("/data/{name:path}.json", data), Route("/files/{name:path}", file), Route("/{name:path}", asset)]


def _served_page(page: str) -> str:
    """The report's page, allowed to ask this server and told that there is one."""
    return page.replace("default-src 'none';", "default-src 'none'; connect-src 'self';").replace("<html", '<html data-served="true"', 1)


def _sent(path: Path | None, is_download: bool = False) -> Response:
    if path is None or not path.is_file():
        return _absent()
    return FileResponse(path, filename=path.name if is_download else None)


def _absent() -> Response:
    return refused(404, "there is no such page or file")
