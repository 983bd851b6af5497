"""What can be known about an experiment's files before any job starts: refused here, not after an hour of computing."""

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import safe_open

from saesteer.core.files import read_json, regular_file, safetensors_fault
from saesteer.core.tokens import load_tokens
from saesteer.settings import (
    Comparison,
    Experiment,
    GivenConcept,
    LabelledTexts,
    Scores,
    SettingsError,
    Sweep,
    TopicConcepts,
    TopicTexts,
)
from saesteer.settings.inputs import GGUF
from saesteer.settings.registry import method
from saesteer.sources.concept_texts import texts_of_file
from saesteer.sources.corpus import check_texts, text_columns, topic_names
from saesteer.sources.features import resolve
from saesteer.sources.gguf import config_of, read_gguf
from saesteer.sources.pins import MODELS, PIN_KEYS, model_settings, pinned_path
from saesteer.sources.prefixes import effect_prompts, prompt_source, prompts_of, read_prefixes, training_openers
from saesteer.sources.sae_sources import files_of, local_source
from saesteer.steps.judges import judge_of
from saesteer.steps.step import steps_of
from saesteer.workflow.families import DEPTH, HEADS, POSITIONS, WIDTH, refusal, size
from saesteer.workflow.outputs import pins

_FOLDERS = (*(PIN_KEYS[pin] for pin in MODELS), PIN_KEYS["oracle"])
"""Keys that name folders, or GGUF files; all others name files."""


def check_files(name: str, experiment: Experiment) -> None:
    """Refuse an experiment whose model, SAEs, prefixes or texts are missing, damaged or do not fit each other. Reads headers only."""
    if absent := check_present_files(name, experiment):
        lines = "\n".join(f"  {line}" for line in absent)
        raise SettingsError(f"experiment {name} cannot run yet, files are missing (a dry run, -n, does without them):\n{lines}")


def check_present_files(name: str, experiment: Experiment) -> list[str]:
    """`check_files` for the files that are there; what is not there is returned, one line each, since a dry run can do without it.

    What comes from the hub is checked when it is fetched.
    """
    if not isinstance(experiment, Scores) and (file := prompt_source(experiment).file):
        if not file.is_file():
            raise SettingsError(f"experiment {name}: {prompt_source(experiment).key}: there is no file {file}")
        read_prefixes(file, prompt_source(experiment).n)
    paths = _paths(experiment)
    for key, path in paths.items():
        if path.exists() and not (path.is_dir() if _kind(key, path) == "folder" else path.is_file()):
            raise SettingsError(f"experiment {name}: {key}: {path} is no {_kind(key, path)}, but has to be one")
    _check_features(name, experiment)
    _check_texts(name, experiment)
    for pin in MODELS:
        model = paths.get(PIN_KEYS[pin])
        if model and model.exists():
            if model.suffix == GGUF:
                config = config_of(read_gguf(model))
                check_model_config(name, experiment, config, str(model)) if pin == "model" else None
            else:
                check_model(name, experiment, model) if pin == "model" else _check_weights(model)
            if pin == "judge_model" and (judge := judge_of(experiment)):
                judge.check_model(model)
    lines = [f"{key}: there is no {_kind(key, path)} {path}" for key, path in paths.items() if not path.exists()]
    return [*lines, *_check_saes(name, experiment)]


def _paths(experiment: Experiment) -> dict[str, Path]:
    """Key of the experiment file -> the file or folder of the user that it names."""
    names = pins(experiment)
    paths: dict[str, Path | None] = {PIN_KEYS[pin]: pinned_path(experiment, pin) for pin in names}
    paths |= {PIN_KEYS[pin]: model_settings(experiment, pin).path for pin in names if pin in MODELS}
    if isinstance(experiment, Sweep):
        paths["pmi.texts"] = experiment.pmi.texts
    return {key: path for key, path in paths.items() if path}


def _kind(key: str, path: Path) -> str:
    return "folder" if key in _FOLDERS and path.suffix != GGUF else "file"


def check_times(files: Iterable[Path], now: float) -> None:
    """Refuse files with a time in the future: whatever is made from them counts as older, so that Snakemake fails and removes it."""
    if ahead := sorted({file for file in files if file.is_file() and file.stat().st_mtime > now}):
        raise SettingsError(
            f"{ahead[0]} has a time in the future, as after unzipping or copying from a machine whose clock is ahead. Give the command"
            f" `{shlex.join(['touch', *map(str, ahead)])}`, then the same command again (if that does not help: `touch -d yesterday`)"
        )


def check_contents(experiment: Experiment) -> None:
    """Refuse a text file of the user that is there and that a step would refuse later: each is read as the step reads it."""
    corpora = [experiment.local_examples.texts] if experiment.local_examples else []
    corpora += [experiment.pmi.texts] if isinstance(experiment, Sweep) and experiment.pmi.texts else []
    for path in (path for path in corpora if path.is_file()):
        check_texts(path)
        _check_vocabulary(path, experiment.model.folder)
    if isinstance(experiment.concepts, TopicConcepts | GivenConcept) and (topics := experiment.concepts.topics) and topics.is_file():
        topic_names(topics)
    if judge := judge_of(experiment):
        judge.check_contents()
    if isinstance(experiment, Comparison):
        _check_contents_of_comparison(experiment)


def _check_vocabulary(path: Path, model: Path | None) -> None:
    """Refuse token ids that a model on this machine has no embedding for; those of the hub's models refuse theirs when they read them."""
    if model is None or not (model / "config.json").is_file() or "token_ids" not in text_columns(path):
        return
    n_tokens = size(read_config(model / "config.json"), "vocab_size")
    largest = pl.scan_parquet(path).select(pl.col("token_ids").list.max().max()).collect().item()
    if n_tokens is not None and largest is not None and largest >= n_tokens:
        raise SettingsError(f"{path}: token_ids has {largest}, but {model} has tokens 0 to {n_tokens - 1}: tokenise the texts for it")


def _check_contents_of_comparison(experiment: Comparison) -> None:
    compared = experiment.methods
    if compared.ordinary_texts and compared.ordinary_texts.is_file():
        check_texts(compared.ordinary_texts)
    listed = compared.concepts
    if compared.vectors and compared.vectors.is_file():
        _check_vectors(compared.vectors, experiment.saes.d_model)
    if isinstance(listed, LabelledTexts) and listed.texts.is_file():
        texts_of_file(listed, prompts_of(compared), compared.n_positive, compared.n_negative, compared.seed)
    if isinstance(listed, TopicTexts) and listed.openers.is_file():
        training_openers(compared)
    if any("effects" in method(name).needs for name in compared.methods) and compared.effects.prompts.is_file():
        effect_prompts(compared)


def _check_vectors(path: Path, width: int) -> None:
    """Refuse a file of which no concept could take a vector, by its header."""
    if fault := safetensors_fault(path):
        raise SettingsError(f"methods.vectors: {path} cannot be read as safetensors: {fault}")
    with safe_open(path, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    if wrong := next((name for name, shape in shapes.items() if shape != [width]), None):
        raise SettingsError(f"methods.vectors: {path}, tensor {wrong!r} has the shape {shapes[wrong]}, but saes.d_model is {width}")


def _check_features(name: str, experiment: Experiment) -> None:
    """Refuse a resolved list that is not there, or that names features which its SAE does not have."""
    n_features = experiment.saes.n_features
    for layer, features in resolve(experiment).items():
        if outside := [feature for feature in features if not 0 <= feature < n_features]:
            raise SettingsError(
                f"experiment {name}: features: layer {layer}: {outside[0]} is out of range, its SAE has features 0 to {n_features - 1}:"
                " correct features, or saes.n_features"
            )
    if not any(resolve(experiment).values()):
        raise SettingsError(f"experiment {name}: the feature set is empty")


def _check_texts(name: str, experiment: Experiment) -> None:
    """Refuse a file that holds no texts, or no labels though concepts are counted from them."""
    path = pinned_path(experiment, "texts")
    if path is None or not path.is_file():
        return
    missing = sorted({"text_id", "token_ids", "token_topics"} - text_columns(path))
    if isinstance(experiment.concepts, TopicConcepts) and missing:
        raise SettingsError(
            f"experiment {name}: concepts of kind topics need texts with labelled tokens, but {path} (max_activating_examples.texts) has no"
            f" column {' and no '.join(missing)}: add what is missing, or set concepts and judge to kind: none"
        )


def _check_saes(name: str, experiment: Experiment) -> list[str]:
    """Refuse folders that hold no SAE of a known form, a damaged one, or one whose configuration names another size; gives one line about
    those that are not there."""
    saes = experiment.saes
    folders = {layer: Path(saes.path.format(layer=layer)) for layer in experiment.layers} if saes.path else {}
    absent = {layer: folder for layer, folder in folders.items() if not folder.is_dir()}
    for folder in (folder for layer, folder in folders.items() if layer not in absent):
        source = local_source(folder)
        files, repository = files_of(source), Path(source.release)
        for config in map(read_config, (repository / file for file in files.configs)):
            sizes, expected = (config.get("d_in"), config.get("d_sae")), (saes.d_model, saes.n_features)
            if None not in sizes and sizes != expected:
                raise SettingsError(
                    f"experiment {name}: the SAE in {folder} is {sizes[0]} x {sizes[1]} (d_in x d_sae in its configuration), but"
                    f" saes.d_model x saes.n_features is {expected[0]} x {expected[1]}: correct these two keys, or saes.path"
                )
        _check_file(repository / files.weights)
    if not absent:
        return []
    layer, folder = next(iter(absent.items()))
    further = f" (nor have {len(absent) - 1} more layers)" if len(absent) > 1 else ""
    return [f"saes.path: layer {layer} has no SAE{further}: no folder {folder}; correct saes.path or drop the layer"]


def check_model(name: str, experiment: Experiment, folder: Path) -> None:
    """Refuse a model folder that is damaged, or whose width or layers are not the experiment's."""
    _check_weights(folder)
    check_model_config(name, experiment, read_config(folder / "config.json"), str(folder))


def check_model_config(name: str, experiment: Experiment, config: Mapping[str, Any], source: str) -> None:
    """Refuse a model of a family that cannot run, or whose width or layers are not the experiment's, by its config.json."""
    if reason := refusal(config):
        raise SettingsError(f"experiment {name}: {source}: {reason}; take another model")
    width = size(config, *WIDTH)
    n_layers = size(config, *DEPTH)
    if width is None or n_layers is None:
        raise SettingsError(f"experiment {name}: {source}: config.json does not say how wide and deep the model is; take another model")
    what = "a residual stream"
    if experiment.saes.hook_point == "hook_z":
        n_heads = size(config, *HEADS) or 1
        width, what = n_heads * (size(config, "head_dim") or width // n_heads), f"{n_heads} heads with together a width"
    if width != experiment.saes.d_model:
        raise SettingsError(f"experiment {name}: saes.d_model is {experiment.saes.d_model}, but {source} has {what} of {width}")
    beyond = [layer for layer in experiment.layers if layer >= n_layers]
    if beyond:
        raise SettingsError(f"experiment {name}: layers: {beyond} do not exist, {source} has layers 0 to {n_layers - 1}")


def check_tokens(experiment: Experiment, model: Path) -> float | None:
    """Refuse a model folder whose tokens do not survive being tokenised again, where a step does that, and prompts that leave no room for
    what is generated (what a chat template adds to them not counted); else gives the share that survives."""
    steps = steps_of(experiment)
    prompts_file = prompt_source(experiment).file if "generations" in steps else None
    retokenised = any(step in steps and getattr(experiment, step).tokens == "retokenised" for step in ("input_score", "gen_success"))
    measured = prompts_file is not None and prompts_file.is_file() and (model / "tokenizer.json").is_file()
    if not (retokenised or measured):
        return None
    tokens = load_tokens(model)
    if prompts_file and measured:
        n_positions = size(read_config(model / "config.json"), *POSITIONS) or sys.maxsize
        prompts, n_new = list(read_prefixes(prompts_file, prompt_source(experiment).n).values()), experiment.sampling.max_new_tokens
        for prompt, ids in zip(prompts, tokens.token_ids(prompts, experiment.model.bos), strict=True):
            if len(ids) + n_new > n_positions:
                raise SettingsError(
                    f"{prompts_file}: {prompt[:40]!r}… has {len(ids)} tokens, which with max_new_tokens: {n_new} are more than the"
                    f" {n_positions} that {model} takes; shorten it or lower max_new_tokens"
                )
    if not retokenised:
        return None
    tokens.check_round_trip()
    return tokens.round_trip


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model or an SAE."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no JSON object, which a configuration is")
    return values


def _check_weights(folder: Path) -> None:
    """Headers and lengths of safetensors files: a truncated or foreign file is refused by name."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SettingsError(f"there are no .safetensors weights in {folder}; check the path in the experiment file")
    for file in files:
        _check_file(file)


def _check_file(file: Path) -> None:
    if regular_file(file).suffix == ".safetensors" and (fault := safetensors_fault(file)):
        raise SettingsError(f"{file} is damaged, not readable as safetensors ({fault}): fetch or make it again")
