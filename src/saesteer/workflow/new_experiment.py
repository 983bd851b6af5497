"""`saesteer init NAME`: an experiment file for a model and SAEs of one's own, with what their files say filled in."""

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from saesteer.core.errors import SettingsError
from saesteer.core.files import write_text
from saesteer.core.hook_points import MODULE_OUTPUTS
from saesteer.core.tokens import LEAST_ROUND_TRIP, TextTokens, load_tokens
from saesteer.core.yaml_1_2 import quoted
from saesteer.settings import experiment_name
from saesteer.settings.inputs import GGUF
from saesteer.sources.corpus import text_columns
from saesteer.sources.sae_sources import hook_of_config, hook_of_module, layer_and_hook_point
from saesteer.workflow.checks import read_config
from saesteer.workflow.families import DEPTH, size

_CONFIG = "cfg.json"
_LATE = 0.625
"""Share of the layers that come before the late ones: 5 of the shipped model's 8, 16 of Gemma-2-2B's 26 (P1)."""
_FILE = Path(__file__).with_suffix(".yaml")
"""The file, with the names of what is filled in."""


@dataclass(frozen=True)
class _Sae:
    """What the configuration of an SAE says of it."""

    layer: int
    hook_point: str
    hook: str
    d_model: int
    n_features: int
    prepends_bos: bool


def write_experiment(name: str, source: Path, saes: Path, texts: Path | None, folder: Path, downloads: Path = Path()) -> Path:
    """Write NAME.yaml into the folder of experiments; never over a file that is there. `source` is the model's folder, or its GGUF
    file, which is converted below `downloads`."""
    path = folder / f"{experiment_name(name)}.yaml"
    if path.exists():
        raise SettingsError(f"{path} is there already, and is not overwritten: choose another name, or remove it")
    if texts is not None and texts.is_file():
        text_columns(texts)
    pattern, layers, sae = _read_saes(saes)
    model = source
    if source.suffix == GGUF:
        from saesteer.engine.gguf_convert import converted_gguf

        model, _ = converted_gguf(source, downloads)
    n_layers = size(read_config(model / "config.json"), *DEPTH)
    if n_layers is None:
        raise SettingsError(f"{model / 'config.json'} does not say how many layers the model has; take another model")
    tokens, tokenizer_config = load_tokens(model), model / "tokenizer_config.json"
    bos, bos_reason = _bos(tokens, sae.prepends_bos)
    chat = (model / "chat_template.jinja").is_file()
    chat = chat or (tokenizer_config.is_file() and "chat_template" in read_config(tokenizer_config))
    text = _FILE.read_text(encoding="utf-8").format(
        description=quoted(f"P1's experiment on {source.name}, layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"),
        model=quoted(source.as_posix()),
        bos=bos,
        bos_reason=bos_reason,
        chat="or chat, in its chat template" if chat else "it has no chat template",
        saes=quoted(pattern),
        hook_point=sae.hook_point,
        hook=sae.hook,
        d_model=sae.d_model,
        n_features=sae.n_features,
        layers=layers,
        n_layers=n_layers,
        n_per_layer=min(100, sae.n_features),
        texts=quoted(texts.as_posix() if texts else "texts.parquet"),
        tokens="retokenised" if tokens.round_trip >= LEAST_ROUND_TRIP else "ids",
        round_trip=tokens.round_trip,
        late=min(round(n_layers * _LATE), max(layers)),
    )
    write_text(path, text)
    return path


def _bos(tokens: TextTokens, prepends_bos: bool) -> tuple[str, str]:
    """The setting of the beginning-of-sequence token, and why."""
    if tokens.bos_id is not None and tokens.token_ids(["a"], "tokenizer")[0][:1] == [tokens.bos_id]:
        return "tokenizer", "it adds a beginning-of-sequence token"
    if prepends_bos and tokens.bos_id is not None:
        return "always", "the SAEs were trained with a beginning-of-sequence token, which the tokenizer does not add"
    return "tokenizer", "no beginning-of-sequence token" + ("; the SAEs were trained with one" if prepends_bos else "; nor had the SAEs")


def _read_saes(path: Path) -> tuple[str, list[int], _Sae]:
    """The pattern (`{layer}` for the layer), the layers and the first of the SAEs below a folder, or of those of a pattern; refused when
    they are not of one kind."""
    named, *between = re.split(r"\{layer[^}]*\}", path.as_posix())
    numbered = re.compile(r"\d+".join(map(re.escape, [named, *between])))
    folders = (name for name in glob.glob("*".join(map(glob.escape, [named, *between]))) if numbered.fullmatch(name))
    configs = sorted(file for name in folders for file in Path(name).rglob(_CONFIG))
    if not configs:
        raise SettingsError(
            f"{path}: there is no {_CONFIG} below it; give a folder of SAEs in sae-lens's or sparsify's form, one folder a layer"
        )
    read = {file.parent: _read_sae(file) for file in configs}
    layers = {sae.layer: folder for folder, sae in read.items()}
    kinds = sorted({(sae.hook_point, sae.d_model, sae.n_features) for sae in read.values()})
    if len(kinds) > 1 or len(layers) < len(read):
        listed = ", ".join(f"{hook_point} {d_model} x {n_features}" for hook_point, d_model, n_features in kinds)
        raise SettingsError(f"{path} holds {len(read)} SAEs of {len(layers)} layers ({listed}): name one a layer, as FOLDER/{{layer}}/REST")
    return _pattern(path, layers), sorted(layers), next(iter(read.values()))


def _read_sae(file: Path) -> _Sae:
    config = read_config(file)
    metadata = config.get("metadata", config)
    metadata = metadata if isinstance(metadata, dict) else {}
    hook = hook_of_config(str(file.parent), metadata)
    d_model, n_features = size(config, "d_in") or 0, size(config, "d_sae") or 0
    if hook is None and "num_latents" in config:  # sparsify's: the folder names the place
        hook = hook_of_module(file.parent.name)
        n_features = size(config, "num_latents") or (size(config, "expansion_factor") or 0) * d_model
    if hook is None or min(d_model, n_features) < 1:
        raise SettingsError(
            f"{file} lacks hook_name, d_in or d_sae: it is no SAE in sae-lens's form, nor in sparsify's (folders layers.10); write the"
            " experiment file by hand"
        )
    layer, hook_point = layer_and_hook_point(str(file.parent), hook)
    prepends_bos = bool(metadata.get("prepend_bos"))
    return _Sae(layer, MODULE_OUTPUTS.get(hook_point, hook_point), hook, d_model, n_features, prepends_bos)


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
