"""A page of another origin in a real Chromium, beside the pages of `saesteer serve`: what it can read of them."""

# ruff: noqa: F811 (fixtures of another file)

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium_pages import browser, sync_api  # noqa: F401
from chromium_pages import pytestmark as pytestmark
from engine_models import shipped_sae
from loopback import Handler, serving_with
from served import serving
from test_report_pages import sweep  # noqa: F401

from saesteer.run import Run

PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\6\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f\0\5\0\1\xff\x89\x99"
    b"=\x1d\0\0\0\0IEND\xaeB`\x82"
)
READ_ALL = """async ([server, paths]) => {
  const read = [];
  window.saesteer = { piece: (name) => read.push(`the piece ${name}`) };
  const make = (tag, values) => Object.assign(document.createElement(tag), values);
  const added = (what, element) => new Promise((end) => {
    element.onload = () => { read.push(what); end(); };
    element.onerror = end;
    document.body.append(element);
    setTimeout(end, 1500);
  });
  const fetched = async (what, options) => {
    try {
      if ((await (await fetch(what, options)).text()).length) read.push(`${options.mode ?? "cors"} ${what}`);
    } catch { /* what it should do */ }
  };
  const tries = paths.flatMap((path) => {
    const url = `${server}/${path}`, frame = make("iframe", { src: url });
    document.body.append(frame, make("object", { data: url }), make("embed", { src: url }));
    return [
      added(`script ${path}`, make("script", { src: url })),
      added(`module ${path}`, make("script", { src: url, type: "module" })),
      added(`style ${path}`, make("link", { href: url, rel: "stylesheet" })),
      added(`image ${path}`, make("img", { src: url })),
      ...["cors", "no-cors"].map((mode) => fetched(url, { mode, credentials: "include" })),
      import(url).then(() => read.push(`import ${path}`), () => {}),
    ];
  });
  tries.push(fetched(`${server}/v1/completions`, { method: "POST", mode: "no-cors", credentials: "include", body: '{"prompt": "x"}' }));
  await Promise.all(tries);
  return read;
}"""


@pytest.fixture(scope="module")
def attacker() -> Iterator[int]:
    """The port of a server of one empty page, under every name of this machine."""

    class Page(Handler):
        def serve(self) -> None:
            self.reply(200, "<!doctype html><link rel=icon href=data:,><body>", {"Content-Type": "text/html"})

    with serving_with(Page) as address:
        yield int(address.rpartition(":")[2])


@pytest.fixture
def report(sweep: tuple[Run, Path]) -> tuple[Run, Path]:
    """A report with a figure."""
    (sweep[1].parent / "figures/roles.png").write_bytes(PNG)
    return sweep


@pytest.mark.parametrize(
    ("server_name", "page_name"),
    [
        ("127.0.0.1", "127.0.0.1"),  # another port: same-site
        ("127.0.0.1", "localhost"),  # cross-site
        ("steer.test", "steer.test"),  # of a name to which Chromium sends no Sec-Fetch-Site, but the token's cookie
        ("steer.test", "attacker.test"),
    ],
)
def test_a_page_of_another_origin_reads_nothing(
    report: tuple[Run, Path], attacker: int, browser: Any, server_name: str, page_name: str
) -> None:
    run, index = report
    token = "secret" if server_name == "steer.test" else None
    pieces = ("data/index.js", "data/index.json", "data/f/0.js", "data/f/0.json")
    paths = [*pieces, "report.js", "report.css", "figures/roles.png", "", "v1/models"]
    with serving(run, index.parent, {layer: shipped_sae(layer) for layer in run.layers}, token) as served:
        address = f"http://{server_name}:{served.address.rpartition(':')[2]}"
        page, answers = browser.new_page(), []
        page.goto(f"{address}/?token={token}")
        page.wait_for_selector("main h1")  # the user's own page, with its cookie and whatever it leaves in the cache
        page.goto(f"http://{page_name}:{attacker}/")
        page.on("response", lambda answer: answers.append((answer.url, answer.status)) if answer.url.startswith(address) else None)
        assert page.evaluate(READ_ALL, [address, paths]) == []
        assert [frame.url for frame in page.frames[1:] if frame.url.startswith(address) and "Overview" in frame.content()] == []
        if token is None:
            assert {status for _, status in answers} == {403}
        page.set_content(f"<a href='{address}/'>a link that is followed</a>")
        page.get_by_role("link").click()
        page.wait_for_selector("text=wants its token" if page_name == "attacker.test" else "main h1")  # a link from there brings no cookie
        if page_name == "attacker.test":  # the printed address, followed from a notebook's page or a chat
            page.goto(f"http://{page_name}:{attacker}/")
            page.set_content(f"<a href='{address}/?token={token}#/features'>the printed address</a>")
            page.get_by_role("link").click()
            page.wait_for_selector("h1:text-is('Features')")
            assert "secret" not in page.url
        page.close()


def test_the_page_has_its_data_as_json_and_its_files_by_their_links(report: tuple[Run, Path], browser: Any) -> None:
    run, index = report
    with serving(run, index.parent, {layer: shipped_sae(layer) for layer in run.layers}) as served:
        page, requests = browser.new_page(), []
        page.on("request", lambda request: requests.append((request.resource_type, request.url.removeprefix(served.address))))
        page.goto(f"{served.address}/#/files/features")
        with page.expect_download() as download:
            page.locator("details[open] li a").first.click()
        assert hashlib.sha256(download.value.path().read_bytes()).hexdigest() in page.locator("details[open] .digest").first.inner_text()
        assert download.value.suggested_filename == "features.parquet"
        page.goto(f"{served.address}/#/features")
        page.locator("[role=row][data-at] a").first.click()
        page.wait_for_selector(".curve canvas")
        assert {kind for kind, url in requests if url.startswith("/data/")} == {"fetch"}
        links = [link for link in page.request.get(f"{served.address}/data/index.json").json()["files"] for link in link["files"]]
        assert {page.request.get(f"{served.address}/files/{name}").status for name, *_ in links} == {200}
        page.close()
