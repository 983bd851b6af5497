"""SIGTERM (preemption, a time limit, scancel) sent to a running job: it leaves in time, and everything finished is kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from workflow_folder import Folder

SWEEP = {"factors": [0, 0.2, 0.4, 0.6, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8], "n_prefixes": 20}
TARGET = "data/micro/generations/layers_02-06.json"
LOG = "logs/micro/generations/layers_02-06.log"
N_WANTED, N_THERE = 8 * 14 * 20, 8 * 3 * 4


def script_of(run: subprocess.Popen[str]) -> psutil.Process:
    """The process of the sweep's script."""
    (script,) = [child for child in psutil.Process(run.pid).children(recursive=True) if child.cmdline()[-1].endswith("step.py")]
    return script


def work_on(process: psutil.Process, seconds: float) -> None:
    """Until it has used so much processor time more: how long that takes depends on what else the machine does."""
    until, deadline = process.cpu_times().user + seconds, time.monotonic() + 60
    while process.cpu_times().user < until and time.monotonic() < deadline:
        time.sleep(0.02)


def first_lines(log: Path) -> str:
    """The sweep's log once it tells how much there is to compute."""
    deadline = time.monotonic() + 120
    while not (log.is_file() and "to compute" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return log.read_text()


def log_of_the_next_run(folder: Folder) -> str:
    """The first line of the sweep's log when the same command is given again."""
    log = folder.path / LOG
    log.unlink()
    run = folder.start(TARGET)
    first_lines(log)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    return log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to_all", "signals"),
    [
        pytest.param(False, [signal.SIGTERM], marks=pytest.mark.exhaustive),
        pytest.param(True, [signal.SIGTERM], marks=pytest.mark.exhaustive),
        (True, [signal.SIGINT] * 3),
    ],
    ids=["script", "every process", "Ctrl-C three times"],
)
def test_a_stop_keeps_what_is_finished(finished: Folder, tmp_path: Path, to_all: bool, signals: list[signal.Signals]) -> None:
    folder = finished.copy(tmp_path / "repo")
    folder.edit("micro", sweep=SWEEP)
    before = folder.parts()["generations"]
    (folder.path / LOG).unlink()
    run = folder.start(TARGET, cold=True, part_seconds=2)
    first_lines(folder.path / LOG)
    script = script_of(run)
    loaded = script.cpu_times().user
    deadline = time.monotonic() + 300
    while not (first := folder.parts()["generations"] - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    work_on(script, script.cpu_times().user - loaded)  # at least one batch more, as the first part has at least one
    sent = time.monotonic()
    for number in signals:
        if to_all:
            os.killpg(run.pid, number)
        else:
            script.send_signal(number)
        time.sleep(0.3 * (len(signals) > 1))
    script.wait(timeout=60)
    assert time.monotonic() - sent < 10
    output, _ = run.communicate(timeout=60)
    assert "Traceback" not in output
    is_user = signals[0] == signal.SIGINT
    assert ("Stopping: the jobs write out what they have finished" in output, "Error" in output) == (is_user, not is_user)
    assert run.returncode != 0
    kept = folder.parts()["generations"] - before
    assert kept > first, "rows that were finished, but in no part yet, were dropped"
    assert "told to stop (SIGTERM); rows finished so far are kept" in output
    n_kept = sum(pl.read_parquet(part).height for part in kept)
    assert f"{N_WANTED} keys wanted, {N_WANTED - N_THERE - n_kept} to compute" in log_of_the_next_run(folder)


PROGRAM = """
import os, signal
from saesteer.workflow.job import Stop
stop = Stop()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except {swallowed}:
    pass
os.kill(os.getpid(), signal.SIGTERM)  # once more, while rows are written out
print("writing out", flush=True)
stop.check()
print("still computing", flush=True)
"""


@pytest.mark.parametrize(("swallowed", "printed"), [("BaseException", "writing out\n"), ("ZeroDivisionError", "")])
def test_the_signal_is_neither_lost_nor_disturbing(swallowed: str, printed: str) -> None:
    """Library code that swallows every exception only delays the exit to the next batch; a second signal changes nothing."""
    program = PROGRAM.format(swallowed=swallowed)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, printed)


FETCHING = """
import asyncio, os, signal, sys
from functools import partial
from saesteer.sources.http import as_finished, as_they_come
from saesteer.workflow.job import Stop

async def job(number):
    for _ in range(3):
        await asyncio.sleep(0.001)
    return number

async def results():
    async for number in as_finished([partial(job, number) for number in range(4)], 2):
        yield number

def stopped_before_callback(number):
    n_callbacks = 0
    def profile(frame, event, arg):
        nonlocal n_callbacks
        if event == "call" and frame.f_code is asyncio.Handle._run.__code__:
            n_callbacks += 1
            if n_callbacks == number:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGTERM)
    stop = Stop()
    signal.alarm(5)  # a child that hangs is killed by SIGALRM
    sys.setprofile(profile)
    try:
        for _ in as_they_come(results()):
            stop.check()
    except BaseException:
        stop.check()
        raise

for number in range(1, 26):
    child = os.fork()
    if not child:
        try:
            stopped_before_callback(number)
        except SystemExit as stopped:
            os._exit(stopped.code)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_the_signal_does_not_break_the_event_loop_at_any_of_its_callbacks() -> None:
    done = subprocess.run([sys.executable, "-c", FETCHING], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == [str(128 + signal.SIGTERM)] * 25, done.stderr
