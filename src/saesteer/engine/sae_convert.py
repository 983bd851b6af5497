"""Fetch an SAE and convert it to the plain files that `saesteer.engine.saes` reads, or to an `Sae` in memory.

The only module that imports sae-lens, inside the functions that need it: importing it takes seconds and brings training tools along.
sae-lens' own loaders read each published form; what they leave to the encoder's run time is folded into the weights where it is a constant,
and refused where it is not.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from saesteer.core.files import file_digest, safetensors_fault, value_digest, write_atomically, write_json
from saesteer.core.sites import CENTRED_SITES, SITES
from saesteer.engine.saes import Sae, SaeMeta, placed, read_meta, tensor_shapes
from saesteer.settings import SaeSettings
from saesteer.sources.hub import Fetched, HubError, fetch_files
from saesteer.sources.pins import is_current, pin
from saesteer.sources.sae_sources import FORMS, SaeSource, check_hook, hook_of_config, listed_source, sae_source, site_of_hook

ALGORITHM_VERSION = 2
ARCHITECTURES = ("jumprelu", "standard", "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
"""A transcoder's skip connection passes its codes by, and with them all steering."""
_CONFIG, _WEIGHTS = FORMS["sae_lens"].configs[0], FORMS["sae_lens"].weights
_FOLD_BLOCK = 4096


@dataclass(frozen=True)
class _Spec:
    """Where an SAE reads and how large it is."""

    layer: int
    site: str
    d_model: int
    n_features: int


@dataclass(frozen=True)
class _Source:
    """What the converted file will say of where it comes from."""

    source: str
    source_digest: str


@dataclass(frozen=True)
class _Plain:
    """An SAE in the plain form."""

    tensors: dict[str, Tensor]
    spec: _Spec
    architecture: str
    centred: bool


def fetch_and_convert(settings: SaeSettings, layer: int, cache_dir: Path | None, out: Path) -> SaeMeta:
    """Convert the SAE of a layer, fetched from the hub at the pinned revision. What is current is left as it is.

    `cache_dir` holds Hugging Face's cache in `hub/`, null its default place.
    """
    expected = _Spec(layer, settings.site, settings.d_model, settings.n_features)
    _check_request(expected, out)
    source = sae_source(settings, layer)
    fetched, origin = _fetch(source, settings.revision, cache_dir, expected)
    if is_current(out, asdict(origin) | asdict(expected) | {"converter_version": ALGORITHM_VERSION}):
        return read_meta(out)
    return _write(origin, out, _from_hub(source, fetched, expected))


def convert_sae(source: Path, layer: int, site: str, d_model: int, n_features: int, out: Path) -> SaeMeta:
    """Read the sae-lens folder `source`, check that it is the SAE asked for, write `out` (.safetensors, float32) and the JSON beside it."""
    expected = _Spec(layer, site, d_model, n_features)
    _check_request(expected, out)
    _check_folder(source)
    return _write(_Source(source.as_posix(), pin(source)["digest"]), out, _from_folder(source, expected))


def published_sae(release: str, sae_id: str, revision: str | None, cache_dir: Path | None, dtype: str, device: str) -> Sae:
    """An SAE of a release that sae-lens lists, fetched from the hub (or found in its cache) at a revision, null the newest."""
    source = listed_source(release, sae_id)
    fetched, origin = _fetch(source, revision, cache_dir, None)
    return _in_memory(origin, _from_hub(source, fetched, None), dtype, device)


def sae_from_folder(folder: Path, dtype: str, device: str) -> Sae:
    """The SAE in a folder in sae-lens' form."""
    _check_folder(folder)
    return _in_memory(_Source(folder.as_posix(), pin(folder)["digest"]), _from_folder(folder, None), dtype, device)


def sae_from_object(sae: Any, dtype: str, device: str) -> Sae:
    """The SAE that sae-lens has loaded or trained, an `sae_lens.SAE`."""
    plain = _plain("the SAE given", sae, None)
    return _in_memory(_Source("an SAE object", hashlib.sha256(save(plain.tensors)).hexdigest()), plain, dtype, device)


def _in_memory(origin: _Source, plain: _Plain, dtype: str, device: str) -> Sae:
    """As `_write` and `load_sae` give it, without a file; its SHA-256 is that of the file that would be written."""
    _check_numbers(origin, plain)
    return placed(plain.tensors, _meta(origin, plain, hashlib.sha256(save(plain.tensors)).hexdigest()), dtype, device)


def _check_request(expected: _Spec, out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: a converted SAE's name ends in .safetensors")
    if expected.site not in SITES:
        raise ValueError(f"site {expected.site!r} is not supported; supported: {', '.join(SITES)}")


def _write(origin: _Source, out: Path, plain: _Plain) -> SaeMeta:
    _check_numbers(origin, plain)
    write_atomically(out, lambda partial: save_file(plain.tensors, partial))
    meta = _meta(origin, plain, file_digest(out))
    write_json(out.with_suffix(".json"), asdict(meta))
    return meta


def _check_numbers(origin: _Source, plain: _Plain) -> None:
    for name, tensor in plain.tensors.items():
        if bool(tensor.isnan().any()):
            raise ValueError(f"{origin.source}: tensor {name} contains NaN; fetch or train this SAE again")


def _meta(origin: _Source, plain: _Plain, sha256: str) -> SaeMeta:
    return SaeMeta(
        **asdict(origin),
        converter_version=ALGORITHM_VERSION,
        architecture=plain.architecture,
        centred=plain.centred,
        sha256=sha256,
        **asdict(plain.spec),
    )


def _fetch(source: SaeSource, revision: str | None, cache_dir: Path | None, expected: _Spec | None) -> tuple[Fetched, _Source]:
    """The SAE's files; its configuration first, so that an SAE that cannot be used is refused before its weights are downloaded."""
    form = FORMS[source.loader]
    commit, files = revision, {}
    if form.configs:
        configs = _fetch_named(source, revision, cache_dir, form.configs, ())
        _check_config(source.name, _config(source, configs), expected, source.norm_scaling_factor is not None)
        commit, files = configs.commit, configs.files
    weights = _fetch_named(source, commit, cache_dir, (form.weights,), form.optional)
    fetched = replace(weights, files=files | weights.files)
    return fetched, _Source(f"{source.repo}@{fetched.commit}/{source.folder}", _digest(source, fetched))


def _fetch_named(
    source: SaeSource, revision: str | None, cache_dir: Path | None, names: tuple[str, ...], optional: tuple[str, ...]
) -> Fetched:
    wanted = tuple(f"{source.folder}/{name}" for name in names)
    extra = tuple(f"{source.folder}/{name}" for name in optional)

    def choose(repo: str, listing: Mapping[str, int]) -> list[str]:
        for name in wanted:
            if name not in listing:
                raise HubError(f"{repo} has no {name}, which an SAE of this form ({source.loader}) consists of; check the id and revision")
        return [*wanted, *(name for name in extra if name in listing)]

    return fetch_files(source.repo, revision, choose, cache_dir, needed=wanted + extra, inside=source.folder)


def _digest(source: SaeSource, fetched: Fetched) -> str:
    """Of the files and of what sae-lens' list adds to them. The commit is no part of it: the same bytes are the same SAE."""
    return value_digest([source.loader, source.norm_scaling_factor, _overrides(source), fetched.files])


def _overrides(source: SaeSource) -> dict[str, Any]:
    from sae_lens.loading.pretrained_saes_directory import get_config_overrides

    return dict(get_config_overrides(source.release, source.id))


@contextmanager
def _reading(fetched: Fetched) -> Iterator[None]:
    """sae-lens' loaders know no revision and ask the hub for the newest files: let them read those that were fetched and checked."""
    from huggingface_hub.errors import EntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def local_file(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        name = f"{subfolder}/{filename}" if subfolder else filename
        if repo_id != fetched.repo or name not in fetched.files:
            raise EntryNotFoundError(f"{name} of {repo_id} was not fetched")
        return str(fetched.folder / name)

    def local_shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(local_file(repo_id, filename), framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    replaced = {"hf_hub_download": local_file, "get_safetensors_tensor_shapes": local_shapes}
    before = {name: getattr(loaders, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(loaders, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(loaders, name, function)


def _config(source: SaeSource, fetched: Fetched) -> dict[str, Any]:
    """The configuration as sae-lens understands it."""
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_CONFIG_GETTERS, handle_config_defaulting

    if source.loader == "sae_lens":
        _check_activation(source.name, fetched.folder / source.folder / _CONFIG)
    with _reading(fetched), _readable(source.name):
        config = NAMED_PRETRAINED_SAE_CONFIG_GETTERS[source.loader](source.repo, source.folder, "cpu", False, _overrides(source))
        return dict(handle_config_defaulting(config))


def _from_hub(source: SaeSource, fetched: Fetched, expected: _Spec | None) -> _Plain:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import gemma_2_sae_huggingface_loader

    converter = None
    if source.loader == "gemma_2":
        shape = _npz_shape(fetched.folder / source.folder / FORMS["gemma_2"].weights)
        if expected:
            _check_shape(source.name, shape, expected)
        converter = functools.partial(_with_shape, gemma_2_sae_huggingface_loader, shape)
    with _reading(fetched), _readable(source.name):
        sae, _, _ = SAE.from_pretrained_with_cfg_and_sparsity(source.release, source.id, device="cpu", dtype="float32", converter=converter)
    return _plain(source.name, sae, expected)


def _npz_shape(file: Path) -> tuple[int, int]:
    with _readable(str(file)), np.load(file, allow_pickle=False) as arrays:
        name = next(name for name in arrays.files if name.lower() == "w_enc")
        d_model, n_features = arrays[name].shape
        return d_model, n_features


def _with_shape(loader: Callable[..., Any], shape: tuple[int, int], *, cfg_overrides: dict[str, Any] | None, **options: Any) -> Any:
    """Gemma Scope's loader guesses width and number of features from names: give it those of the weights."""
    return loader(cfg_overrides=(cfg_overrides or {}) | {"d_in": shape[0], "d_sae": shape[1]}, **options)


def _check_folder(folder: Path) -> None:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; a folder in sae-lens' format has {_CONFIG} and {_WEIGHTS}")
    if fault := safetensors_fault(folder / _WEIGHTS):
        raise ValueError(f"{folder / _WEIGHTS}: not a readable safetensors file ({fault}); fetch or copy it again")


def _from_folder(folder: Path, expected: _Spec | None) -> _Plain:
    from sae_lens import SAE

    _check_activation(str(folder), folder / _CONFIG)
    with _readable(str(folder)):
        sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
    return _plain(str(folder), sae, expected)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(f"{what}: sae-lens cannot read it ({type(error).__name__}: {error}); is it an SAE of this form?") from error


def _check_activation(what: str, config: Path) -> None:
    """sae-lens 6 reads configurations of older versions, but drops their activation function without a word."""
    values = json.loads(config.read_text(encoding="utf-8"))
    activation = values.get("activation_fn_str") or values.get("activation_fn") or "relu"
    if activation not in ("relu", "topk"):  # topk: refused as an architecture
        raise ValueError(f"{what}: activation function {activation!r} is not supported; supported: relu, with or without thresholds")


def _check_shape(what: str, shape: tuple[int, int], expected: _Spec) -> None:
    shapes = f"(W_enc is {shape[0]} x {shape[1]}, the experiment's SAE is {expected.d_model} x {expected.n_features})"
    if shape[0] != expected.d_model:
        raise ValueError(f"{what}: this SAE reads residuals of width {shape[0]}, but the model's width is {expected.d_model} {shapes}")
    if shape[1] != expected.n_features:
        raise ValueError(f"{what}: this SAE has {shape[1]} features, but {expected.n_features} were asked for {shapes}")


def _check_config(what: str, config: Mapping[str, Any], expected: _Spec | None, scale_known: bool) -> _Spec:
    """What a configuration describes; refused when it is not the SAE expected, or one whose arithmetic the plain files cannot express."""
    architecture = config["architecture"]
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{what}: architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    normalisation = config.get("normalize_activations") or "none"
    if normalisation == "expected_average_only_in" and not scale_known:
        raise ValueError(
            f"{what}: normalize_activations is {normalisation!r}, but the constant that residuals are multiplied by is not published with"
            " it; fold it into the weights and set normalize_activations to 'none'"
        )
    if normalisation not in ("none", "expected_average_only_in"):
        raise ValueError(
            f"{what}: normalize_activations is {normalisation!r}, which scales each residual by its own norm; only SAEs on plain residuals,"
            " or residuals times one constant, are supported"
        )
    if config.get("reshape_activations") not in (None, "none", "hook_z"):  # hook_z: heads are concatenated
        raise ValueError(f"{what}: reshape_activations is {config['reshape_activations']!r}; only SAEs on residuals are supported")
    hook = hook_of_config(what, config.get("metadata", config))
    if hook is None:
        raise ValueError(f"{what}: its configuration names no hook (hook_name), so this SAE's layer cannot be checked; add it to {_CONFIG}")
    if config.get("d_out", config["d_in"]) != config["d_in"]:
        raise ValueError(
            f"{what}: it reads {config['d_in']} numbers and writes {config['d_out']}; only transcoders of one width are supported"
        )
    spec = _Spec(*site_of_hook(what, hook), config["d_in"], config["d_sae"])
    if expected:
        check_hook(what, hook, expected.layer, expected.site)
        _check_shape(what, (spec.d_model, spec.n_features), expected)
    return spec


def _plain(what: str, sae: Any, expected: _Spec | None) -> _Plain:
    """The five tensors of a converted file.

    Where the source subtracts b_dec from its input, that is folded: (x - b_dec) W_enc + b_enc = x W_enc + (b_enc - b_dec W_enc).
    A constant factor on the input was folded by sae-lens: (s x) W_enc = x (s W_enc), decoder and b_dec divided by s. sae-lens applies a
    ReLU before the threshold, so a negative threshold acts as 0.
    """
    spec = _check_config(what, sae.cfg.to_dict(), expected, scale_known=False)
    with torch.no_grad():
        W_enc, b_enc, b_dec = sae.W_enc.detach().float(), sae.b_enc.detach().float(), sae.b_dec.detach().float()
        if sae.cfg.apply_b_dec_to_input:
            b_enc = (b_enc.double() - _times(b_dec, W_enc)).float()
        jumps = sae.cfg.architecture().startswith("jumprelu")
        threshold = sae.threshold.detach().float().clamp(min=0) if jumps else torch.zeros_like(b_enc)
        tensors = {"W_enc": W_enc, "b_enc": b_enc, "threshold": threshold, "W_dec": sae.W_dec.detach().float(), "b_dec": b_dec}
    shapes = tensor_shapes(spec.d_model, spec.n_features)
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{what}: tensor {name} has shape {tuple(tensors[name].shape)}, but {shape} was expected")
    kwargs = sae.cfg.metadata.model_from_pretrained_kwargs or {}
    centred = spec.site in CENTRED_SITES and bool(kwargs.get("center_writing_weights", False))
    return _Plain({name: tensors[name].contiguous() for name in shapes}, spec, sae.cfg.architecture(), centred)


def _times(row: Tensor, matrix: Tensor) -> Tensor:
    """A row times a matrix in float64, in blocks, so that the matrix is never there in float64 as a whole."""
    blocks = matrix.split(_FOLD_BLOCK, dim=1)
    return torch.cat([row.double() @ block.double() for block in blocks])
