"""Pins: what a model folder or a data file holds, as a small JSON that steps' fingerprints are made from."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from saesteer.core.files import file_digest, value_digest, write_text
from saesteer.core.hook_points import MODULE_OUTPUTS
from saesteer.core.store import read_manifest
from saesteer.settings import Experiment, ModelSource, SettingsError, Sweep
from saesteer.sources.embedding_model import POOLING
from saesteer.sources.published import cached_path

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "additional_chat_templates/*.jinja", POOLING)
"""Patterns of the files that count of a folder with a model, or a world's judge: weights, settings, chat templates and vocabularies, so all
that transformers reads there. Of the rest (cards, licences, pickled weights, code) nothing is read."""
SAE_FILES = ("**/*.safetensors", "**/*.json", "**/*.npz", "**/*.pt")
"""Files that count in a folder with SAEs."""

_ROWS = 8192  # read at a time
MODELS = ("model", "perplexity_model", "judge_model")
"""Names of pins that are models, and can come from elsewhere."""
PIN_KEYS = {
    "model": "model.path", "perplexity_model": "perplexity.model.path", "judge_model": "judge.model.path",
    "texts": "max_activating_examples.texts", "topics": "concepts.topics", "oracle": "judge.oracle", "lexicon": "methods.concepts.lexicon",
    "labelled_texts": "methods.concepts.texts", "vectors": "methods.vectors", "ordinary_texts": "methods.ordinary_texts",
}  # fmt: skip
"""Name of what can be pinned -> the key of the experiment file that names the folder or file."""


def _at(experiment: Experiment, key: str) -> Any:
    """The value of a key such as model.path; None where the experiment has no such key."""
    value: Any = experiment
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def model_settings(experiment: Experiment, name: str) -> ModelSource:
    """The settings of the model behind a pin's name."""
    settings = _at(experiment, PIN_KEYS[name].removesuffix(".path"))
    assert isinstance(settings, ModelSource)
    return settings


def pinned_path(experiment: Experiment, name: str) -> Path | None:
    """The folder or file behind each name that can be pinned; None for a model that has to be fetched or converted, and where there is
    none."""
    value = _at(experiment, PIN_KEYS[name])
    if name in MODELS and value is not None:
        return model_settings(experiment, name).folder
    return value if isinstance(value, Path) else None  # the texts of a published list of concepts are the key of a file


def pmi_file(experiment: Sweep, downloads: Path) -> Path | None:
    """The texts whose co-occurrences are counted for PMI: a published corpus, the experiment file's, or those of local max-activating
    examples."""
    if experiment.pmi.published:
        return cached_path(experiment.pmi.published, downloads)
    return experiment.pmi.texts or (experiment.local_examples.texts if experiment.local_examples else None)


def pinned_files(path: Path, patterns: tuple[str, ...] = MODEL_FILES) -> list[Path]:
    """The files that count: the file itself, or of a folder those of some patterns."""
    if path.is_file():
        return [path]
    files = sorted(file for pattern in patterns for file in path.glob(pattern))
    if not files:
        endings = " or ".join(pattern.rpartition("*")[2] for pattern in patterns)
        raise SettingsError(f"{path} is neither a file nor a folder with {endings} files; check the path in the experiment file")
    return files


def pin(
    path: Path, revision: str | None = None, patterns: tuple[str, ...] = MODEL_FILES, digest: Callable[[Path], str] = file_digest
) -> dict[str, Any]:
    """Digests of the files behind a path. The path itself is no part of the digest: the same bytes elsewhere are the same model."""
    above = path.parent if path.is_file() else path
    files = {file.relative_to(above).as_posix(): digest(file) for file in pinned_files(path, patterns)}
    _refuse_weights_elsewhere(path / "model.safetensors.index.json", files)
    return {"path": str(path), "revision": revision, "files": files, "digest": value_digest([revision, files])}


def known_digest(file: Path, folder: Path) -> str:
    """`file_digest`, noted in a folder for as long as the file keeps its size, times and place on the disk. Nothing that replaces a file,
    or writes to it, leaves its ctime as it was."""
    status = file.stat()
    about = [str(file.resolve()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    note = folder / f"{value_digest(about)}.txt"
    if not note.is_file():
        write_text(note, file_digest(file))
    return note.read_text(encoding="utf-8")


def check_model_is_pinned(settings: ModelSource, pinned: Path, digests: Path) -> None:
    """Refuse a model that is no longer the one of the results beside its pin. `digests` is the folder of `known_digest`."""
    if settings.folder:
        check_is_pinned(settings.folder, settings.revision, pinned, digests)
        return
    of_results = json.loads(pinned.read_text(encoding="utf-8"))
    named = [settings.name, settings.package.sha256 if settings.package else of_results["revision"]]
    if named != [of_results["path"], of_results["revision"]]:
        raise _another(settings.name, pinned)


def check_is_pinned(path: Path, revision: str | None, pinned: Path, digests: Path) -> None:
    """The same of a folder or file."""
    of_results = json.loads(pinned.read_text(encoding="utf-8"))
    if pin(path, revision, digest=partial(known_digest, folder=digests))["digest"] != of_results["digest"]:
        raise _another(path, pinned)


def _another(name: str | Path, pinned: Path) -> SettingsError:
    return SettingsError(
        f"{name} is not that of the results (by {pinned}): either give that one back, or `touch` the new files and run the workflow, which"
        " computes anew what depends on them"
    )


def _refuse_weights_elsewhere(index: Path, files: Mapping[str, str]) -> None:
    """Refuse an index that names weights which are not in the pin, though transformers would load them."""
    named = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values() if index.is_file() else ()
    if elsewhere := sorted(set(named) - files.keys()):
        raise SettingsError(
            f"{index} names {elsewhere[0]}, which is not in the folder itself: put all weights there, or fetch the model again"
        )


def pin_of_fetched(repo: str, commit: str, files: Mapping[str, str]) -> dict[str, Any]:
    """The pin of a model from the hub: its files' SHA-256, taken when they were fetched. Where they lie is no part of it."""
    return {"path": repo, "revision": commit, "files": dict(files), "digest": value_digest([commit, dict(files)])}


def fetched_folder(fetched: Path) -> Path:
    """Where a fetch rule put something, by the file that it left."""
    if not fetched.is_file():
        raise FileNotFoundError(f"{fetched} is missing: run the workflow on this machine, which fetches what the experiment needs")
    folder = Path(json.loads(fetched.read_text(encoding="utf-8"))["folder"])
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is gone, though {fetched} says that it was fetched: delete that file and run again to fetch anew"
        )
    return folder


def converted_sae(manifest: Path, fetched: Path | None, layer: int) -> Path:
    """The converted SAE of a layer: beside its manifest, or where SAEs from the hub were put (`fetched`)."""
    entry = read_manifest(manifest)["layers"][str(layer)]
    if fetched is None:
        return manifest.parent / str(entry["file"])
    file = fetched_folder(fetched) / entry["file"]
    if file.is_file() and _sha256_beside(file) != json.loads(fetched.read_text(encoding="utf-8"))["layers"][str(layer)]["sha256"]:
        raise SettingsError(
            f"{file} is another SAE than {fetched} says, by a project that shares the folder: delete {fetched} and run again, which"
            " fetches it anew"
        )
    return file


def _sha256_beside(converted: Path) -> str:
    """What the JSON beside a converted file says of its bytes."""
    return str(json.loads(converted.with_suffix(".json").read_text(encoding="utf-8"))["sha256"])


def is_current(converted: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a converted file is there, sound, and by the JSON beside it made from what is expected, in an experiment's settings."""
    record = converted.with_suffix(".json")
    if not (converted.is_file() and record.is_file()):
        return False
    values = json.loads(record.read_text(encoding="utf-8"))
    values["hook_point"] = MODULE_OUTPUTS.get(values["hook_point"], values["hook_point"])
    return expected.items() <= values.items() and values["sha256"] == file_digest(converted)


def sae_entry(meta: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A converted SAE's entry in the manifest of its layers: what results depend on, where it lies beside the manifest, and its bytes."""
    further = [meta[name] for name in ("k", "scale") if meta[name] is not None]  # results of SAEs without them stay valid
    further += ["if the model has LayerNorm"] if meta["centred"] and meta["scale"] != "std" else []
    fingerprint = value_digest([meta["sha256"], meta["hook_point"], meta["centred"], *further])
    return {"fingerprint": fingerprint, "file": file.name, "sha256": meta["sha256"], "decoder_norm": _decoder_norms(file)}


def _decoder_norms(file: Path) -> float | list[float]:
    """The norm of each decoder row to three digits; one number where all are equal."""
    with safe_open(file, framework="np") as opened:
        decoder = opened.get_slice("W_dec")
        n_rows = decoder.get_shape()[0]
        parts = (decoder[start : min(start + _ROWS, n_rows)].astype(np.float64) for start in range(0, n_rows, _ROWS))
        rounded = [float(f"{norm:.3g}") for part in parts for norm in np.linalg.norm(part, axis=1)]
    return rounded[0] if len(set(rounded)) == 1 else rounded
