"""A real SLURM on this machine: munged, slurmctld and slurmd as one node with pretend GPUs, and a CPU for each of them."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from workflow_folder import BIN, Folder

TOKENS = {"HF_TOKEN": "hf_of_this_host", "OPENAI_API_KEY": "sk-of-this-host"}
# Built in: the job step strips SLURM_* variables, so SLURM_CONF would not reach the commands inside a job.
CONFIGURATION = Path("/etc/slurm")
OURS = b"# Written by saesteer's tests\n"
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")


def why_not() -> str | None:
    """Why no SLURM can be started here; None when it can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if absent:
        return f"no {', '.join(absent)} on this machine: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "a SLURM node is started by root only"
    if subprocess.run(["pgrep", "-x", "slurmctld|slurmd"], capture_output=True, check=False).returncode == 0:
        return "a SLURM is running on this machine already, and is left alone"
    return None


class Node:
    """The daemons, and what SLURM says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.runs: list[ClusterRun] = []

    def start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                [name, *arguments], stdout=output, stderr=output, env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
            )

    def stop(self, name: str) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    @contextmanager
    def controller_down(self) -> Iterator[None]:
        self.stop("slurmctld")
        try:
            yield
        finally:
            self.start("slurmctld", "-D")

    def run(self, folder: Folder, *arguments: str, profile: Path | None = None, **settings: object) -> "ClusterRun":
        """Start `snakemake --profile slurm`, or another profile, in a folder."""
        self.runs.append(ClusterRun(folder, *arguments, profile=profile or folder.root / "slurm", **settings))
        return self.runs[-1]

    def jobs(self, state: str | None = None) -> dict[str, dict[str, str]]:
        """Id -> what scontrol says of each job (with its GPUs while it runs), oldest first."""
        done = subprocess.run(["scontrol", "show", "job", "--details", "--oneliner"], capture_output=True, text=True, check=False)
        rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in done.stdout.splitlines()]
        by_id = {row["JobId"]: row for row in rows if "JobId" in row and state in (None, row["JobState"])}
        return dict(sorted(by_id.items(), key=lambda item: int(item[0])))

    def is_ready(self) -> bool:
        done = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False)
        return "idle" in done.stdout.split()


def wait_for(what: str, holds: Callable[[], object], seconds: float = 60) -> None:
    """Until it holds; fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.1)


def _settings(folder: Path, n_gpus: int) -> dict[str, str]:
    """Configuration files' texts by name; no accounting, as on many small clusters."""
    host = os.uname().nodename
    gpus = ",".join(str(folder / f"gpu{number}") for number in range(n_gpus))
    slurm = f"""
        ClusterName=test
        SlurmctldHost={host}(127.0.0.1)
        AuthType=auth/munge
        CredType=cred/munge
        AuthInfo=socket={folder}/munge/socket
        SlurmUser=root
        SlurmdUser=root
        SlurmctldPort=16817
        SlurmdPort=16818
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd.pid
        SlurmctldLogFile={folder}/slurmctld.log
        SlurmdLogFile={folder}/slurmd.log
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        SwitchType=switch/none
        MpiDefault=none
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core_Memory
        JobAcctGatherType=jobacct_gather/linux
        JobAcctGatherFrequency=task=2
        JobAcctGatherParams=OverMemoryKill
        AccountingStorageType=accounting_storage/none
        SlurmdParameters=config_overrides
        SchedulerParameters=sched_interval=2,batch_sched_delay=0
        MinJobAge=3600
        ReturnToService=2
        GresTypes=gpu
        NodeName={host} NodeAddr=127.0.0.1 CPUs={n_gpus} RealMemory=8000 Gres=gpu:{n_gpus} State=UNKNOWN
        PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
        PartitionName=cpu Nodes={host} MaxTime=INFINITE State=UP
    """
    lines = "\n".join(line.strip() for line in slurm.splitlines() if line.strip())
    return {"slurm.conf": lines + "\n", "gres.conf": f"NodeName={host} Name=gpu File={gpus}\n"}


@contextmanager
def _configured(folder: Path, n_gpus: int) -> Iterator[None]:
    """Configuration files in their built-in place; whatever was there comes back, unless a killed run of these tests left it: with a
    controller that is gone, every `snakemake` waits ten seconds for it."""
    settings = {CONFIGURATION / name: OURS + text.encode() for name, text in _settings(folder, n_gpus).items()}
    there = {path: path.read_bytes() for path in settings if path.is_file()}
    CONFIGURATION.mkdir(parents=True, exist_ok=True)
    try:
        for path, text in settings.items():
            path.write_bytes(text)
        yield
    finally:
        for path in settings:
            path.unlink(missing_ok=True)
            if not (old := there.get(path, OURS)).startswith(OURS):
                path.write_bytes(old)


@contextmanager
def running_node(folder: Path, n_gpus: int = 2) -> Iterator[Node]:
    """Start everything, wait until the node is idle; stop everything and every job at the end, come what may."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    for name in (*(f"gpu{number}" for number in range(n_gpus)), "munge/key"):
        (folder / name).touch(mode=0o600)
    (folder / "munge/key").write_bytes(os.urandom(128))
    node = Node(folder)
    places = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    with _configured(folder, n_gpus):
        try:
            node.start("munged", "--foreground", "--force", *(f"--{flag}={folder}/munge/{name}" for flag, name in places.items()))
            wait_for("munged", (folder / "munge/socket").exists, 20)
            node.start("slurmctld", "-D")
            node.start("slurmd", "-D")
            wait_for("an idle SLURM node", node.is_ready, 60)
            yield node
        finally:
            for run in node.runs:
                run.kill()
            subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], capture_output=True, check=False, timeout=30)
            for name in reversed(list(node.daemons)):
                node.stop(name)


class ClusterRun:
    """`snakemake --profile` at work in a folder; what it prints goes to a file."""

    def __init__(self, folder: Folder, *arguments: str, profile: Path, **settings: object) -> None:
        self.printed = folder.path / "printed.txt"
        command = [BIN / "python", Path(__file__).with_name("often_asking.py"), "--profile", profile]
        command += ["--snakefile", folder.root / "Snakefile", *arguments]
        command += ["--config", *(f"{key}={value}" for key, value in settings.items())] if settings else []
        with self.printed.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder.path, env=folder.environment | TOKENS, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def finish(self, seconds: float = 600) -> tuple[int, str]:
        code = self.process.wait(timeout=seconds)
        return code, self.printed.read_text()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def queries(self, since: float) -> set[int]:
        """Processes in which it asks the controller, begun since then and without an answer yet."""
        children = (one.info for one in psutil.process_iter(["pid", "ppid", "name", "create_time"]))
        own = (child for child in children if child["ppid"] == self.process.pid and child["name"] in ("scontrol", "squeue"))
        return {child["pid"] for child in own if child["create_time"] >= since}

    def kill(self) -> None:
        """kill -9 of Snakemake and what it started on this host; its jobs in SLURM go on."""
        if self.is_alive:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def environment_of(process: Path) -> dict[str, str]:
    """The environment that a process was started with; empty when it has gone."""
    try:
        entries = (process / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
