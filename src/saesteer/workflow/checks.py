"""What can be known about an experiment's files before any job starts: refused here, not after an hour of computing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saesteer.core.files import safetensors_fault
from saesteer.settings import Experiment, SettingsError
from saesteer.sources.features import resolve
from saesteer.sources.pins import pinned_path
from saesteer.sources.prefixes import read_prefixes
from saesteer.workflow import plan
from saesteer.workflow.families import DEPTH, WIDTH, refusal, size


def check_files(name: str, experiment: Experiment) -> None:
    """Refuse an experiment whose model, SAEs, prefixes or texts are missing, damaged or do not fit each other. Reads headers only."""
    if absent := check_present_files(name, experiment):
        lines = "\n".join(f"  {line}" for line in absent)
        raise SettingsError(f"experiment {name} cannot run yet, files are missing (a dry run, -n, does without them):\n{lines}")


def check_present_files(name: str, experiment: Experiment) -> list[str]:
    """The same for the files that are there; what is not there is returned, one line each, since a dry run can do without it.

    What comes from the hub is checked when it is fetched.
    """
    prefixes = experiment.sweep.prefixes
    if prefixes and not prefixes.is_file():
        raise SettingsError(f"experiment {name}: sweep.prefixes: there is no file {prefixes}")
    if prefixes:
        read_prefixes(prefixes, experiment.sweep.n_prefixes)
    _check_features(name, experiment)
    model = experiment.model.path
    if model and model.exists():
        check_model(name, experiment, model)
    for path in (
        experiment.perplexity.model.path,
        pinned_path(experiment, "judge_model") if "judge_model" in plan.pins(experiment) else None,
    ):
        if path and path.exists():
            _check_weights(path)
    return [*_absent_paths(experiment), *_check_saes(name, experiment)]


def _check_features(name: str, experiment: Experiment) -> None:
    """Refuse a resolved list that is not there, or that names features which its SAE does not have."""
    n_features = experiment.saes.n_features
    for layer, features in resolve(experiment).items():
        if features and not 0 <= min(features) <= max(features) < n_features:
            wrong = next(feature for feature in features if not 0 <= feature < n_features)
            raise SettingsError(
                f"experiment {name}: features: layer {layer}: {wrong} is out of range, its SAE has features 0 to {n_features - 1}"
            )
    if not any(resolve(experiment).values()):
        raise SettingsError(f"experiment {name}: the feature set is empty")


def _absent_paths(experiment: Experiment) -> list[str]:
    keys = {"model": "model.path", "perplexity_model": "perplexity.model.path", "judge_model": "judge.model.path"}
    keys |= {"texts": "records.texts", "topics": "concepts.topics", "oracle": "judge.oracle"}
    keys |= {"lexicon": "methods.concepts.lexicon", "vectors": "methods.vectors"}
    paths = {keys[name]: pinned_path(experiment, name) for name in plan.pins(experiment)} | {"pmi.texts": experiment.pmi.texts}
    return [f"{key}: there is no {'file' if path.suffix else 'folder'} {path}" for key, path in paths.items() if path and not path.exists()]


def _check_saes(name: str, experiment: Experiment) -> list[str]:
    """Check the SAEs that are there; one line about those that are not."""
    if experiment.saes.path is None:
        return []
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


def check_model(name: str, experiment: Experiment, folder: Path) -> None:
    """Refuse a model folder that is damaged, or whose width or layers are not the experiment's."""
    _check_weights(folder)
    check_model_config(name, experiment, _read_config(folder / "config.json"), str(folder))


def check_model_config(name: str, experiment: Experiment, config: Mapping[str, Any], source: str) -> None:
    """Refuse a model of a family that cannot run, or whose width or layers are not the experiment's, by its config.json."""
    if reason := refusal(config):
        raise SettingsError(f"experiment {name}: {source}: {reason}; take another model")
    width = size(config, *WIDTH)
    n_layers = size(config, *DEPTH)
    if width is None or n_layers is None:
        raise SettingsError(f"experiment {name}: {source}: config.json does not say how wide and deep the model is; take another model")
    if width != experiment.saes.d_model:
        raise SettingsError(f"experiment {name}: saes.d_model is {experiment.saes.d_model}, but {source} has a residual stream of {width}")
    beyond = [layer for layer in experiment.layers if layer >= n_layers]
    if beyond:
        raise SettingsError(f"experiment {name}: layers: {beyond} do not exist, {source} has layers 0 to {n_layers - 1}")


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
