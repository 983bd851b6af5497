"""Sparse autoencoders from plain files: `<name>.safetensors` with five float32 tensors, `<name>.json` beside it saying what they are.

The files are written by `saesteer.engine.sae_convert`, so no reader needs sae-lens. Activation of a feature: `pre * (pre > threshold)`
with `pre = input @ W_enc + b_enc` (JumpReLU, arXiv 2407.14435; a plain ReLU is threshold 0; a gated SAE, arXiv 2404.16014, is a JumpReLU
one). A TopK SAE (arXiv 2406.04093) keeps the k largest of them in each row. The input is the residual, in some SAEs less its mean and over
its size; these then write in units of that size.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saesteer.core.files import file_digest
from saesteer.engine.finite import check_weights
from saesteer.engine.precision import is_narrow, product

ALGORITHM_VERSION = 1

TENSORS = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")

READ_AHEAD = 2
"""Blocks of decoder rows read before they are needed."""

_STD_EPSILON = 1e-5
"""Added to a row's standard deviation where it is divided by it, as in sae-lens; not where it is multiplied."""

ENCODER_BLOCK = 16_384
"""Features encoded at a time where only the largest activation is wanted."""


@dataclass(frozen=True)
class SaeMeta:
    """What an SAE is and where it came from."""

    source: str  #: the folder it was converted from, as it was given
    source_digest: str  #: of the source's config and weights (saesteer.sources.pins)
    converter_version: int  #: ALGORITHM_VERSION of saesteer.engine.sae_convert
    architecture: str  #: the source's: jumprelu, standard, topk, gated, or a transcoder's
    hook_point: str  #: what it reads and where it writes (saesteer.engine.hook_points)
    centred: bool  #: whether it was trained on rows without their means (centred writing weights, layer-normalised rows)
    layer: int  #: decoder block that it sits in
    d_model: int  #: width of what it reads and writes, the residual's but at hook_z
    n_features: int  #: how many features it has
    sha256: str  #: of the converted safetensors file
    k: int | None = None  #: activations that each row keeps, its largest (TopK); None: all above their thresholds
    decoder_rows: Literal["as_trained", "unit"] = "as_trained"  #: unit: rows divided by their norms, activations multiplied by them
    scale: Literal["std", "rms"] | None = None  #: size that each row is divided by before encoding, and its additions multiplied by


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


def checked_meta(path: Path) -> SaeMeta:
    """What a converted SAE is; refused where its file's shapes or bytes are not those that were converted (which are finite)."""
    meta = read_meta(path)
    with opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name, shape in tensor_shapes(meta.d_model, meta.n_features).items():
        if shapes.get(name) != shape:
            fault = f"has shape {shapes[name]}, its JSON says {shape}" if name in shapes else "is missing"
            raise ValueError(f"{path}: tensor {name} {fault}; convert the SAE again")
    digest = file_digest(path)
    if digest != meta.sha256:
        raise ValueError(
            f"{path}: its SHA-256 is {digest[:12]}..., its JSON says {meta.sha256[:12]}...; the file was changed, convert the SAE again"
        )
    return meta


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A converted file for reading parts of its tensors, with an error that says what to do when it is missing or unreadable."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; convert the SAE again")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); convert the SAE again") from error


def load_sae(path: Path, dtype: str, device: str) -> Sae:
    """Load a converted SAE, checked as by `checked_meta`, in a number format on a device."""
    meta = checked_meta(path)
    with opened(path) as file:
        return placed({name: file.get_tensor(name) for name in TENSORS}, meta, dtype, device)


def placed(tensors: Mapping[str, Tensor], meta: SaeMeta, dtype: str, device: str) -> Sae:
    """The SAE of these tensors, in a number format on a device; refused where that is too narrow for them."""
    placed_there = {name: tensors[name].to(device=device, dtype=getattr(torch, dtype)) for name in TENSORS}
    check_weights(meta.source, placed_there.items())
    return Sae(**placed_there, meta=meta)


def decoder_rows(decoder: Any, features: Sequence[int]) -> Float[Tensor, "feature d_model"]:
    """Rows of an opened file's W_dec slice, each run of neighbouring features in one read."""
    ids = np.asarray(features, dtype=np.int64)
    runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1) if len(ids) else []
    return torch.cat([decoder[0:0], *(decoder[int(run[0]) : int(run[-1]) + 1] for run in runs)])


def decoder_blocks(path: Path, features: Sequence[int], device: torch.device, block: int) -> Iterator[Float[Tensor, "row d"]]:
    """Decoder rows of the features in float32, `block` at a time, on the device; a thread reads ahead while the caller computes, and
    on the way to a GPU they lie in pinned memory, so that copying does not wait either."""

    def read(part: Sequence[int]) -> Tensor:
        rows = decoder_rows(decoder, part)
        return rows.pin_memory() if device.type == "cuda" else rows

    check_features(features, read_meta(path).n_features, path.name)
    with opened(path) as file, ThreadPoolExecutor(1, "decoder rows") as reader:
        decoder = file.get_slice("W_dec")
        waiting: deque[Future[Tensor]] = deque()
        for start in range(0, len(features), block):
            waiting.append(reader.submit(read, features[start : start + block]))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result().to(device, non_blocking=True)
        while waiting:
            yield waiting.popleft().result().to(device, non_blocking=True)


def check_features(features: Sequence[int], n_features: int, name: str) -> None:
    """Refuse a feature id that the SAE does not have."""
    for feature in features:
        if not isinstance(feature, Integral) or isinstance(feature, bool) or not 0 <= feature < n_features:
            raise ValueError(f"feature {feature} does not exist: {name} has features 0 to {n_features - 1}")


def encoder_input(meta: SaeMeta, residual: Float[Tensor, "*row d_model"], dtype: torch.dtype) -> Float[Tensor, "*row d_model"]:
    """What an SAE's encoder multiplies of what it is given (hook_points.Reading.read): the rows in its number format, layer-normalised or
    over their sizes where it was trained on such rows."""
    if meta.scale is None:
        return residual.to(dtype)
    size = written_size(meta, residual)[..., None]
    if meta.scale == "std":
        return (without_mean(residual) / (size + _STD_EPSILON)).to(dtype)
    return (residual.to(size.dtype) / size).to(dtype)


def without_mean(rows: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
    """Rows without their means, in float32 or wider: the mean of a bfloat16 row, in bfloat16, is off by an activation's size."""
    return rows - rows.mean(dim=-1, keepdim=True, dtype=torch.promote_types(rows.dtype, torch.float32))


def written_size(meta: SaeMeta, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row"]:
    """What an SAE with `scale` divided a residual by, so that an activation z of feature f writes z times this times its decoder row; else
    1."""
    if meta.scale is None:
        return torch.ones(residual.shape[:-1], dtype=torch.promote_types(residual.dtype, torch.float32), device=residual.device)
    rows = residual.to(torch.promote_types(residual.dtype, torch.float32))
    return without_mean(rows).std(dim=-1) if meta.scale == "std" else rows.norm(dim=-1) / meta.d_model**0.5


def _activations(
    rows: Float[Tensor, "row d_model"],
    encoder: Float[Tensor, "d_model part"],
    bias: Float[Tensor, " part"],
    threshold: Float[Tensor, " part"],
) -> Float[Tensor, "row part"]:
    """Activations of some features before any are dropped for larger ones, in float32 also of a narrower SAE."""
    pre = product(rows, encoder).add_(bias) if is_narrow(rows.dtype) else torch.addmm(bias, rows, encoder)
    return pre.masked_fill_(pre <= threshold, 0)


def encode(sae: Sae, residual: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row n_features"]:
    """Feature activations of residuals, in float32 also of a narrower SAE. Of a TopK SAE, activations that equal the k-th largest are all
    kept, so that nothing depends on an order."""
    rows = encoder_input(sae.meta, residual, sae.W_enc.dtype).reshape(-1, sae.meta.d_model)
    activations = _activations(rows, sae.W_enc, sae.b_enc, sae.threshold)
    if sae.meta.k is not None:
        smallest = activations.detach().topk(sae.meta.k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
        activations = activations.masked_fill_(activations < smallest, 0)
    return activations.reshape(*residual.shape[:-1], sae.meta.n_features)


def encode_some(sae: Sae, residual: Float[Tensor, "*row d_model"], features: list[int]) -> Float[Tensor, "*row feature"]:
    """Activations of some features. Of a TopK SAE all are computed: which are kept depends on all of them."""
    if sae.meta.k is not None:
        return encode(sae, residual)[..., features]
    rows = encoder_input(sae.meta, residual, sae.W_enc.dtype).reshape(-1, sae.meta.d_model)
    activations = _activations(rows, sae.W_enc[:, features], sae.b_enc[features], sae.threshold[features])
    return activations.reshape(*residual.shape[:-1], len(features))


def decode(sae: Sae, activations: Float[Tensor, "*row n_features"]) -> Float[Tensor, "*row d_model"]:
    """Encoder inputs rebuilt from feature activations: of an SAE whose input is centred or scaled, centred and scaled ones."""
    return activations.to(sae.W_dec.dtype) @ sae.W_dec + sae.b_dec


def largest_activation(sae: Sae, residual: Float[Tensor, "row d_model"], block: int = ENCODER_BLOCK) -> Float[Tensor, " row"]:
    """a_max of P1 (arXiv 2505.20063), section 3: each row's largest feature activation, 0 when none is active, times its `written_size`;
    features in blocks for bounded memory. In float32 also of a narrower SAE. A TopK SAE always keeps the largest."""
    tensors = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "threshold": sae.threshold}
    return _largest_activation(sae.meta, tensors, residual, sae.W_enc.dtype, block)


def largest_activation_in_file(path: Path, residual: Float[Tensor, "row d_model"], block: int = ENCODER_BLOCK) -> Float32[Tensor, " row"]:
    """`largest_activation` in float32 of an SAE that stays in its file: of the encoder, one block at a time is in memory."""
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in ("W_enc", "b_enc", "threshold")}
        return _largest_activation(read_meta(path), slices, residual, torch.float32, block)


def _largest_activation(
    meta: SaeMeta, tensors: Mapping[str, Any], residual: Float[Tensor, "row d_model"], dtype: torch.dtype, block: int
) -> Float[Tensor, " row"]:
    """`largest_activation` of an encoder whose tensors, or slices of a file, are read a block of features at a time."""
    rows = encoder_input(meta, residual, dtype)
    largest = torch.zeros(rows.shape[0], dtype=torch.promote_types(rows.dtype, torch.float32), device=rows.device)
    for start in range(0, meta.n_features, block):
        part = slice(start, start + block)
        encoder = (tensors["W_enc"][:, part], tensors["b_enc"][part], tensors["threshold"][part])
        largest = torch.maximum(largest, _activations(rows, *(tensor.to(rows.device) for tensor in encoder)).amax(dim=1))
    return largest if meta.scale is None else largest * written_size(meta, residual)
