"""Convert an SAE in sae-lens' format to the plain files that `saesteer.saes` reads.

The only module that imports sae-lens, inside the function that needs it: importing it takes seconds and brings training tools along.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saesteer.files import file_digest, safetensors_fault, write_atomically, write_json
from saesteer.models import SITES
from saesteer.pins import pin
from saesteer.saes import SaeMeta, tensor_shapes

ALGORITHM_VERSION = 1
ARCHITECTURES = ("jumprelu", "standard")
_WEIGHTS = "sae_weights.safetensors"
_HOOKS = (
    (re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post)"), None),
    (re.compile(r"(?:model\.layers|gpt_neox\.layers|transformer\.h)\.(\d+)()"), "resid_post"),
)
"""Spellings of a hook's name: TransformerLens' and Hugging Face's (a block's output)."""


@dataclass(frozen=True)
class _Expected:
    layer: int
    site: str
    d_model: int
    n_features: int


def convert_sae(source: Path, layer: int, site: str, d_model: int, n_features: int, out: Path) -> SaeMeta:
    """Read the sae-lens folder `source`, check that it is the SAE asked for, write `out` (.safetensors, float32) and the JSON beside it.

    Where the source subtracts b_dec from its input, that is folded: (x - b_dec) W_enc + b_enc = x W_enc + (b_enc - b_dec W_enc).
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: a converted SAE's name ends in .safetensors")
    if site not in SITES:
        raise ValueError(f"site {site!r} is not supported; supported: {', '.join(SITES)}")
    sae = _load(source)
    _check(source, sae, _Expected(layer, site, d_model, n_features))
    tensors = _plain_tensors(sae)
    for name, tensor in tensors.items():
        if bool(tensor.isnan().any()):
            raise ValueError(f"{source}: tensor {name} contains NaN; fetch or train this SAE again")
    write_atomically(out, lambda partial: save_file(tensors, partial))
    meta = SaeMeta(
        source=source.as_posix(),
        source_digest=pin(source)["digest"],
        converter_version=ALGORITHM_VERSION,
        architecture=sae.cfg.architecture(),
        site=site,
        layer=layer,
        d_model=d_model,
        n_features=n_features,
        sha256=file_digest(out),
    )
    write_json(out.with_suffix(".json"), asdict(meta))
    return meta


def _load(source: Path) -> Any:
    for name in ("cfg.json", _WEIGHTS):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source / name}: no such file; a folder in sae-lens' format has cfg.json and {_WEIGHTS}")
    if fault := safetensors_fault(source / _WEIGHTS):
        raise ValueError(f"{source / _WEIGHTS}: not a readable safetensors file ({fault}); fetch or copy it again")
    from sae_lens import SAE

    return SAE.load_from_disk(source, device="cpu", dtype="float32")


def _check(source: Path, sae: Any, expected: _Expected) -> None:
    """Refuse an SAE that is not the one asked for, or whose arithmetic the plain files cannot express."""
    architecture = sae.cfg.architecture()
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{source}: architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    if sae.cfg.normalize_activations not in (None, "none"):
        raise ValueError(
            f"{source}: normalize_activations is {sae.cfg.normalize_activations!r}; only SAEs on plain residuals are supported"
        )
    if sae.cfg.reshape_activations not in (None, "none"):
        raise ValueError(f"{source}: reshape_activations is {sae.cfg.reshape_activations!r}; only SAEs on residuals are supported")
    layer, site = _hook(source, sae.cfg.metadata.hook_name)
    if (layer, site) != (expected.layer, expected.site):
        raise ValueError(f"{source}: this SAE reads {site} of layer {layer}, but {expected.site} of layer {expected.layer} was asked for")
    if sae.cfg.d_in != expected.d_model:
        raise ValueError(f"{source}: this SAE reads residuals of width {sae.cfg.d_in}, but the model's width is {expected.d_model}")
    if sae.cfg.d_sae != expected.n_features:
        raise ValueError(f"{source}: this SAE has {sae.cfg.d_sae} features, but {expected.n_features} were asked for")


def _hook(source: Path, hook_name: str | None) -> tuple[int, str]:
    if hook_name is None:
        raise ValueError(f"{source / 'cfg.json'}: metadata names no hook (hook_name), so this SAE's layer cannot be checked; add it")
    for pattern, site in _HOOKS:
        match = pattern.fullmatch(hook_name)
        if match:
            return int(match[1]), site or match[2]
    raise ValueError(f"{source / 'cfg.json'}: hook_name {hook_name!r} is not understood; expected for example 'blocks.5.hook_resid_post'")


def _plain_tensors(sae: Any) -> dict[str, Tensor]:
    """The five tensors of a converted file. sae-lens applies a ReLU before the threshold, so a negative threshold acts as 0."""
    with torch.no_grad():
        b_enc = sae.b_enc.float()
        if sae.cfg.apply_b_dec_to_input:
            b_enc = b_enc - sae.b_dec.float() @ sae.W_enc.float()
        threshold = sae.threshold.float().clamp(min=0) if sae.cfg.architecture() == "jumprelu" else torch.zeros_like(b_enc)
        tensors = {
            "W_enc": sae.W_enc.float(),
            "b_enc": b_enc,
            "threshold": threshold,
            "W_dec": sae.W_dec.float(),
            "b_dec": sae.b_dec.float(),
        }
    shapes = tensor_shapes(sae.cfg.d_in, sae.cfg.d_sae)
    return {name: tensors[name].detach().contiguous().reshape(shapes[name]) for name in shapes}
