"""An SAE that sae-lens has loaded or trained, as the five tensors of a converted file.

What sae-lens leaves to the encoder's run time is folded into the weights where it is a constant, kept as `k`, `centred` and `scale` where
it depends on the row, and refused where it is neither. Versions of this arithmetic are counted in `saesteer.engine.sae_convert`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saesteer.core.sites import CENTRED_SITES
from saesteer.engine.saes import tensor_shapes
from saesteer.sources.sae_sources import check_hook, hook_of_config, site_of_hook

ARCHITECTURES = (
    "jumprelu",
    "standard",
    "topk",
    "gated",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
"""Those that can be used. A transcoder's skip connection passes its codes by, and with them all steering."""
_REFUSED = {
    "abstopk": "its codes have signs, so that none is the largest",
    "matching_pursuit": "its codes are found one after the other, each from what the others left",
    "temporal": "its codes depend on the tokens before (attention), so they are no function of one residual",
} | dict.fromkeys(("batchtopk", "matryoshka_batchtopk"), "it is the form for training; save it with sae-lens' save_inference_model")
_FOLD_BLOCK = 4096


@dataclass(frozen=True)
class Spec:
    """Where an SAE reads and how large it is."""

    layer: int
    site: str
    d_model: int
    n_features: int


@dataclass(frozen=True)
class Plain:
    """An SAE in the plain form; fields as in `saesteer.engine.saes.SaeMeta`."""

    tensors: dict[str, Tensor]
    spec: Spec
    architecture: str
    centred: bool
    k: int | None
    scale: str | None
    decoder_rows: str = "as_trained"


def check_shape(what: str, shape: tuple[int, int], expected: Spec) -> None:
    """Refuse an SAE of another width or number of features."""
    shapes = f"(W_enc is {shape[0]} x {shape[1]}, the experiment's SAE is {expected.d_model} x {expected.n_features})"
    if shape[0] != expected.d_model:
        raise ValueError(f"{what}: this SAE reads residuals of width {shape[0]}, but the model's width is {expected.d_model} {shapes}")
    if shape[1] != expected.n_features:
        raise ValueError(f"{what}: this SAE has {shape[1]} features, but {expected.n_features} were asked for {shapes}")


def check_config(what: str, config: Mapping[str, Any], expected: Spec | None, scale_known: bool) -> Spec:
    """What a configuration describes; refused when it is not the SAE expected, or one whose arithmetic the plain files cannot express."""
    architecture = config["architecture"]
    if architecture not in ARCHITECTURES:
        reason = _REFUSED.get(architecture, f"supported: {', '.join(ARCHITECTURES)}")
        raise ValueError(f"{what}: architecture {architecture!r} is not supported; {reason}")
    _check_normalisation(what, config.get("normalize_activations") or "none", scale_known)
    if config.get("reshape_activations") not in (None, "none", "hook_z"):  # hook_z: heads come side by side
        raise ValueError(f"{what}: reshape_activations is {config['reshape_activations']!r}; only SAEs on residuals are supported")
    hook = hook_of_config(what, config.get("metadata", config))
    if hook is None:
        raise ValueError(f"{what}: its configuration names no hook (hook_name), so this SAE's layer cannot be checked; add it to cfg.json")
    spec = Spec(*site_of_hook(what, hook), config["d_in"], config["d_sae"])
    if config.get("d_out", spec.d_model) != spec.d_model:
        raise ValueError(
            f"{what}: it reads {spec.d_model} numbers and writes {config['d_out']}; only transcoders of one width are supported"
        )
    if spec.site not in CENTRED_SITES and config.get("normalize_activations") in ("layer_norm", "constant_norm_rescale"):
        raise ValueError(f"{what}: normalize_activations is {config['normalize_activations']!r}, which is not supported at {spec.site}")
    if expected:
        check_hook(what, hook, expected.layer, expected.site)
        check_shape(what, (spec.d_model, spec.n_features), expected)
    return spec


def _check_normalisation(what: str, normalisation: str, scale_known: bool) -> None:
    if normalisation == "expected_average_only_in" and not scale_known:
        raise ValueError(
            f"{what}: normalize_activations is {normalisation!r}, but the constant that residuals are multiplied by is not published with"
            " it; fold it into the weights and set normalize_activations to 'none'"
        )
    if normalisation not in ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"):
        raise ValueError(f"{what}: normalize_activations is {normalisation!r}; fold it into the weights and set it to 'none'")


def plain(what: str, sae: Any, expected: Spec | None) -> Plain:
    """The plain form of an `sae_lens.SAE`.

    Where the source subtracts b_dec from its input, that is folded: (x - b_dec) W_enc + b_enc = x W_enc + (b_enc - b_dec W_enc). A constant
    factor on the input was folded when it was read: (s x) W_enc = x (s W_enc), decoder and b_dec divided by s.
    """
    spec = check_config(what, sae.cfg.to_dict(), expected, scale_known=False)
    with torch.no_grad():
        tensors = _tensors(sae)
    shapes = tensor_shapes(spec.d_model, spec.n_features)
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{what}: tensor {name} has shape {tuple(tensors[name].shape)}, but {shape} was expected")
    kwargs, normalisation = sae.cfg.metadata.model_from_pretrained_kwargs or {}, sae.cfg.normalize_activations
    return Plain(
        {name: tensors[name].contiguous() for name in shapes},
        spec,
        sae.cfg.architecture(),
        centred=spec.site in CENTRED_SITES and (bool(kwargs.get("center_writing_weights", False)) or normalisation == "layer_norm"),
        k=min(sae.cfg.k, spec.n_features) if sae.cfg.architecture() == "topk" else None,
        scale={"layer_norm": "std", "constant_norm_rescale": "rms"}.get(normalisation),
    )


def with_unit_rows(what: str, made: Plain) -> Plain:
    """The same SAE with decoder rows of unit norm: each is divided by its norm, and its feature's codes are multiplied by it. A row of
    zeros stays."""
    if made.k is not None:
        raise ValueError(f"{what}: a TopK SAE would keep other codes with decoder rows of unit norm; set saes.decoder_rows to as_trained")
    norms = made.tensors["W_dec"].double().norm(dim=1)
    norms = norms.where(norms > 0, 1.0)
    longer = {name: (made.tensors[name].double() * norms).float() for name in ("W_enc", "b_enc", "threshold")}
    rows = (made.tensors["W_dec"].double() / norms[:, None]).float()
    return replace(made, tensors={**made.tensors, **longer, "W_dec": rows}, decoder_rows="unit")


def _tensors(sae: Any) -> dict[str, Tensor]:
    """W_enc, b_enc, threshold, W_dec and b_dec."""
    W_enc, W_dec, b_dec = sae.W_enc.detach().float(), sae.W_dec.detach().float(), sae.b_dec.detach().float()
    if sae.cfg.architecture() == "gated":
        W_enc, b_enc, threshold = _gated(sae)
    else:
        b_enc = sae.b_enc.detach().float()
        # sae-lens applies a ReLU before the threshold, so a negative threshold acts as 0.
        threshold = (
            sae.threshold.detach().float().clamp(min=0) if sae.cfg.architecture().startswith("jumprelu") else torch.zeros_like(b_enc)
        )
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):  # codes are those of unit decoder rows
        norm = W_dec.norm(dim=1)
        W_enc, b_enc, W_dec = W_enc * norm, b_enc * norm, W_dec / norm[:, None]
    if sae.cfg.apply_b_dec_to_input:
        b_enc = (b_enc.double() - _times(b_dec, W_enc)).float()
    return {"W_enc": W_enc, "b_enc": b_enc, "threshold": threshold, "W_dec": W_dec, "b_dec": b_dec}


def _gated(sae: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A gated SAE as a JumpReLU one: its gate and its magnitude are one product with two biases, so the gate x W_enc + b_gate > 0 says that
    the magnitude e^r x W_enc + b_mag is above b_mag - e^r b_gate (arXiv 2404.16014, section 3.2)."""
    growth = sae.r_mag.detach().double().exp()
    b_mag, b_gate = sae.b_mag.detach().double(), sae.b_gate.detach().double()
    return sae.W_enc.detach().float() * growth.float(), b_mag.float(), (b_mag - growth * b_gate).clamp(min=0).float()


def _times(row: Tensor, matrix: Tensor) -> Tensor:
    """A row times a matrix in float64, in blocks, so that the matrix is never there in float64 as a whole."""
    blocks = matrix.split(_FOLD_BLOCK, dim=1)
    return torch.cat([row.double() @ block.double() for block in blocks])
