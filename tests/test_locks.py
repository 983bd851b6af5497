"""Who holds a folder's lock, what a killed run left in SLURM's queue, and what goes along into jobs. Stand-ins for SLURM's commands."""

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from workflow_folder import Folder

from saesteer.cli import app
from saesteer.workflow.locks import cancel_left_jobs, explain_lock, left_jobs, put_before_slurm, record_run, stale_locks

ROOT = Path(__file__).parents[1]


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A folder with a lock that nobody alive on this host holds."""
    lock = tmp_path / ".snakemake/locks/0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    return tmp_path


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def queue(locked: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of a SLURM in whose queue are two jobs of a run in the folder, one put there by hand, and one of another folder."""
    commands = tmp_path_factory.mktemp("bin")
    rows = [f"11|{locked}|rule_sweep_wildcards_micro", f"12|{locked}|rule_perplexity", f"13|{locked}|(null)", "14|/elsewhere|rule_sweep"]
    (commands / "rows").write_text("\n".join(rows) + "\n")
    command(commands, "squeue", f"cat {commands}/rows")
    command(commands, "scancel", f'echo "$@" >> {commands}/cancelled; : > {commands}/rows')
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return commands


def set_host(folder: Path, host: str) -> None:
    record_run(folder)
    (path,) = (folder / ".snakemake").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": host, "process": 123}))


def test_a_run_recorded_on_this_host_is_looked_for_here(locked: Path) -> None:
    record_run(locked)  # by this process, which is no snakemake
    assert stale_locks(locked)[1] is None


@pytest.mark.parametrize(("mode", "alive"), [([], True), (["--mode", "remote"], False)])
def test_a_lock_is_removed_unless_its_run_is_alive(locked: Path, mode: list[str], alive: bool) -> None:
    """A process called snakemake that works in the folder stands in for a run; those that a run started for its jobs are none."""
    program = locked / "snakemake"
    program.write_text("import sys, time; print(flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, str(program), *mode], cwd=locked, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        result = CliRunner().invoke(app, ["unlock", "--folder", str(locked)])
        process.kill()
    refusal, removal = f"a workflow is running here (process {process.pid})", "removed the lock of a run that is gone"
    assert (result.exit_code, refusal in result.output, removal in result.output) == (int(alive), alive, not alive)
    assert bool(stale_locks(locked)[0]) == alive
    assert CliRunner().invoke(app, ["unlock", "--folder", str(locked)]).exit_code == 0  # with no lock there is nothing to say


@pytest.mark.parametrize("command", [["unlock"], ["gc", "--remove"], ["push"], ["pull"]])
def test_what_must_not_happen_during_a_run_is_refused(locked: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    set_host(locked, "login01")
    monkeypatch.chdir(locked)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "a workflow is running here (process 123 on login01, not seen from here; if it is gone: snakemake --unlock)" in result.output


def test_a_lock_is_explained_with_the_one_command_to_give(locked: Path, caplog: pytest.LogCaptureFixture) -> None:
    snakemakes = logging.getLogger("snakemakes")
    explain_lock(locked, snakemakes)
    assert "Give the command `saesteer unlock`, then the same command again." in caplog.text
    caplog.clear()
    next((locked / ".snakemake/locks").iterdir()).unlink()
    explain_lock(locked, snakemakes)
    assert caplog.text == ""


@pytest.mark.slow
def test_a_second_run_is_told_to_wait_and_not_to_unlock(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    lock = folder.path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("data/micro/pins/model.json\n")
    set_host(folder.path, "login01")
    code, output = folder.run(cold=True)
    assert code == 1
    assert "A workflow is running in this folder (process 123 on login01" in output
    assert "--unlock argument" not in output


def test_jobs_that_a_killed_run_left_are_cancelled(locked: Path, queue: Path) -> None:
    assert left_jobs(locked) == ["11", "12"]
    cancel_left_jobs(locked)
    assert (queue / "cancelled").read_text() == "11 12\n"


def test_jobs_of_a_run_that_may_be_alive_are_left_alone(locked: Path, queue: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_host(locked, "login01")
    with caplog.at_level(logging.WARNING):
        cancel_left_jobs(locked)
    assert "scancel 11 12" in caplog.text
    assert not (queue / "cancelled").exists()


def variables_of_a_job(queue: Path, environment: dict[str, str]) -> dict[str, str]:
    """What the real sbatch, and so a job, is given."""
    command(queue, "sbatch", 'env -0; echo "$@"')
    environment = {"PATH": f"{ROOT}/slurm/bin:{os.environ['PATH']}"} | environment
    done = subprocess.run(["sbatch", "--wrap", "a  b"], env=environment, capture_output=True, text=True, check=True)
    *variables, arguments = done.stdout.split("\0")
    assert arguments == "--wrap a  b\n"
    return dict(variable.split("=", 1) for variable in variables)


def test_the_sbatch_before_the_real_one_passes_what_a_job_needs(queue: Path) -> None:
    named = ["HF_TOKEN", "OPENAI_API_KEY", "GITHUB_PAT", "DATABASE_URL", "DB_PASSWD", "SLURM_JWT", "http_proxy", "KUBECONFIG", "MY_LOGIN"]
    like_needed = ["HF_HUB_TOKEN", "CONDA_TOKEN", "PYTHON_AUTH", "XPATH", "PATHS", "path", "BASH_FUNC_x%%", "A\nHOME"]
    needed = {"TOKENIZERS_PARALLELISM": "false", "LD_LIBRARY_PATH": "/opt/lib:/lib", "HF_HOME": "two  words", "LC_ALL": "C"}
    needed |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1\nHF_ENDPOINT=x", "PYTHONPATH": "$(id) \"`'\\", "SLURM_CONF": "/etc/s"}
    seen = variables_of_a_job(queue, dict.fromkeys([*named, *like_needed], "() { secret; }") | needed)
    assert {name: seen.get(name) for name in needed} == needed
    assert set(seen) - needed.keys() <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}, "those that a shell makes"
    assert "secret" not in str(seen)
    assert seen["PATH"] == os.environ["PATH"]


def test_further_variables_go_along_where_the_configuration_names_them(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESTEER_JOB_VARIABLES", "of an earlier run")
    put_before_slurm(ROOT / "slurm/bin", ("LICENCE_KEY", "NOT_THERE"))
    further = {"LICENCE_KEY": "1", "LICENCE": "2", "SAESTEER_JOB_VARIABLES": os.environ["SAESTEER_JOB_VARIABLES"]}
    seen = variables_of_a_job(queue, further)
    assert seen["LICENCE_KEY"] == "1"
    assert not seen.keys() & {"LICENCE", "NOT_THERE", "SAESTEER_JOB_VARIABLES"}


def test_without_accounting_the_sacct_before_the_real_one_asks_the_queue(queue: Path) -> None:
    command(queue, "sacct", "exit 1")
    command(queue, "squeue", 'echo "asked: $@"')
    environment = {"PATH": f"{ROOT}/slurm/bin:{os.environ['PATH']}"}
    query = ["sacct", "-X", "--format=JobIdRaw,State", "--name", "run-id"]
    done = subprocess.run(query, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "asked: --noheader --states=all --format=%i|%T --name run-id\n"
    command(queue, "sacct", 'echo "7|COMPLETED"')
    assert subprocess.run(query, env=environment, capture_output=True, text=True, check=True).stdout == "7|COMPLETED\n"
