"""A process that has the libraries loaded, from which the programs of tests' small runs are forked.

Each would import them anew, which takes longer than what the small experiments compute. A child of it has most of this checkout's modules
too; programs that run another folder's code are forked from the process itself, which has none of them.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic._internal import _fields

LIBRARIES = ["transformers.models.gemma2.modeling_gemma2", "matplotlib.pyplot", "matplotlib.backends.backend_pdf", "fontTools.subset"]
LIBRARIES += ["scipy.stats", "polars", "pydantic", "jaxtyping", "typer", "grimp", "snakemake.cli", "dvc.repo"]
PROGRAMS = ("python", "snakemake", "saesteer", "dvc")
SOURCE = Path(__file__).parents[1] / "src"
ROOMS = ("core", "settings", "sources", "analysis", "engine", "judge", "steps")
"""The package's rooms of which most jobs import something."""
WITH_PACKAGE = "with_package"
"""The folder, in the other's, of programs that have ROOMS as they are in SOURCE."""


class Server:
    """The process for one environment, with its child; another environment ends them."""

    def __init__(self) -> None:
        self.environment: Mapping[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="warm"))
        client = Path(__file__).with_name("warm_client.py").read_text()
        for folder in (self.folder, self.folder / WITH_PACKAGE):
            folder.mkdir(exist_ok=True)
            for program in PROGRAMS:
                (folder / program).write_text(f"#!{sys.executable} -IS\n{client}")
                (folder / program).chmod(0o755)
        atexit.register(self.end)

    def programs(self, environment: Mapping[str, str], with_package: bool) -> Path:
        """The folder of the programs; the process that they are forked from has been started in this environment."""
        if environment != self.environment:
            self.stop()
            command = [sys.executable, __file__, str(self.folder)]
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self.process.stdout is not None
            assert {self.process.stdout.readline() for _ in range(2)} == {b"ready\n"}
            self.environment = dict(environment)
        return self.folder / WITH_PACKAGE if with_package else self.folder

    def stop(self) -> None:
        if self.process is not None:
            self.process.communicate()  # closes its standard input
            for folder in (self.folder, self.folder / WITH_PACKAGE):
                (folder / "socket").unlink(missing_ok=True)

    def end(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


@functools.cache
def server() -> Server:
    """The one of this process of pytest."""
    return Server()


def serve(folder: Path) -> None:
    """Until standard input is closed."""
    for library in LIBRARIES:
        importlib.import_module(library)
    # What settings mean, which only `saesteer config-docs` reads, would take half of the time that importing them does.
    _fields.extract_docstrings_from_cls = lambda *_, **__: {}
    if os.fork() == 0:
        folder /= WITH_PACKAGE
        if fault := import_package():
            os.write(sys.stdout.fileno(), fault)
            return
    gc.collect()
    gc.freeze()  # else looking for garbage copies all that was imported
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        os.write(sys.stdout.fileno(), b"ready\n")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the attendants
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                attend(connection, folder)
            connection.close()


def import_package() -> bytes:
    """Import the modules of ROOMS from SOURCE; what is wrong with them. No thread of polars may begin by that: a forked process would wait
    for it without end."""
    sys.path.insert(0, str(SOURCE))
    for room in ROOMS:
        for module in pkgutil.walk_packages([str(SOURCE / "saesteer" / room)], f"saesteer.{room}."):
            importlib.import_module(module.name)
    sys.path.remove(str(SOURCE))
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return b"a module computes something with polars when it is imported\n" if "polars-0" in threads else b""


def attend(connection: socket.socket, folder: Path) -> None:
    """Fork the program, pass signals on, answer how it ended; without a client, end it."""
    header, files, *_ = socket.recv_fds(connection, 8, 3)
    data = b""
    while len(data) < int.from_bytes(header, "big"):
        data += connection.recv(1 << 20)
    program = os.fork()
    if program == 0:
        connection.close()
        run(files, folder / "python", **json.loads(data))
    for file in files:
        os.close(file)
    ended = os.pidfd_open(program)
    while ended not in select.select([ended, connection], [], [])[0]:
        if number := connection.recv(1):
            os.kill(program, number[0])
        else:
            os.killpg(program, signal.SIGKILL)
            break
    connection.sendall(os.waitpid(program, 0)[1].to_bytes(4, "big"))
    os._exit(0)


def run(files: list[int], python: Path, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """What `python` does with a script or with `-m` and a module."""
    os.setsid()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = str(python)
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    first = folder if is_module else str(Path(sys.argv[0]).parent)
    sys.path[:1] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    code: Any = 0
    try:
        if is_module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
