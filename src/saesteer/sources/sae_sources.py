"""Where a published SAE lies: release and id -> repository, folder, form, site, Neuronpedia's name.

Read from the list that ships with sae-lens (pretrained_saes.yaml) without importing sae-lens, which takes seconds; of the list's 1.5 MB
only the entry of the release that is asked for is parsed.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saesteer.core.sites import SITES
from saesteer.settings import SaeSettings, SettingsError


@dataclass(frozen=True)
class Form:
    """Files that one SAE of a published form consists of, below its folder."""

    configs: tuple[str, ...]
    weights: str
    optional: tuple[str, ...] = ()


FORMS = {
    "sae_lens": Form(("cfg.json",), "sae_weights.safetensors"),
    "gemma_2": Form((), "params.npz"),
    "gemma_3": Form((), "params.safetensors", optional=("config.json",)),
    "llama_scope": Form(("hyperparams.json",), "checkpoints/final.safetensors"),
    "llama_scope_r1_distill": Form(("config.json",), "sae_weights.safetensors"),
}
"""sae-lens' name of a loader -> the form that it reads, for those that can be converted."""

_PICKLED = "its weights are published as a pickle file, which can run code when it is opened; it is not loaded"
_REFUSED = {
    "connor_rob_hook_z": _PICKLED,
    "deepseek_r1": _PICKLED,
    "dictionary_learning_1": _PICKLED,
    "goodfire": _PICKLED,
    "qwen_scope": _PICKLED,
    "gemma_2_transcoder": "it is a transcoder (MLP input to MLP output), not an SAE of the residual stream",
    "mntss_clt_layer_transcoder": "it is a transcoder across layers, not an SAE of the residual stream",
    "mwhanna_transcoder": "it is a transcoder (MLP input to MLP output), not an SAE of the residual stream",
    "temporal": "its codes depend on the tokens before (attention), so they are no function of one residual",
}
_BLOCK = r"(?:blocks|model\.layers|model\.language_model\.layers|gpt_neox\.layers|transformer\.h)\.(\d+)"
_SITES = {
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
    "self_attn.o_proj.input": "hook_z",
    "pre_feedforward_layernorm.output": "transcoder",
    "post_feedforward_layernorm.output": "mlp_out",
}
"""A hook's name behind the block's, as TransformerLens and (from the empty one on) Hugging Face have it -> the site; `hook_mlp_in` is none,
since sae-lens names two places so, the residual before the norm and, of Gemma Scope 2, the norm's output."""


@dataclass(frozen=True)
class SaeSource:
    """One SAE on the hub."""

    repo: str
    folder: str  # in the repository
    loader: str  # sae-lens' name of the form, a key of FORMS
    release: str  # as sae-lens knows it; of an unlisted repository its name
    id: str  # in the release; of an unlisted repository the folder
    hook: str | None  # the hook's name where release, id and folder tell; the configuration's is checked besides
    neuronpedia: str | None = None  # model/source, e.g. gemma-2-2b/20-gemmascope-res-16k
    norm_scaling_factor: float | None = None  # constant that residuals are multiplied by before encoding

    @property
    def name(self) -> str:
        """The SAE as messages call it."""
        return f"SAE {self.id} of {self.release}"


def sae_source(settings: SaeSettings, layer: int) -> SaeSource:
    """Where the SAE of a layer lies; refused here where the names already tell that it cannot be used."""
    sae_id = _id(settings, layer)
    if settings.repo is not None:
        source = SaeSource(settings.repo, sae_id, "sae_lens", settings.repo, sae_id, _hook("sae_lens", settings.repo, sae_id, sae_id))
    else:
        source = listed_source(str(settings.release), sae_id)
    if source.hook is not None:
        check_hook(source.name, source.hook, layer, settings.site)
    return source


def listed_source(release: str, sae_id: str) -> SaeSource:
    """Where an SAE of a release lies; refused when it is published in a form that cannot be used."""
    source = _listed(release, sae_id)
    if source.loader not in FORMS:
        reason = _REFUSED.get(source.loader, "this form is not known here")
        raise SettingsError(f"{source.name} ({source.loader}): {reason}; choose an SAE in one of the forms {', '.join(FORMS)}")
    if source.loader == "gemma_3" and source.folder.startswith("clt"):
        raise SettingsError(f"{source.name}: it is a cross-layer transcoder, which writes to many layers; choose a transcoder of one layer")
    if source.hook is not None:
        site_of_hook(source.name, source.hook)
    return source


def neuronpedia_source(settings: SaeSettings, layer: int) -> str | None:
    """Neuronpedia's name of a layer's SAE, model/source; None where sae-lens' list gives none."""
    return _listed(settings.release, _id(settings, layer)).neuronpedia if settings.release else None


def check_hook(what: str, hook: str, layer: int, site: str) -> None:
    """Refuse an SAE of another layer or site than the experiment's."""
    own = site_of_hook(what, hook)
    if own != (layer, site):
        raise SettingsError(f"{what}: this SAE is at {own[1]} of layer {own[0]}, but {site} of layer {layer} was asked for")


def site_of_hook(what: str, hook: str) -> tuple[int, str]:
    """Layer and site that the name of the hook that is read stands for; a place where nothing can be steered is refused."""
    if hook == "hook_embed":
        return 0, "embedding"
    match = re.fullmatch(_BLOCK + r"(?:\.(.+))?", hook)
    site = _SITES.get(match[2] or "") if match else None
    if match is None or site is None:
        raise SettingsError(f"{what}: it reads {hook!r}, which is none of the sites that can be steered: {', '.join(SITES)}")
    return int(match[1]), site


def hook_of_config(what: str, config: Mapping[str, Any]) -> str | None:
    """The hook that a configuration says is read; a transcoder is refused where it is not told what it reads and that it writes to its own
    layer's MLP output, and an SAE whose model was changed in a way that moves what it reads."""
    hook, out = config.get("hook_name"), config.get("hook_name_out")
    if hook is None:
        return None
    if re.fullmatch(r"blocks\.\d+\.hook_mlp_in", hook) and config.get("hf_hook_name"):
        hook = str(config["hf_hook_name"])
    layer, site = site_of_hook(what, hook)
    is_transcoder = site.startswith("transcoder")
    if is_transcoder != (out is not None) or out not in (None, f"blocks.{layer}.hook_mlp_out"):
        raise SettingsError(
            f"{what}: it reads {hook!r} and writes to {out or 'the same place'!r}; supported are SAEs of one place, and transcoders from an"
            " MLP's input to its layer's hook_mlp_out"
        )
    folded = {"transcoder": "fold_ln", "hook_z": "fold_value_biases"}.get(site)
    if folded and (config.get("model_from_pretrained_kwargs") or {}).get(folded):
        raise SettingsError(f"{what}: its model was loaded with {folded}, which changes what {hook} is; such an SAE is not supported")
    return hook


def _id(settings: SaeSettings, layer: int) -> str:
    if settings.id is None:
        raise SettingsError(f"{settings.path}: this SAE is a folder, not one of a release or repository")
    return settings.id.format(layer=layer)


def _listed(release: str, sae_id: str) -> SaeSource:
    entry = _entry(release)
    saes = {sae["id"]: sae for sae in entry["saes"]}
    if sae_id not in saes:
        raise SettingsError(f"release {release} has no SAE {sae_id!r}{_nearest(sae_id, saes)}")
    sae, loader, repo = saes[sae_id], entry["conversion_func"] or "sae_lens", entry["repo_id"]
    folder = str(sae["path"])
    hook = _hook(loader, repo, folder, sae_id)
    return SaeSource(repo, folder, loader, release, sae_id, hook, sae.get("neuronpedia"), sae.get("norm_scaling_factor"))


def _entry(release: str) -> Mapping[str, Any]:
    texts = _texts()
    if release not in texts:
        raise SettingsError(f"sae-lens knows no release {release!r}{_nearest(release, texts)}")
    return _parsed(release)


@functools.cache
def _parsed(release: str) -> Mapping[str, Any]:
    values: dict[str, Any] = yaml.load(_texts()[release], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    return dict(values[release])


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


def _nearest(given: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(known), n=3, cutoff=0.4)
    return f"; nearest: {', '.join(near)}" if near else ""


def _hook(loader: str, repo: str, folder: str, sae_id: str) -> str | None:
    """The hook that an SAE reads, as its names say; None where they do not."""
    if loader == "gemma_2":
        return _gemma_scope_hook(repo, folder)
    if loader == "gemma_3":
        return _gemma_scope_2_hook(folder)
    if loader in ("llama_scope", "llama_scope_r1_distill"):
        match = re.search(r"L(\d+)([RMA])(?:-|$)", folder)
        hooks = {"R": "hook_resid_post", "M": "hook_mlp_out", "A": "hook_attn_out"}
        return f"blocks.{match[1]}.{hooks[match[2]]}" if match else None
    if loader in ("gemma_2_transcoder", "mwhanna_transcoder"):
        match = re.search(r"layer_(\d+)", folder)
        return f"blocks.{match[1]}.{'ln2.hook_normalized' if loader == 'gemma_2_transcoder' else 'mlp.hook_in'}" if match else None
    match = re.search(r"blocks\.(\d+)\.((?:\w+\.)*hook_\w+)", f"{sae_id} {folder}")
    return f"blocks.{match[1]}.{'attn.hook_z' if match[2] == 'hook_z' else match[2]}" if match else None


def _gemma_scope_hook(repo: str, folder: str) -> str | None:
    layer = re.search(r"layer_(\d+)", folder)
    if "embedding" in folder or layer is None:
        return "hook_embed" if "embedding" in folder else None
    hooks = {"-res": "hook_resid_post", "-mlp": "hook_mlp_out", "-att": "attn.hook_z"}
    return next((f"blocks.{layer[1]}.{hook}" for part, hook in hooks.items() if repo.endswith(part)), None)


def _gemma_scope_2_hook(folder: str) -> str | None:
    layer = re.search(r"layer_(\d+)", folder)
    hooks = {"resid_post": "blocks.{}.hook_resid_post", "attn_out": "blocks.{}.attn.hook_z", "mlp_out": "blocks.{}.hook_mlp_out"}
    hooks |= {"transcoder": "model.layers.{}.pre_feedforward_layernorm.output"}
    return next((hook.format(layer[1]) for part, hook in hooks.items() if folder.startswith(part)), None) if layer else None
