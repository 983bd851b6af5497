"""A project: a folder with a configuration of its own, in which the installed workflow runs and leaves its results."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from saesteer.core.files import confined, write_text
from saesteer.core.shipped import SHIPPED
from saesteer.core.yaml_1_2 import quoted, read_yaml
from saesteer.settings import Experiment, SettingsError
from saesteer.sharing.commands import SharingError, dvc, git, git_top

_COPIED = ("config/*.*", "slurm/config.yaml", ".gitattributes", ".gitignore", ".dvcignore")
"""Files of a project that are copies of the shipped ones."""
_SNAKEFILE = '''"""saesteer's workflow, as it is installed. Rules of your own can follow below."""

from saesteer.core.shipped import SHIPPED


configfile: "config/config.yaml"


include: str(SHIPPED / "Snakefile")


rule project:
    """What the configuration names; the first rule of this file is what `snakemake` makes."""
    input:
        rules.all.input,
'''


def check_configfile(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse a configuration of which Snakemake, which reads YAML 1.1, has other `values` than YAML 1.2."""
    for (key, value), (other_key, other) in zip(_leaves(read_yaml(path)), _leaves(values), strict=False):
        if key != other_key or (value != other and not isinstance(other, str)):
            raise SettingsError(
                f"{path}: {other_key} is {other!r} by YAML 1.1, as which Snakemake reads it, but {key}: {value!r} by YAML 1.2: put"
                " quotes around a text, and write a number plainly"
            )


def _leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is no section and no list, with its key, such as `experiments.0`."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else None
    if items is None:
        yield key, values
    else:
        for name, value in items:
            yield from _leaves(value, f"{key}.{name}" if key else str(name))


def write_project(folder: Path, experiment: str | None = None) -> None:
    """Make a folder a project: its own configuration, a Snakefile that includes the installed workflow, and git and DVC set up. Nothing is
    overwritten. The configuration names the experiment, or the shipped ones, whose model is copied here when they run."""
    top = git_top(folder)
    for source in (path for pattern in _COPIED for path in sorted(SHIPPED.glob(pattern))):
        path = folder / source.relative_to(SHIPPED)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
    if experiment:
        _run_alone(experiment, folder / "config/config.yaml")
    if not (folder / "Snakefile").exists():
        write_text(folder / "Snakefile", _SNAKEFILE)
    if not (folder / ".dvc").exists():
        _set_up_dvc(folder, top)


def _run_alone(name: str, configfile: Path) -> None:
    text, n_named = re.subn(
        r"^experiments: .*$", f"experiments: [{quoted(name)}]", configfile.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    text, n_methods = re.subn(r"^methods: .*$", "methods: []", text, flags=re.MULTILINE)
    if (n_named, n_methods) != (1, 1):
        raise SettingsError(f"{configfile} has no line `experiments:` or `methods:`: name {name} in it yourself")
    write_text(configfile, text.replace("The shipped experiment", "The experiments", 1))


def _set_up_dvc(folder: Path, top: Path | None) -> None:
    """DVC, and where there is none git."""
    if top is None:
        git(folder, "init", "--quiet")
    below = [] if top in (None, folder.resolve()) else ["--subdir"]
    if not dvc(folder, "init", *below) or not dvc(folder, "config", "core.analytics", "false"):
        raise SharingError("DVC could not be set up (above: why); the project is written and runs, its results cannot be shared yet")


def bring_inputs(experiment: Experiment) -> list[Path]:
    """Copy here those files and folders that an experiment reads, that are not here, and that come with the package. They are a project's
    own from then on, as results depend on them. Gives what was copied."""
    brought = []
    for path in dict.fromkeys(input_paths(experiment)):
        source = confined(SHIPPED, path.as_posix())
        if source is None or not source.exists() or path.exists():
            continue
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, partial, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, partial)
        partial.rename(path)
        brought.append(path)
    return brought


def input_paths(experiment: Experiment) -> Iterator[Path]:
    """Every path that an experiment names."""
    yield from _paths(experiment)
    if experiment.saes.path:
        yield from (Path(experiment.saes.path.format(layer=layer)) for layer in experiment.layers)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _paths(item)
