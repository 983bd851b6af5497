"""Sparse autoencoders from plain files: `<name>.safetensors` with five float32 tensors, `<name>.json` beside it saying what they are.

The files are written by `saesteer.sae_convert`, so no reader needs sae-lens. Code of a feature: `pre * (pre > threshold)` with
`pre = residual @ W_enc + b_enc` (JumpReLU, arXiv 2407.14435; a plain ReLU is threshold 0).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saesteer.files import file_digest

TENSORS = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")


@dataclass(frozen=True)
class SaeMeta:
    """What a converted SAE is and where it came from."""

    source: str  # the folder it was converted from, as it was given
    source_digest: str  # of the source's config and weights (saesteer.pins)
    converter_version: int  # ALGORITHM_VERSION of saesteer.sae_convert
    architecture: str  # the source's: jumprelu or standard
    site: str  # residual site it reads: resid_post (a block's output) or resid_pre (its input)
    centred: bool  # whether each row's mean over d_model is subtracted before encoding (trained on centred writing weights)
    layer: int  # decoder block it reads
    d_model: int  # width of the residual
    n_features: int
    sha256: str  # of the converted safetensors file


@dataclass(frozen=True)
class Sae:
    """A sparse autoencoder of one layer."""

    W_enc: Float[Tensor, "d_model n_features"]
    b_enc: Float[Tensor, " n_features"]
    threshold: Float[Tensor, " n_features"]
    W_dec: Float[Tensor, "n_features d_model"]
    b_dec: Float[Tensor, " d_model"]
    meta: SaeMeta


def tensor_shapes(d_model: int, n_features: int) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor in a converted file."""
    return dict(zip(TENSORS, ((d_model, n_features), (n_features,), (n_features,), (n_features, d_model), (d_model,)), strict=True))


def read_meta(path: Path) -> SaeMeta:
    """Read the JSON beside a converted safetensors file."""
    file = path.with_suffix(".json")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; convert the SAE first (it is written together with {path.name})")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not readable as JSON ({error}); convert the SAE again") from error
    expected = {field.name for field in fields(SaeMeta)}
    if not isinstance(content, dict) or set(content) != expected:
        raise ValueError(f"{file}: keys must be {sorted(expected)}; convert the SAE again")
    return SaeMeta(**content)


def load_sae(path: Path, dtype: str, device: str) -> Sae:
    """Load a converted SAE, refusing a file whose bytes, shapes or numbers are not those that were converted."""
    meta = read_meta(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, though {path.with_suffix('.json').name} is there; convert the SAE again")
    tensors = _read_tensors(path)
    for name, shape in tensor_shapes(meta.d_model, meta.n_features).items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{path}: tensor {name} has shape {tuple(tensors[name].shape)}, its JSON says {shape}; convert the SAE again")
        if bool(tensors[name].isnan().any()):
            raise ValueError(f"{path}: tensor {name} contains NaN; convert the SAE again from a sound source")
    found = file_digest(path)
    if found != meta.sha256:
        raise ValueError(
            f"{path}: its SHA-256 is {found[:12]}..., its JSON says {meta.sha256[:12]}...; the file was changed, convert the SAE again"
        )
    return Sae(**{name: tensors[name].to(device=device, dtype=getattr(torch, dtype)) for name in TENSORS}, meta=meta)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            missing = sorted(set(TENSORS) - set(file.keys()))
            if missing:
                raise ValueError(f"{path}: tensor {missing[0]} is missing; convert the SAE again")
            return {name: file.get_tensor(name) for name in TENSORS}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); convert the SAE again") from error


def load_decoder_rows(path: Path, features: Sequence[int]) -> Float[Tensor, "feature d_model"]:
    """Decoder rows of the given features only, read from the file without the rest of the SAE."""
    meta = read_meta(path)
    check_features(features, meta.n_features, path.name)
    try:
        with safe_open(path, framework="pt") as file:
            decoder = file.get_slice("W_dec")
            rows = [decoder[feature : feature + 1] for feature in features]
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); convert the SAE again") from error
    directions = torch.cat(rows) if rows else torch.empty(0, meta.d_model)
    bad = directions.isnan().any(dim=1)
    if bool(bad.any()):
        raise ValueError(f"{path}: tensor W_dec contains NaN in feature {features[int(bad.nonzero()[0, 0])]}; convert the SAE again")
    return directions


def check_features(features: Sequence[int], n_features: int, name: str) -> None:
    """Refuse a feature id that the SAE does not have."""
    for feature in features:
        if not 0 <= feature < n_features:
            raise ValueError(f"feature {feature} does not exist: {name} has features 0 to {n_features - 1}")


def encoder_input(sae: Sae, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
    """What the SAE's encoder is given for residuals of the model: the rows in its number format, without their means over d_model where it
    was trained on a model with centred writing weights (TransformerLens's center_writing_weights, whose residuals are just that)."""
    if not sae.meta.centred:
        return residual.to(sae.W_enc.dtype)
    precise = torch.promote_types(residual.dtype, torch.float32)  # the mean of a bfloat16 row, in bfloat16, is off by as much as a code
    return (residual - residual.mean(dim=-1, keepdim=True, dtype=precise)).to(sae.W_enc.dtype)


def encode(sae: Sae, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row n_features"]:
    """Feature codes of residuals, in the SAE's number format."""
    pre = torch.addmm(sae.b_enc, encoder_input(sae, residual).reshape(-1, sae.meta.d_model), sae.W_enc)
    return pre.masked_fill_(pre <= sae.threshold, 0).reshape(*residual.shape[:-1], sae.meta.n_features)


def decode(sae: Sae, codes: Float[Tensor, "*row n_features"]) -> Float[Tensor, "*row d_model"]:
    """Residuals rebuilt from feature codes; of a centred SAE, centred ones."""
    return codes @ sae.W_dec + sae.b_dec


def largest_code(sae: Sae, residual: Float[Tensor, "row d_model"], block: int = 16_384) -> Float[Tensor, " row"]:
    """a_max of P1 (arXiv 2505.20063), section 3: each row's largest feature code, 0 when none is active; features in blocks for bounded
    memory."""
    rows = encoder_input(sae, residual)
    largest = torch.zeros(rows.shape[0], dtype=rows.dtype, device=rows.device)
    for start in range(0, sae.meta.n_features, block):
        part = slice(start, start + block)
        pre = torch.addmm(sae.b_enc[part], rows, sae.W_enc[:, part])
        largest = torch.maximum(largest, pre.masked_fill_(pre <= sae.threshold[part], 0).amax(dim=1))
    return largest
