"""`saesteer init NAME`: an experiment file for a model and SAEs of one's own, with what their files say filled in."""

import glob
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saesteer.core.errors import SettingsError
from saesteer.core.files import write_text
from saesteer.core.tokens import LEAST_ROUND_TRIP, load_tokens
from saesteer.settings import experiment_name
from saesteer.sources.sae_sources import hook_of_config, site_of_hook
from saesteer.workflow.families import DEPTH, size

_CONFIG = "cfg.json"
_LATE = 0.625
"""Share of the layers that come before the late ones: 5 of the shipped model's 8, 16 of Gemma-2-2B's 26 (P1)."""
_FILE = """\
description: {description}
kind: sweep  # or scores: generates no texts, and does without the sections from gen_success on; or comparison: of steering methods
model:
  path: {model}
  dtype: float32  # or bfloat16: half the memory, scores off by 0.5 % (median)
  bos: {bos}  # {bos_reason}
  prompt_format: plain  # {chat}
saes:
  path: {saes}
  site: {site}  # by their cfg.json, e.g. {hook}
  d_model: {d_model}
  n_features: {n_features}
layers: {layers}  # those with an SAE; the model has {n_layers}
features:
  kind: sampled  # or explicit, or all
  n_per_layer: {n_per_layer}
  seed: 0
records:
  kind: local  # the texts on which each feature is most active, computed here
  texts: {texts}  # a Parquet file with a column text
concepts:
  kind: none  # or topics, where the tokens of the texts are labelled
input_score:
  tokens: {tokens}  # {round_trip:.2%} of the vocabulary come back as themselves when tokenised again
gen_success:
  tokens: {tokens}
sweep:
  factors: [0, 0.2, 0.4, 0.8, 1.2, 1.6, 2, 3, 4, 6, 8, 10, 20]
  prefixes: config/prefixes.txt
  n_prefixes: 20
perplexity:
  model:  # the steered model itself; another, larger one is the better judge
    path: {model}
    bos: {bos}
selection:
  thresholds: [1.0e-10, 1.0e-9, 1.0e-8, 1.0e-7, 1.0e-6, 1.0e-5, 1.0e-4, 1.0e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9]
  late_layers_from: {late}
judge:
  kind: none  # or endpoint (an OpenAI-compatible address), or model
"""


@dataclass(frozen=True)
class _Saes:
    """What the SAEs of a pattern say of themselves."""

    pattern: str  # `{layer}` for the layer
    layers: tuple[int, ...]
    site: str
    hook: str  # of the first one
    d_model: int
    n_features: int
    prepends_bos: bool


def write_experiment(name: str, model: Path, saes: Path, texts: Path | None, folder: Path) -> Path:
    """Write NAME.yaml into the folder of experiments; never over a file that is there."""
    path = folder / f"{experiment_name(name)}.yaml"
    if path.exists():
        raise SettingsError(f"{path} is there already, and is not overwritten: choose another name, or remove it")
    write_text(path, experiment_text(model, _read_saes(saes), texts))
    return path


def experiment_text(model: Path, saes: _Saes, texts: Path | None) -> str:
    """The experiment file."""
    config, tokens = _json(model / "config.json"), load_tokens(model)
    n_layers = size(config, *DEPTH)
    if n_layers is None:
        raise SettingsError(f"{model / 'config.json'} does not say how many layers the model has; take another model")
    adds_bos = tokens.bos_id is not None and tokens.token_ids(["a"], "tokenizer")[0][:1] == [tokens.bos_id]
    always = saes.prepends_bos and not adds_bos and tokens.bos_id is not None
    chat = (model / "chat_template.jinja").is_file() or "chat_template" in _json(model / "tokenizer_config.json", optional=True)
    return _FILE.format(
        description=json.dumps(f"P1's experiment on {model.name}, layers {', '.join(map(str, saes.layers))}"),
        model=json.dumps(model.as_posix()),
        bos="always" if always else "tokenizer",
        bos_reason=_bos_reason(adds_bos, always, saes.prepends_bos),
        chat="or chat, in its chat template" if chat else "it has no chat template",
        saes=json.dumps(saes.pattern),
        site=saes.site,
        hook=saes.hook,
        d_model=saes.d_model,
        n_features=saes.n_features,
        layers=list(saes.layers),
        n_layers=n_layers,
        n_per_layer=min(100, saes.n_features),
        texts=json.dumps(texts.as_posix() if texts else "texts.parquet"),
        tokens="retokenised" if tokens.round_trip >= LEAST_ROUND_TRIP else "ids",
        round_trip=tokens.round_trip,
        late=min(round(n_layers * _LATE), max(saes.layers)),
    )


def _bos_reason(adds_bos: bool, always: bool, prepends_bos: bool) -> str:
    if adds_bos:
        return "it adds a beginning-of-sequence token"
    if always:
        return "the SAEs were trained with a beginning-of-sequence token, which the tokenizer does not add"
    return "no beginning-of-sequence token" + ("; the SAEs were trained with one" if prepends_bos else "; nor had the SAEs")


def _read_saes(path: Path) -> _Saes:
    """The SAEs below a folder, or those of a pattern with `{layer}`; refused when they are not of one kind."""
    read = {folder: _read_sae(folder) for folder in _folders(path)}
    layers = {layer: folder for folder, (layer, *_) in read.items()}
    kinds = sorted({(site, d_model, n_features) for _, site, d_model, n_features, *_ in read.values()}, key=str)
    if len(kinds) > 1 or len(layers) < len(read):
        listed = ", ".join(f"{site} {d_model} x {n_features}" for site, d_model, n_features in kinds)
        raise SettingsError(f"{path} holds {len(read)} SAEs of {len(layers)} layers ({listed}): name one a layer, as FOLDER/{{layer}}/REST")
    _, site, d_model, n_features, hook, prepends_bos = next(iter(read.values()))
    return _Saes(_pattern(path, layers), tuple(sorted(layers)), site, hook, d_model, n_features, prepends_bos)


def _read_sae(folder: Path) -> tuple[int, str, int, int, str, bool]:
    """Layer, site, width, number of features, hook, and whether texts had a beginning-of-sequence token, of one SAE."""
    config = _json(folder / _CONFIG)
    metadata = config.get("metadata", config)
    hook, sizes = hook_of_config(str(folder), metadata), [config.get("d_in"), config.get("d_sae")]
    if hook is None or None in sizes:
        raise SettingsError(f"{folder / _CONFIG} lacks hook_name, d_in or d_sae: it is no SAE in sae-lens's form; write the file by hand")
    return *site_of_hook(str(folder), hook), config["d_in"], config["d_sae"], hook, bool(metadata.get("prepend_bos"))


def _folders(path: Path) -> list[Path]:
    pattern = re.sub(r"\{layer[^}]*\}", "*", path.as_posix())
    folders = sorted(file.parent for name in glob.glob(pattern) for file in Path(name).rglob(_CONFIG))
    if not folders:
        raise SettingsError(f"{path}: there is no {_CONFIG} below it; give a folder of SAEs in sae-lens's form, one folder a layer")
    return folders


def _pattern(path: Path, layers: Mapping[int, Path]) -> str:
    """The folders' common name with `{layer}` for the layer; a folder alone is its own pattern."""
    (layer, folder), *_ = layers.items()
    for form in ("{layer}", "{layer:02d}", "{layer:03d}"):
        number = form.format(layer=layer)
        for match in reversed(list(re.finditer(rf"(?<!\d){number}(?!\d)", folder.as_posix()))):
            pattern = folder.as_posix()[: match.start()] + form + folder.as_posix()[match.end() :]
            if all(pattern.format(layer=other) == name.as_posix() for other, name in layers.items()):
                return pattern
    if len(layers) == 1:
        return folder.as_posix()
    raise SettingsError(f"the SAEs' folders below {path} have no common name in which the layer is a number, e.g. layer_3: rename them")


def _json(file: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} is not readable as JSON: {error}") from error
