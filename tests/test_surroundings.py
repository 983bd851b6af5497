"""What a machine and a user's settings may be like: times in the future, a user without a name or a home, a terminal of few characters, a
place with braces, git that rewrites line ends or is not there, proxies and certificates that lead nowhere."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import matplotlib
import pytest
from drawn_figures import FIGURES, data_of
from hub_server import use_hub
from typer.testing import CliRunner
from workflow_folder import BIN, ROOT, Checkout, Folder

from saesteer.cli import app
from saesteer.core.errors import SettingsError
from saesteer.core.files import check_temporary_folder
from saesteer.figures.save import save_figure
from saesteer.sharing.commands import dvc
from saesteer.sources.http import COMMAND, FetchError, open_client
from saesteer.sources.hub import check_access

UNKNOWN = 54321
"""A user's number that no file of users has."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what belongs to another user can be made by root only")


def of_another_day(path: Path, seconds: float) -> None:
    now = path.stat().st_mtime
    os.utime(path, (now + seconds, now + seconds))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perplexity_model", "topics"])
def test_an_input_with_a_time_in_the_future_is_named_before_anything_is_removed(tmp_path: Path, name: str) -> None:
    """Unzipped, or from a file server whose clock is ahead: what is made from it would count as older for ever."""
    folder, target = Folder(tmp_path / "repo"), f"data/micro/pins/{name}.json"
    given = tmp_path / "given"
    if name == "perplexity_model":
        file = shutil.copytree(ROOT / "data/world/reference_model", given) / "chat_template.jinja"
        file.write_text("{{ messages }}")
        folder.edit("micro", perplexity={"model": {"path": str(given)}})
    else:
        file = Path(shutil.copy(ROOT / "data/world/topics.json", given))
        folder.edit("micro", concepts={"kind": "topics", "topics": str(file)})
    assert folder.run(target)[0] == 0
    pinned = (folder.path / target).read_bytes()
    file.write_text(file.read_text() + "\n")
    of_another_day(file, 86_400)
    code, output = folder.run(target)
    assert code != 0
    assert output.count(f"touch {file}") == 1, output
    assert (folder.path / target).read_bytes() == pinned
    assert f"touch {file}" in folder.call("saesteer", "check", "micro").stdout
    file.touch()
    assert folder.run(target)[0] == 0
    assert (folder.path / target).read_bytes() != pinned


@pytest.fixture
def of_anybody() -> Iterator[Path]:
    """A folder of a user without a name; all can enter those above it, which those of tests are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, UNKNOWN, UNKNOWN)
        yield Path(folder)


@pytest.mark.slow
@as_root
@pytest.mark.parametrize(
    "home", [pytest.param(None, id="no home"), pytest.param("/", id="a home that is read-only", marks=pytest.mark.exhaustive)]
)
def test_a_user_without_a_name_and_a_home(of_anybody: Path, home: str | None) -> None:
    """As in a container that runs under any number."""
    numbers = ["--reuid", str(UNKNOWN), "--regid", str(UNKNOWN), "--clear-groups"]
    reads_all = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # where the interpreter is root's own
    code = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}  # a mutant's
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": "/dev/null"} | code | ({"HOME": home} if home else {})
    pin = "data/micro/pins/model.json"
    for command in (["init"], ["run", "micro", "--cores", "1", pin]):
        done = subprocess.run(
            ["setpriv", *numbers, *reads_all, str(BIN / "saesteer"), *command],
            cwd=of_anybody, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert (of_anybody / pin).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", pytest.param("iso-8859-1", marks=pytest.mark.exhaustive)])
def test_a_terminal_without_a_character_shows_another(finished: Folder, tmp_path: Path, encoding: str) -> None:
    folder = finished.copy(tmp_path / "repo")
    environment = folder.environment | {"PYTHONIOENCODING": encoding}
    command = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--forcerun", "metrics"]
    command += ["--config", "experiments=[micro]"]
    done = subprocess.run(command, cwd=folder.path, env=environment, capture_output=True, encoding=encoding, check=False)
    assert done.returncode == 0, done.stderr
    assert "features with output score" in done.stdout.lower()


@pytest.mark.parametrize(
    "settings",
    [
        {"text.usetex": True},
        {"savefig.transparent": True, "axes.prop_cycle": matplotlib.cycler("color", ["r", "g"]), "font.family": ["serif"]},
        {"axes.grid": True, "savefig.bbox": "tight", "pdf.compression": 0, "path.sketch": (1, 100, 2), "axes.formatter.use_locale": True},
    ],
    ids=["TeX", "colours", "frame"],
)
def test_a_users_settings_of_matplotlib_change_no_figure(tmp_path: Path, settings: dict[str, object]) -> None:
    def files(name: str) -> dict[str, bytes]:
        data = data_of("roles")
        return {path.suffix: path.read_bytes() for path in save_figure(FIGURES["roles"].draw(data), data, tmp_path / name)}

    expected = files("expected")
    with matplotlib.rc_context(settings):
        assert files("users") == expected


@as_root
def test_a_full_folder_of_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of Snakemake's solver names no path."""
    monkeypatch.delenv("TMP", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    check_temporary_folder()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        with pytest.raises(SettingsError, match=f"the disk of {tmp_path}, .* is full: free some space, or set TMPDIR"):
            check_temporary_folder()
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.slow
def test_a_place_with_braces_is_refused_by_name(tmp_path: Path) -> None:
    """Snakemake and DVC take them for variables."""
    code, output = Checkout(tmp_path / "my{own}place").run("-n")
    assert code != 0
    assert "my{own}place: Snakemake and DVC take braces in a path for variables: move or rename the folder" in output
    (tmp_path / "a{b").mkdir()
    with pytest.raises(SettingsError, match=r"a\{b: .*move or rename the folder"):
        dvc(tmp_path / "a{b", "version")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_leaves_line_ends_as_they_are(tmp_path: Path) -> None:
    """Also in a clone of a user who has told it to rewrite them: pins and manifests would have other bytes than were published."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / ".gitattributes", source)
    texts = {"pin.json": b"one\ntwo\n", "rows.csv": b"one\r\ntwo\r\n", "template.jinja": b"one\ntwo\r\n"}
    for name, text in texts.items():
        (source / name).write_bytes(text)
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "text")
    git(tmp_path, "clone", "--quiet", "-c", "core.autocrlf=true", "source", "clone")
    assert {name: (tmp_path / "clone" / name).read_bytes() for name in texts} == texts


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder below another one, which is the current folder."""
    (folder := tmp_path / "above/project").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return folder


@as_root
def test_init_makes_no_repository_in_another_owners(empty: Path) -> None:
    git(empty.parent, "init", "--quiet")
    os.chown(empty.parent, UNKNOWN, UNKNOWN)
    os.chown(empty.parent / ".git", UNKNOWN, UNKNOWN)
    result = CliRunner().invoke(app, ["init"])
    assert result.exit_code == 1
    assert "git config --global --add safe.directory" in result.output
    assert list(empty.iterdir()) == []


def test_init_without_git_says_so(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(empty))
    result = CliRunner().invoke(app, ["init"])
    assert result.exit_code == 1
    assert "git is not installed here, or not on the PATH: install it, and run the same command again" in result.output
    assert list(empty.iterdir()) == []


@pytest.fixture
def no_session() -> Iterator[None]:
    """The hub's client is opened anew, by the environment of the test, and not used by later ones."""
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


PROXIES = {
    "ALL_PROXY=socks5://127.0.0.1:9": r"ALL_PROXY.*a SOCKS proxy needs the package socksio: run `pip install socksio`",
    "HTTPS_PROXY=htp://127.0.0.1:9": r"HTTPS_PROXY.*Unknown scheme",
    "http_proxy=http://user:secret@127.0.0.1:abc": r"http_proxy.*Invalid port",
    "SSL_CERT_FILE=/nowhere/company.pem": r"SSL_CERT_FILE.*No such file or directory",
    "SSL_CERT_FILE=/etc/hostname": r"SSL_CERT_FILE.*certificate",
}
"""Variable and value -> what the message says."""


@pytest.mark.parametrize("setting", PROXIES)
def test_proxies_and_certificates_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch, no_session: None, setting: str) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    use_hub(monkeypatch, "https://127.0.0.1:9")

    async def opened() -> None:
        async with open_client(COMMAND):
            raise AssertionError("a client was opened")

    for opens in (lambda: asyncio.run(opened()), lambda: check_access("tiny/llama")):
        with pytest.raises(FetchError, match=PROXIES[setting]) as caught:
            opens()
        assert "secret" not in str(caught.value)
