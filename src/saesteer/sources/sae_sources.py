"""Where a published SAE lies: release and id -> repository, folder, form, hook point, Neuronpedia's name.

Read from the list that ships with sae-lens (pretrained_saes.yaml) without importing sae-lens, which takes seconds; of the list's 1.5 MB
only the entry of the release that is asked for is parsed.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from saesteer.core.errors import did_you_mean
from saesteer.core.hook_points import HOOK_POINTS, MODULE_OUTPUTS
from saesteer.settings import SaeSettings, SettingsError


@dataclass(frozen=True)
class PublishedForm:
    """A published form: the names of an SAE's files, `{path}` standing for what the list or the id calls its folder or file."""

    configs: tuple[str, ...]
    weights: str
    optional: tuple[str, ...] = ()
    config_first: bool = True  # whether the configuration is known without the weights
    told_by_files: bool = False  # whether folders that are in no list can be of it


FORMS = {
    "sae_lens": PublishedForm(("{path}/cfg.json",), "{path}/sae_weights.safetensors", told_by_files=True),
    "sparsify": PublishedForm(("{path}/cfg.json",), "{path}/sae.safetensors", told_by_files=True),
    "dictionary_learning_1": PublishedForm(("{path}/config.json",), "{path}/ae.pt", told_by_files=True),
    "gemma_2": PublishedForm((), "{path}/params.npz", config_first=False, told_by_files=True),
    "gemma_2_transcoder": PublishedForm((), "{path}/params.npz", config_first=False),
    "gemma_3": PublishedForm((), "{path}/params.safetensors", ("{path}/config.json",), config_first=False, told_by_files=True),
    "llama_scope": PublishedForm(("{path}/hyperparams.json",), "{path}/checkpoints/final.safetensors", told_by_files=True),
    "llama_scope_r1_distill": PublishedForm(("{path}/config.json",), "{path}/sae_weights.safetensors", told_by_files=True),
    "deepseek_r1": PublishedForm((), "{path}"),
    "goodfire": PublishedForm((), "{path}"),
    "qwen_scope": PublishedForm((), "{path}"),
    "mwhanna_transcoder": PublishedForm((), "{path}", ("config.yaml", "wandb-config.yaml", "wanb-config.yaml"), config_first=False),
}
"""sae-lens' name of a loader -> the form that it reads, for those that can be converted. Weights named .pt are pickled: of them nothing
but tensors is read."""
_RESIDUAL, _HEADS, _MLP = "blocks.{}.hook_resid_post", "blocks.{}.attn.hook_z", "blocks.{}.hook_mlp_out"
_LLAMA_SCOPE = {r"L(\d+)R(?:-|$)": _RESIDUAL, r"L(\d+)M(?:-|$)": _MLP, r"L(\d+)A(?:-|$)": "blocks.{}.hook_attn_out"}
_HOOKS: Mapping[str, Mapping[str, str]] = {
    "gemma_2": {
        "/embedding/": "hook_embed",
        r"-res/.*?layer_(\d+)": _RESIDUAL,
        r"-mlp/.*?layer_(\d+)": _MLP,
        r"-att/.*?layer_(\d+)": _HEADS,
    },
    "gemma_2_transcoder": {r"/layer_(\d+)/": "blocks.{}.ln2.hook_normalized"},
    "gemma_3": {
        r"/resid_post.*?layer_(\d+)": _RESIDUAL,
        r"/mlp_out.*?layer_(\d+)": _MLP,
        r"/attn_out.*?layer_(\d+)": _HEADS,
        r"/transcoder.*?layer_(\d+)": "model.layers.{}.pre_feedforward_layernorm.output",
    },
    "llama_scope": _LLAMA_SCOPE,
    "llama_scope_r1_distill": _LLAMA_SCOPE,
    "deepseek_r1": {r"-l(\d+)\.pt$": _RESIDUAL},
    "goodfire": {r"-l(\d+)\.pth?$": _RESIDUAL},
    "qwen_scope": {r"/layer(\d+)\.sae\.pt$": _RESIDUAL},
    "mwhanna_transcoder": {r"/layer_(\d+)\.safetensors$": "blocks.{}.mlp.hook_in"},
}
"""Forms whose names tell the hook: pattern of REPOSITORY/PATH, with the layer as its group -> the hook that is read."""
_REFUSED = {
    "connor_rob_hook_z": "it was trained on heads from which TransformerLens had taken the value biases, and the model's own have them",
    "mntss_clt_layer_transcoder": "it is a cross-layer transcoder, which writes to many layers",
    "temporal": "its activations depend on the tokens before (attention), so they are no function of one residual",
}
_BLOCK = r"(?:blocks|model\.layers|model\.language_model\.layers|gpt_neox\.layers|transformer\.h)\.(\d{1,4})"
_HOOK_POINTS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "attn.hook_z": "hook_z",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_in": "transcoder",
    "ln2.hook_normalized": "transcoder_normalized",
    "": "resid_post",
    "output": "resid_post",
    **dict.fromkeys(("self_attn", "self_attention", "attention", "attn"), "attn_module"),
    "mlp": "mlp_module",
    "self_attn.o_proj.input": "hook_z",
    "pre_feedforward_layernorm.output": "transcoder",
    "post_feedforward_layernorm.output": "mlp_out",
}
"""A hook's name behind the block's, as TransformerLens and (from the empty one on) Hugging Face have it -> the hook point; `hook_mlp_in`
is none, since sae-lens names two places so, the residual before the norm and, of Gemma Scope 2, the norm's output."""
_MODULES = {
    r"^(?:resid_post_layer_|layers[._])(\d+)$": _RESIDUAL,
    r"^mlp_out_layer_(\d+)$|^layers[._](\d+)\.mlp$": "model.layers.{}.mlp",
    r"^att(?:entio)?n_out_layer_(\d+)$|^layers[._](\d+)\.(?:attention|attn|self_attn)$": "model.layers.{}.self_attn",
    r"^embed_(?:tokens|in)$": "hook_embed",
}
"""Spellings of a place as dictionary_learning's and sparsify's folders and configurations have it -> the hook."""


@dataclass(frozen=True)
class SaeSource:
    """One SAE on the hub."""

    repo: str
    folder: str  # in the repository
    loader: str | None  # sae-lens' name of the form, a key of FORMS; None: of a repository in no list, its files' names tell
    release: str  # as sae-lens knows it; of an unlisted repository its name
    id: str  # in the release; of an unlisted repository the folder
    hook: str | None  # the hook's name where release, id and folder tell; the configuration's is checked besides
    neuronpedia: str | None = None  # model/source, e.g. gemma-2-2b/20-gemmascope-res-16k
    norm_scaling_factor: float | None = None  # constant that residuals are multiplied by before encoding
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the configuration, by sae-lens' list

    @property
    def name(self) -> str:
        """The SAE as messages call it."""
        return f"{self.repo}/{self.folder}" if self.release == self.repo else f"SAE {self.id} of {self.release}"


def sae_source(settings: SaeSettings, layer: int) -> SaeSource:
    """Where the SAE of a layer lies; refused here where the names already tell that it cannot be used."""
    sae_id = _id(settings, layer)
    if settings.repo is not None:
        source = SaeSource(settings.repo, sae_id, None, settings.repo, sae_id, _hook("sae_lens", settings.repo, sae_id, sae_id))
    else:
        source = listed_source(str(settings.release), sae_id)
    if source.hook is not None:
        check_hook(source.name, source.hook, layer, settings.hook_point)
    return source


def listed_source(release: str, sae_id: str) -> SaeSource:
    """Where an SAE of a release lies; refused when it is published in a form that cannot be used."""
    source = _listed(release, sae_id)
    if reason := refusal(source):
        raise SettingsError(f"{source.name}: {reason}")
    return source


def refusal(source: SaeSource) -> str | None:
    """Why an SAE cannot be used, as far as its form and its names tell; None where they do not forbid it."""
    if source.loader not in FORMS:
        return f"{_REFUSED.get(str(source.loader), 'this form is not known here')} (the form {source.loader})"
    if source.loader == "gemma_3" and source.folder.startswith("clt"):
        return "it is a cross-layer transcoder, which writes to many layers"
    try:
        if source.hook is not None:
            layer_and_hook_point("", source.hook)
    except SettingsError as error:
        return str(error).removeprefix(": ")
    return None


def every_source() -> Iterator[tuple[str, SaeSource]]:
    """Every SAE that sae-lens lists, after its model's name."""
    for release, entry in _loaded(directory_file().read_text(encoding="utf-8")).items():
        for sae in entry["saes"]:
            yield entry["model"], _source(release, entry, sae)


def local_source(folder: Path) -> SaeSource:
    """The SAE in a folder on this machine, in the form that its files' names tell. `release` is the folder that corresponds to a
    repository: the parent folder, or for Gemma Scope, whose folder names give model, layer and hook point, the one with the repository's
    name."""
    _check_folder(folder)
    scope = next((path for path in folder.parents if "gemma-scope" in path.name), None)
    repository = scope or folder.parent
    inside = folder.relative_to(repository).as_posix()
    names = [file.relative_to(repository).as_posix() for file in folder.rglob("*") if file.is_file()]
    above = repository.as_posix()
    return with_form(SaeSource(scope.name if scope else above, inside, None, above, inside, None), names)


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise SettingsError(f"{folder} is a file: give the folder that it lies in")
    name = folder.as_posix()
    if not folder.is_dir() and name in _texts():
        example = _parsed(name)["saes"][0]["id"]
        raise SettingsError(f"{name} is a release of sae-lens: name one of its SAEs as sae_id, e.g. {example!r}")
    if not folder.is_dir():
        raise SettingsError(
            f"there is no folder {folder}: correct the path, or name a release of sae-lens and one of its SAEs (sae_id)."
            f"{did_you_mean(name, _texts())}"
        )


def with_form(source: SaeSource, names: Iterable[str]) -> SaeSource:
    """The source with the form that the names of files tell; refused when they are those of none."""
    if source.loader is not None:
        return source
    present, missing = set(names), dict[str, set[str]]()
    for loader in (loader for loader, form in FORMS.items() if form.told_by_files):
        candidate = replace(source, loader=loader)
        files = files_of(candidate)
        missing[loader] = {*files.configs, files.weights} - present
        if not missing[loader]:
            return candidate
    lacks = " or ".join(f"{' and '.join(sorted(lacking))} ({loader})" for loader, lacking in missing.items())
    raise SettingsError(f"{source.name} is no SAE in a form that is known here: it lacks {lacks}")


def files_of(source: SaeSource) -> PublishedForm:
    """The form of an SAE with its own files' names."""
    form = FORMS[str(source.loader)]
    configs, optional = (tuple(name.format(path=source.folder) for name in names) for names in (form.configs, form.optional))
    return replace(form, configs=configs, weights=form.weights.format(path=source.folder), optional=optional)


def folder_of(source: SaeSource) -> str:
    """The innermost folder of the repository that holds all of an SAE's files; "" for the top."""
    is_file = source.loader is not None and FORMS[source.loader].weights == "{path}"
    return source.folder.rpartition("/")[0] if is_file else source.folder


def neuronpedia_source(settings: SaeSettings, layer: int) -> str | None:
    """Neuronpedia's name of a layer's SAE, model/source; None where sae-lens' list gives none."""
    return _listed(settings.release, _id(settings, layer)).neuronpedia if settings.release else None


def check_hook(what: str, hook: str, layer: int, hook_point: str) -> None:
    """Refuse an SAE of another layer or hook point than the experiment's."""
    sae_layer, sae_hook_point = layer_and_hook_point(what, hook)
    if sae_layer != layer or hook_point not in (sae_hook_point, MODULE_OUTPUTS.get(sae_hook_point)):
        raise SettingsError(
            f"{what}: this SAE is at {sae_hook_point} of layer {sae_layer}, but {hook_point} of layer {layer} was asked for"
        )


def layer_and_hook_point(what: str, hook: str) -> tuple[int, str]:
    """Layer and hook point that the name of the hook that is read stands for; a place where nothing can be steered is refused."""
    if hook == "hook_embed":
        return 0, "embedding"
    match = re.fullmatch(_BLOCK + r"(?:\.(.+))?", hook)
    hook_point = _HOOK_POINTS.get(match[2] or "") if match else None
    if match is None or hook_point is None:
        raise SettingsError(f"{what}: it reads {hook!r}, which is none of the hook points that can be steered: {', '.join(HOOK_POINTS)}")
    return int(match[1]), hook_point


def hook_of_config(what: str, config: Mapping[str, Any]) -> str | None:
    """The hook that a configuration says is read; a transcoder is refused where it is not told what it reads and that it writes to its own
    layer's MLP output, and an SAE whose model was changed in a way that moves what it reads."""
    hook, out = config.get("hook_name"), config.get("hook_name_out")
    loaded_with = config.get("model_from_pretrained_kwargs") or {}
    if not (isinstance(hook, str | None) and isinstance(loaded_with, dict)):
        raise SettingsError(f"{what}: hook_name has to be a name, and model_from_pretrained_kwargs an object")
    if hook is None:
        return None
    if re.fullmatch(r"blocks\.\d+\.hook_mlp_in", hook) and config.get("hf_hook_name"):
        hook = str(config["hf_hook_name"])
    layer, hook_point = layer_and_hook_point(what, hook)
    is_transcoder = hook_point.startswith("transcoder")
    if is_transcoder != (out is not None) or out not in (None, f"blocks.{layer}.hook_mlp_out"):
        raise SettingsError(
            f"{what}: it reads {hook!r} and writes to {out or 'the same place'!r}; supported are SAEs of one place, and transcoders from an"
            " MLP's input to its layer's hook_mlp_out"
        )
    folded = {"transcoder": "fold_ln", "hook_z": "fold_value_biases"}.get(hook_point)
    if folded and loaded_with.get(folded):
        raise SettingsError(f"{what}: its model was loaded with {folded}, which changes what {hook} is; such an SAE is not supported")
    return hook


def _id(settings: SaeSettings, layer: int) -> str:
    if settings.id is None:
        raise SettingsError(f"{settings.path}: this SAE is a folder, not one of a release or repository")
    return settings.id.format(layer=layer)


def _listed(release: str, sae_id: str) -> SaeSource:
    if release not in _texts():
        raise SettingsError(f"sae-lens knows no release {release!r}.{did_you_mean(release, _texts())}")
    entry = _parsed(release)
    saes = {sae["id"]: sae for sae in entry["saes"]}
    if sae_id not in saes:
        raise SettingsError(f"release {release} has no SAE {sae_id!r}.{did_you_mean(sae_id, saes)}")
    return _source(release, entry, saes[sae_id])


def _source(release: str, entry: Mapping[str, Any], sae: Mapping[str, Any]) -> SaeSource:
    loader, repo, sae_id, folder = entry["conversion_func"] or "sae_lens", entry["repo_id"], sae["id"], str(sae["path"])
    hook = _hook(loader, repo, folder, sae_id)
    neuronpedia, overrides = sae.get("neuronpedia"), dict(entry.get("config_overrides") or {})
    overrides |= {"neuronpedia_id": neuronpedia} if neuronpedia else {}
    return SaeSource(repo, folder, loader, release, sae_id, hook, neuronpedia, sae.get("norm_scaling_factor"), overrides)


@functools.cache
def _parsed(release: str) -> Mapping[str, Any]:
    return dict(_loaded(_texts()[release])[release])


def _loaded(text: str) -> dict[str, Any]:
    return dict(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506


@functools.cache
def _texts() -> Mapping[str, str]:
    """Release -> its part of the list's text: the top-level keys begin at a line's first column."""
    parts = re.split(r"^(?=\S)", directory_file().read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {match[1]: part for part in parts if (match := re.match(r"([^\s:#]+):\s*\n", part))}


def directory_file() -> Path:
    """sae-lens' list of published SAEs, found without importing sae-lens."""
    package = importlib.util.find_spec("sae_lens")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("sae-lens is not installed; install the project's requirements")
    return Path(package.origin).parent / "pretrained_saes.yaml"


def _hook(loader: str, repo: str, folder: str, sae_id: str) -> str | None:
    """The hook that an SAE reads, as its names say; None where they do not."""
    if loader in _HOOKS:
        return _first_match(_HOOKS[loader], f"{repo}/{folder}")
    if loader == "dictionary_learning_1" and (hook := next(filter(None, map(hook_of_module, folder.split("/"))), None)):
        return hook
    match = re.search(r"blocks\.(\d+)\.((?:\w+\.)*hook_(?:resid_(?:pre|mid|post)|\w+))", f"{sae_id} {folder}")
    return f"blocks.{match[1]}.{'attn.hook_z' if match[2] == 'hook_z' else match[2]}" if match else None


def hook_of_module(name: str) -> str | None:
    """The hook of a place that dictionary_learning or sparsify names; None where it is none of those known."""
    return _first_match(_MODULES, name)


def _first_match(hooks: Mapping[str, str], name: str) -> str | None:
    """The hook of the first pattern that is found in a name, with the layer's number in it."""
    matches = ((re.search(pattern, name), hook) for pattern, hook in hooks.items())
    return next((hook.format(*filter(None, match.groups())) for match, hook in matches if match), None)
