"""What can be known about an experiment's files before any job starts: refused here, not after an hour of computing."""

import json
from pathlib import Path
from typing import Any

from saesteer.files import safetensors_fault
from saesteer.prefixes import read_prefixes
from saesteer.settings import Experiment, SettingsError


def check_files(name: str, experiment: Experiment) -> None:
    """Refuse an experiment whose model, SAEs, prefixes or texts are missing, damaged or do not fit each other. Reads headers only."""
    if absent := check_present_files(name, experiment):
        lines = "\n".join(f"  {line}" for line in absent)
        raise SettingsError(f"experiment {name} cannot run yet, files are missing (a dry run, -n, does without them):\n{lines}")


def check_present_files(name: str, experiment: Experiment) -> list[str]:
    """The same for the files that are there; what is not there is returned, one line each, since a dry run can do without it."""
    if not experiment.sweep.prefixes.is_file():
        raise SettingsError(f"experiment {name}: sweep.prefixes: there is no file {experiment.sweep.prefixes}")
    read_prefixes(experiment.sweep.prefixes, experiment.sweep.n_prefixes)
    if experiment.model.path.exists():
        _check_model(name, experiment)
    if experiment.perplexity.model.path.exists():
        _check_weights(experiment.perplexity.model.path)
    return [*_absent_paths(experiment), *_check_saes(name, experiment)]


def _absent_paths(experiment: Experiment) -> list[str]:
    paths = {
        "model.path": experiment.model.path,
        "perplexity.model.path": experiment.perplexity.model.path,
        "records.texts": experiment.records.texts,
        "concepts.topics": experiment.concepts.topics,
        "judge.oracle": experiment.judge.oracle,
    }
    return [f"{key}: there is no {'file' if path.suffix else 'folder'} {path}" for key, path in paths.items() if not path.exists()]


def _check_saes(name: str, experiment: Experiment) -> list[str]:
    """Check the SAEs that are there; one line about those that are not."""
    absent = []
    for layer in experiment.layers:
        folder = Path(experiment.saes.path.format(layer=layer))
        if (folder / "cfg.json").is_file():
            _check_sae(name, experiment, folder)
        else:
            absent.append((layer, folder))
    if not absent:
        return []
    layer, folder = absent[0]
    others = f" (nor have {len(absent) - 1} more layers)" if len(absent) > 1 else ""
    return [f"saes.path: layer {layer} has no SAE{others}: no {folder}/cfg.json; correct saes.path or drop the layer"]


def _check_model(name: str, experiment: Experiment) -> None:
    path = experiment.model.path
    _check_weights(path)
    config = _read_config(path / "config.json")
    width, n_layers = config["hidden_size"], config["num_hidden_layers"]
    if width != experiment.saes.d_model:
        raise SettingsError(f"experiment {name}: saes.d_model is {experiment.saes.d_model}, but {path} has a residual stream of {width}")
    beyond = [layer for layer in experiment.layers if layer >= n_layers]
    if beyond:
        raise SettingsError(f"experiment {name}: layers: {beyond} do not exist, {path} has layers 0 to {n_layers - 1}")


def _check_sae(name: str, experiment: Experiment, folder: Path) -> None:
    config = _read_config(folder / "cfg.json")
    given = (config["d_in"], config["d_sae"])
    expected = (experiment.saes.d_model, experiment.saes.n_features)
    if given != expected:
        raise SettingsError(
            f"experiment {name}: the SAE in {folder} is {given[0]} x {given[1]} (d_model x n_features),"
            f" but saes.d_model x saes.n_features is {expected[0]} x {expected[1]}"
        )
    _check_weights(folder)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is not readable as JSON: {error}") from error


def _check_weights(folder: Path) -> None:
    """Headers and lengths of safetensors files: a truncated or foreign file is refused by name."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SettingsError(f"there are no .safetensors weights in {folder}; check the path in the experiment file")
    for file in files:
        if fault := safetensors_fault(file):
            raise SettingsError(f"{file} is damaged, not readable as safetensors ({fault}): fetch or make it again")
