"""Where results are shared: an S3 server, a remote that cannot be reached, a push that is killed."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from sharing_folders import Clone, clone_of, damage, damaged_objects, first_clone, objects
from workflow_folder import BIN, Folder

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an S3 server on this machine, with a bucket `results`; credentials come from the environment."""
    address = f"http://127.0.0.1:{(port := _free_port())}"
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as output:
        server = subprocess.Popen([str(BIN / "moto_server"), "--port", str(port)], stdout=output, stderr=output)
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test", "AWS_DEFAULT_REGION": "us-east-1"}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="results")
    yield address
    server.kill()
    server.wait()


def test_s3(finished: Folder, s3: str, tmp_path: Path) -> None:
    first = first_clone(tmp_path / "a", finished, "s3://results/saesteer", endpointurl=s3)
    first.tool("saesteer", "push", "micro")
    clone = clone_of(first, tmp_path / "b")
    output = clone.tool("saesteer", "pull")
    assert "micro: 58 outputs adopted, 0 to be made again" in output
    assert clone.has_nothing_to_do()
    tracked = [first.path / name for name in first.git("ls-files").splitlines()]
    assert not any(b"a-secret-of-this-test" in path.read_bytes() for path in tracked)


def test_a_remote_that_cannot_be_reached(finished: Folder, tmp_path: Path) -> None:
    """One message says what to do; git is untouched, nothing is lost, and the same command works when the remote is back."""
    clone = first_clone(tmp_path / "a", finished, "s3://results/none", endpointurl=f"http://127.0.0.1:{_free_port()}")
    head = clone.git("rev-parse", "HEAD")
    output = clone.tool("saesteer", "push", "micro", code=1)
    assert "the data could not be uploaded" in output
    assert "run the same command again" in output
    assert "Traceback" not in output
    assert clone.git("rev-parse", "HEAD") == head
    clone.tool("dvc", "remote", "add", "--quiet", "--local", "--default", "another", str(tmp_path / "store"))
    clone.tool("saesteer", "push", "micro")
    assert clone.git("rev-parse", "HEAD") == clone.git("rev-parse", "origin/main") != head


def test_a_push_killed_at_any_moment_is_finished_by_the_same_command(finished: Folder, tmp_path: Path) -> None:
    """Until it is, a colleague gets the last complete version; afterwards the new one."""
    first = first_clone(tmp_path / "a", finished, str(tmp_path / "store"))
    moments = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            [str(BIN / "saesteer"), "push", "micro"],
            cwd=first.path,
            env=first.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moments.uniform(1, 8))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (first.path / ".dvc/tmp/rwlock").write_text("")  # killed between emptying it and writing it
    assert "JSON structure is corrupted" in first.tool("dvc", "add", "data/micro/judge", code=None)
    first.tool("saesteer", "push", "micro")
    clone = clone_of(first, tmp_path / "b")
    assert "0 to be made again" in clone.tool("saesteer", "pull")
    assert clone.has_nothing_to_do()


ENDS_BETWEEN_TWO_OUTPUTS = """
import os, sys
from dvc_data.index import DataIndex
from dvc.cli import main
whole = DataIndex.commit
def commit(self):
    whole(self)
    if sys._getframe(1).f_code.co_name == "collect":
        os._exit(9)
DataIndex.commit = commit
main([*sys.argv[1:], "--quiet"])
"""
"""`dvc push` or `dvc pull`, killed right after it has put down what the first output holds and before the second."""


def test_what_follows_a_push_or_pull_killed_while_it_collected_leaves_nothing_out(finished: Folder, tmp_path: Path) -> None:
    """DVC alone takes the list that the killed push left for whole: issue 10977 of DVC."""
    first = first_clone(tmp_path / "a", finished, str(store := tmp_path / "store"))
    first.tool("saesteer", "record", "micro")
    tracked = sorted(
        str(path.relative_to(first.path).with_suffix("")) for kind in ("data", "figures") for path in first.path.glob(f"{kind}/**/*.dvc")
    )
    first.tool(sys.executable, "-c", ENDS_BETWEEN_TWO_OUTPUTS, "push", *tracked, code=9)
    assert not store.exists()
    first.tool("dvc", "push", "--quiet", *tracked)
    assert len(objects(store)) < len(objects(first.path / ".dvc/cache"))
    first.tool("saesteer", "push", "micro")
    _has_everything(store, first)
    clone = clone_of(first, tmp_path / "b")
    clone.tool(sys.executable, "-c", ENDS_BETWEEN_TWO_OUTPUTS, "pull", *tracked, code=9)
    assert "58 outputs adopted, 0 to be made again" in clone.tool("saesteer", "pull")


def _has_everything(store: Path, clone: Clone) -> None:
    assert {path.relative_to(store) for path in objects(store)} == {
        path.relative_to(clone.path / ".dvc/cache") for path in objects(clone.path / ".dvc/cache")
    }
    assert damaged_objects(store) == []


def test_what_is_damaged_unfinished_or_uncommitted_is_not_published(finished: Folder, tmp_path: Path) -> None:
    clone = first_clone(tmp_path / "a", finished, str(tmp_path / "store"))
    part, manifest = min(clone.parts()["generations"]), "data/micro/generations/layers_02-06.json"
    damage(part)
    output = clone.tool("saesteer", "push", "micro", code=1)
    assert f"{part.relative_to(clone.path)} is damaged" in output
    assert f"`snakemake --force {manifest} --cores all " in output
    damage(part)  # the same bit again: sound
    (clone.path / manifest).rename(tmp_path / "aside")
    assert "39 of 58 outputs are not up to date" in clone.tool("saesteer", "push", "micro", code=1)
    (tmp_path / "aside").rename(clone.path / manifest)
    path = clone.path / "config/experiments/micro.yaml"
    path.write_text(path.read_text().replace("653]", "653, 700]"))
    assert "commit these first" in clone.tool("saesteer", "push", "micro", code=1)
    clone.git("checkout", "--quiet", str(path.relative_to(clone.path)))
    (clone.path / "settings/experiments").mkdir(parents=True)
    (clone.path / "settings/experiments/mine.yaml").write_text("extends: micro\n")
    (clone.path / "settings.yaml").write_text("experiments: [micro]\nexperiments_dirs: [config/experiments, settings/experiments]\n")
    refused = clone.tool("saesteer", "push", "micro", "--configfile", "settings.yaml", code=1)
    assert all(f"?? {name}" in refused for name in ("settings.yaml", "settings/"))
    path.write_text(path.read_text().replace("653]", "653, 700]"))
    (clone.path / "config/elsewhere.yaml").write_text(f"experiments: [micro]\ndata_dir: {tmp_path}/scratch\n")
    clone.commit("A feature that is not computed yet")
    output = clone.tool("saesteer", "push", "micro", code=1)
    assert "51 of 58 outputs are not up to date, so run the workflow first" in output
    output = clone.tool("saesteer", "push", "micro", "--configfile", "config/elsewhere.yaml", code=1)
    assert "lies outside data and figures" in output
    assert not (clone.path / "provenance").exists()
    assert not (tmp_path / "store").exists()
