"""Checks of shapes and types of functions (jaxtyping + beartype) in tests of `make test`; what several files of tests share."""

import functools
import gc
import os
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpcore2
import jaxtyping
import pytest
from beartype import BeartypeConf
from beartype.claw import beartype_packages
from beartype.claw._ast import _clawaststar
from filelock import FileLock
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from judge_server import Judge
    from workflow_folder import Folder
    from xdist.scheduler import LoadFileScheduling

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
"""Of this process and all that tests start: the unit left out, AMX, gave NaN in bfloat16 on one machine, for minutes at a time. A processor
without it, or of another kind, does not look."""
ROOT = Path(__file__).parent
SOURCES = {"saesteer": ROOT / "src", "studies": ROOT}
BY_JAXTYPING = [
    ".".join(file.relative_to(source).with_suffix("").parts)
    for package, source in SOURCES.items()
    for file in (source / package).rglob("*.py")
    if re.search("jaxtyping|TYPE_CHECKING", file.read_text(encoding="utf-8"))
]
"""Modules whose functions say the shapes of tensors and arrays, or name types that are imported for type checkers only, which beartype's
hook cannot resolve. Elsewhere beartype alone sees the same as jaxtyping's hook, whose calls take 20 times longer."""


def of_modules_and_classes(decorator: Callable[..., Any]) -> Callable[..., Any]:
    """A checker's decorator that leaves functions in functions alone: they would be decorated at every call of the outer one, in
    milliseconds, which is half of what a small model's forward with its hooks takes."""

    def with_options(**options: Any) -> Callable[[Any], Any]:
        decorate = decorator(**options)
        return lambda defined: defined if "<locals>" in defined.__qualname__ else decorate(defined)

    return with_options


def fsync(descriptor: int) -> None:
    """Refuses what is no open file, and waits for no disk: what a crash may leave is replayed from the calls (crash_states.py)."""
    os.fstat(descriptor)


@functools.cache
def certificates(file: str | None, folder: str | None, **options: bool) -> ssl.SSLContext:
    """Those that one environment's clients trust, read once: reading takes longer than most tests of a client."""
    return DEFAULT_SSL_CONTEXT(**options)


DEFAULT_SSL_CONTEXT = httpcore2.default_ssl_context


def pytest_configure(config: pytest.Config) -> None:
    """Flushes and certificates as above. Checks on, but in `make test-all`: they would take a third of its time, and see in its longer
    tests what they see in the others."""
    gc.disable()
    os.fsync = fsync
    places = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    httpcore2.default_ssl_context = lambda **options: certificates(*map(os.environ.get, places), **options)
    if config.option.markexpr == "exhaustive":
        return
    for place, name in ((jaxtyping, "jaxtyped"), (_clawaststar, "__beartype__")):
        pytest.MonkeyPatch().setattr(place, name, of_modules_and_classes(getattr(place, name)))
    beartype_packages(SOURCES, conf=BeartypeConf(claw_is_pep526=False))
    install_import_hook(BY_JAXTYPING, "beartype.beartype")


def pytest_collection_finish() -> None:
    """Garbage is looked for seldom, and not among what has been imported: at Python's pace that took a sixth of the tests' time."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


# How long one example takes says more about the machine than about the code. A commit's tests try the same examples each time;
# `pytest --hypothesis-profile search` tries others.
settings.register_profile("saesteer", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("saesteer")


TAKE_MINUTES = (
    "slurm/",
    "test_sharing_places.py",
    "test_methods_workflow.py",
    "test_kills.py",
    "test_methods_real_inputs.py",
    "test_sharing_merge.py",
    "test_benchmarks.py",
    "test_real_inputs.py",
    "test_installed.py",
    "test_changes.py",
    "test_code_changes.py",
    "test_every_figure.py",
    "test_gpu_path.py",
    "test_sharing.py",
    "test_uncertainty.py",
    "test_features_per_job.py",
    "test_every_class.py",
    "test_module.py",
    "test_own_model_run.py",
    "test_recommend.py",
    "test_memory.py",
    "test_docs.py",
    "test_docs_commands.py",
    "test_report_pages.py",
    "test_notebook.py",
    "test_explanations.py",
    "test_stop.py",
    "test_memory_limit.py",
    "test_degenerate_texts.py",
    "test_large_models.py",
    "test_cluster_profile.py",
    "test_adopt.py",
    "test_bad_places.py",
)
"""Files of tests, the longest first."""
TOGETHER = ("^tests/slurm/", r"(_figures?|test_metrics)\.py$")
"""Files of which one worker runs all: they need the one SLURM node, or draw the tables of drawn_figures.py, which take 15 seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, so that no worker is left with one of them when the others have ended."""
    place = {name: number for number, name in enumerate(TAKE_MINUTES)}

    def turn(item: pytest.Item) -> int:
        return place.get("slurm/" if item.path.parent.name == "slurm" else item.path.name, len(place))

    items.sort(key=turn)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, which says by EXPECTED_SKIPS (a regular expression) what may be skipped there, any other skip is a failure."""
    expected = os.environ.get("EXPECTED_SKIPS")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if expected is None or reporter is None:  # a worker has no reporter
        return
    reasons = {str(report.longrepr) for report in reporter.stats.get("skipped", [])}
    if unexpected := sorted(reason for reason in reasons if not re.search(expected, reason)):
        reporter.write_line(f"skipped, though it was not expected: {unexpected}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def judge() -> Iterator["Judge"]:
    """A loopback endpoint that answers every question of a judge."""
    from judge_server import judge_server

    with judge_server() as running:
        yield running


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling":
    """With several workers (`make test`), one of them runs a file's tests, which share fixtures; and all of some files."""
    from xdist.scheduler import LoadFileScheduling

    class SomeFilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((files for files in TOGETHER if re.search(files, file)), file)

    return SomeFilesTogether(config, log)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator["Folder"]:
    """The micro experiment, finished, for all workers; tests change copies of it only, since others read it at the same time."""
    base = tmp_path_factory.getbasetemp()
    folder = _made_once((base if worker_id == "master" else base.parent) / "micro")
    results = [path for kind in ("data", "figures") for path in (folder.path / kind).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in results}
    yield folder
    assert {path: path.stat().st_mtime_ns for path in results if path.is_file()} == before, "a test changed the finished experiment"


def _made_once(shared: Path) -> "Folder":
    from workflow_folder import Folder

    with FileLock(f"{shared}.lock"):
        if (shared / "finished").is_file():
            return Folder.existing(shared / "repo")
        folder = Folder(shared / "repo")
        code, output = folder.run()
        assert code == 0, output
        (shared / "finished").touch()
    return folder
