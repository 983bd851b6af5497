"""Snakemake's metadata on disk: its record of each output file (what its job's parameters, code and inputs were), and its locks.

Snakemake keeps the records in .snakemake/metadata, which cannot travel: it holds times of this machine. The fields below are those by which
Snakemake decides whether an output is up to date; the rest is made anew where the output is adopted.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saesteer.core.files import write_text
from saesteer.sharing.commands import SharingError, check_release

RELEASE = "9.27"
LOCKS = Path(".snakemake/locks")
METADATA = Path(".snakemake/metadata")
INCOMPLETE = Path(".snakemake/incomplete")
FORMAT = 6
FIELDS = ("rule", "input", "log", "params", "shellcmd", "code", "container_img_url", "software_stack_hash", "record_format_version")
MAX_CHECKSUM_BYTES = 1_000_000
"""Snakemake remembers checksums of inputs up to this size (its --max-checksum-file-size); newer but equal ones are no change."""
_LONGEST_NAME = 255


def lock_files(folder: Path) -> list[Path]:
    """The locks of a run in the folder, alive or not."""
    return sorted((folder / LOCKS).glob("*.lock"))


def read_record(folder: Path, output: str) -> dict[str, Any] | None:
    """The fields of an output's record that do not depend on machine and time; None when Snakemake has no record."""
    check_release("snakemake", RELEASE)
    path = _path(folder / METADATA, output)
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    version = values.get("record_format_version")
    if version != FORMAT:
        raise SharingError(f"{output}: Snakemake's record has format {version}, not {FORMAT}: use the Snakemake of requirements.lock")
    return {name: values[name] for name in FIELDS}


def write_record(folder: Path, output: str, record: Mapping[str, Any], input_digests: Mapping[str, str], moment: float) -> None:
    """Tell Snakemake that `output` was made, at `moment` (seconds since 1970), by the job that the record describes."""
    check_release("snakemake", RELEASE)
    small = {name: digest for name, digest in input_digests.items() if (folder / name).stat().st_size <= MAX_CHECKSUM_BYTES}
    values = {
        **record,
        "starttime": moment,
        "endtime": moment,
        "incomplete": False,
        "external_jobid": None,
        "job_hash": None,
        "conda_env": None,
        "input_checksums": {name: f"sha256:{digest}" for name, digest in small.items()},
    }
    (folder / INCOMPLETE).mkdir(parents=True, exist_ok=True)  # or Snakemake takes the records for those of an old version
    write_text(_path(folder / METADATA, output), json.dumps(values))
    _path(folder / INCOMPLETE, output).unlink(missing_ok=True)


def drop_record(folder: Path, output: str) -> None:
    """Forget an output."""
    _path(folder / METADATA, output).unlink(missing_ok=True)
    _path(folder / INCOMPLETE, output).unlink(missing_ok=True)


def _path(records: Path, output: str) -> Path:
    """Where Snakemake keeps the record: base64 of the output's name, cut into folders where it is longer than a file name can be."""
    name = urlsafe_b64encode(output.encode()).decode()
    pieces = [name[start : start + _LONGEST_NAME - 1] for start in range(0, len(name), _LONGEST_NAME - 1)]
    return records.joinpath(*[f"@{piece}" for piece in pieces[:-1]], pieces[-1])
