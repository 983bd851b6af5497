"""Break one line at a time, and see whether the tests that guard it fail: `python tests/mutants/run.py [PART OF A NAME]`.

Each file beside this one lists mutants of an area:

    [[mutant]]
    name = "a part is renamed before its bytes are on disk"
    file = "src/saesteer/core/files.py"
    line = "    _flush(partial)"      # whole lines, which stand in the file once
    becomes = "    pass"
    killed_by = "tests/test_crashes.py"  # what `make test` runs of it, so without the exhaustive tests; may go on with -k

Works on a copy of the files that git tracks, so that the checkout is never broken. Not in CI.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def mutants() -> list[dict[str, str]]:
    """Every mutant, by file and order."""
    return [mutant for file in sorted(Path(__file__).parent.glob("*.toml")) for mutant in tomllib.loads(file.read_text())["mutant"]]


def broken(mutant: dict[str, str], folder: Path) -> str:
    """The text of the mutant's file with its line broken."""
    text = (folder / mutant["file"]).read_text(encoding="utf-8")
    line, becomes = f"\n{mutant['line'].rstrip()}\n", f"\n{mutant['becomes'].rstrip()}\n"
    if text.count(line) != 1:
        raise SystemExit(f"mutant {mutant['name']!r}: its line stands {text.count(line)} times in {mutant['file']}")
    return text.replace(line, becomes)


def copy(folder: Path) -> None:
    """The tracked files, as they are in the working tree."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    listed = [name for name in files.decode().split("\0") if name]
    for name in listed:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)


def killed(mutant: dict[str, str], folder: Path) -> bool:
    """Whether a test fails with the line broken."""
    path = folder / mutant["file"]
    whole = path.read_text(encoding="utf-8")
    path.write_text(broken(mutant, folder), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-m", "not exhaustive", *shlex.split(mutant["killed_by"])]
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    try:
        code = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode
    finally:
        path.write_text(whole, encoding="utf-8")
    if code not in (0, 1):
        raise SystemExit(f"mutant {mutant['name']!r}: pytest ended with {code}: {shlex.join(command)}")
    return code == 1


def main(part: str = "") -> None:
    chosen, survivors = [mutant for mutant in mutants() if part in mutant["name"]], 0
    with tempfile.TemporaryDirectory() as scratch:
        copy(Path(scratch))
        for mutant in chosen:
            is_killed = killed(mutant, Path(scratch))
            sys.stdout.write(f"{'killed  ' if is_killed else 'SURVIVED'} {mutant['name']}\n")
            sys.stdout.flush()
            survivors += not is_killed
    if survivors:
        raise SystemExit(f"{survivors} of {len(chosen)} mutants survived")


if __name__ == "__main__":
    main(*sys.argv[1:])
