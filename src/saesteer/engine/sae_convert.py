"""Fetch an SAE and convert it to the plain files that `saesteer.engine.saes` reads, or to an `Sae` in memory.

sae-lens reads each published form (`engine.sae_read`); its arithmetic becomes five tensors here. What it leaves to the encoder's run time
is folded into the weights where it is a constant, kept as `k`, `centred` and `scale` where it depends on the row, and refused where it is
neither.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from saesteer.core.files import file_digest, safetensors_fault, value_digest, write_atomically, write_json
from saesteer.core.hook_points import CENTRED_HOOK_POINTS
from saesteer.engine.finite import check_files, check_weights
from saesteer.engine.sae_read import config_of, npz_shape, read
from saesteer.engine.saes import Sae, SaeMeta, placed, read_meta, tensor_shapes
from saesteer.settings import SaeSettings
from saesteer.sources.hub import Fetched, chosen, fetch_files
from saesteer.sources.pins import SAE_FILES, is_current, pin
from saesteer.sources.sae_sources import (
    FORMS,
    SaeSource,
    check_hook,
    files_of,
    folder_of,
    hook_of_config,
    layer_and_hook_point,
    listed_source,
    local_source,
    sae_source,
    with_form,
)

ALGORITHM_VERSION = 5

_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
ARCHITECTURES = ("jumprelu", "standard", "topk", "gated", *_TRANSCODERS)
"""Architectures that can be used. A transcoder's skip connection passes its activations by, and with them all steering."""
_REFUSED = {
    "abstopk": "its activations have signs, so that none is the largest",
    "matching_pursuit": "its activations are found one after the other, each from what remains",
    "temporal": "its activations depend on the tokens before (attention), so they are no function of one residual",
} | dict.fromkeys(("batchtopk", "matryoshka_batchtopk"), "it is the form for training; save it with sae-lens' save_inference_model")
_FOLD_BLOCK = 4096


@dataclass(frozen=True)
class Spec:
    """Where an SAE reads and how large it is."""

    layer: int
    hook_point: str
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


Origin = dict[str, Any]
"""What the converted file says of where it comes from: `source` and `source_digest`."""


def fetch_and_convert(settings: SaeSettings, layer: int, cache_dir: Path | None, out: Path) -> SaeMeta:
    """Convert the SAE of a layer, fetched from the hub at the pinned revision. What is current is left as it is.

    `cache_dir` holds Hugging Face's cache in `hub/`, null its default place.
    """
    expected = Spec(layer, settings.hook_point, settings.d_model, settings.n_features)
    source, fetched, origin = _fetch(sae_source(settings, layer), settings.revision, cache_dir, expected)
    made_from = {"decoder_rows": settings.decoder_rows, "converter_version": ALGORITHM_VERSION}
    if is_current(out, origin | asdict(expected) | made_from):
        return read_meta(out)
    return _write(origin, _fetched(source, fetched, expected), out, settings.decoder_rows)


def convert_sae(
    source: Path, layer: int, hook_point: str, d_model: int, n_features: int, out: Path, decoder_rows: str = "as_trained"
) -> SaeMeta:
    """Read an SAE's folder in one of the forms (saesteer.sources.sae_sources.FORMS), check that it is the SAE asked for, write `out`
    (.safetensors, float32) and the JSON beside it. `decoder_rows` is the setting of that name."""
    return _write(*_from_folder(source, Spec(layer, hook_point, d_model, n_features)), out, decoder_rows)


def check_sae(settings: SaeSettings, layer: int, cache_dir: Path | None) -> None:
    """Refuse the SAE of a layer that conversion would refuse, by its configuration and, in a folder, by its weights; of one on the hub, the
    configuration alone is fetched."""
    expected = Spec(layer, settings.hook_point, settings.d_model, settings.n_features)
    if settings.path is None:
        _configured(sae_source(settings, layer), settings.revision, cache_dir, expected)
    else:
        source, fetched = _local(Path(settings.path.format(layer=layer)))
        _check_config(source, fetched, expected)
        weights = fetched.folder / files_of(source).weights
        check_files([weights] if weights.suffix == ".safetensors" else [])


def published_sae(release: str, sae_id: str, revision: str | None, cache_dir: Path | None, dtype: str, device: str) -> Sae:
    """An SAE of a release that sae-lens lists, fetched from the hub (or found in its cache) at a revision, null the newest."""
    source, fetched, origin = _fetch(listed_source(release, sae_id), revision, cache_dir, None)
    return _in_memory(origin, _fetched(source, fetched, None), dtype, device)


def sae_from_folder(folder: Path, dtype: str, device: str) -> Sae:
    """The SAE in a folder."""
    return _in_memory(*_from_folder(folder, None), dtype, device)


def sae_from_object(sae: Any, dtype: str, device: str) -> Sae:
    """The SAE that sae-lens has loaded or trained, an `sae_lens.SAE`."""
    if not hasattr(sae, "cfg"):
        raise ValueError(f"an SAE is a folder, a release with sae_id, or an sae_lens.SAE, not a {type(sae).__name__}")
    converted = plain("the SAE given", sae, None)
    origin = {"source": "an SAE object", "source_digest": hashlib.sha256(save(converted.tensors)).hexdigest()}
    return _in_memory(origin, converted, dtype, device)


def _in_memory(origin: Origin, converted: Plain, dtype: str, device: str) -> Sae:
    """The SAE as `_write` and `load_sae` give it, without a file; its SHA-256 is that of the file that would be written."""
    return placed(converted.tensors, _meta(origin, converted, hashlib.sha256(save(converted.tensors)).hexdigest()), dtype, device)


def _write(origin: Origin, converted: Plain, out: Path, decoder_rows: str) -> SaeMeta:
    converted = with_unit_rows(origin["source"], converted) if decoder_rows == "unit" else converted
    write_atomically(out, lambda partial: save_file(converted.tensors, partial))
    meta = _meta(origin, converted, file_digest(out))
    write_json(out.with_suffix(".json"), asdict(meta))
    return meta


def _meta(origin: Origin, converted: Plain, sha256: str) -> SaeMeta:
    values = {name: value for name, value in vars(converted).items() if name not in ("tensors", "spec")}
    return SaeMeta(**origin, converter_version=ALGORITHM_VERSION, sha256=sha256, **values, **asdict(converted.spec))


def _fetch(source: SaeSource, revision: str | None, cache_dir: Path | None, expected: Spec | None) -> tuple[SaeSource, Fetched, Origin]:
    """The SAE's files; its configuration first, so that an SAE that cannot be used is refused before its weights are downloaded."""
    source, configs = _configured(source, revision, cache_dir, expected)
    names = files_of(source)
    weights = _fetch_named(source, configs.commit or revision, cache_dir, (names.weights,), names.optional)
    fetched = replace(weights, files=configs.files | weights.files)
    # Of the files and of what sae-lens' list adds to them. The commit is no part of it: the same bytes are the same SAE.
    digest = value_digest([source.loader, source.norm_scaling_factor, dict(source.overrides), fetched.files])
    return source, fetched, {"source": f"{source.repo}@{fetched.commit}/{source.folder}", "source_digest": digest}


def _configured(source: SaeSource, revision: str | None, cache_dir: Path | None, expected: Spec | None) -> tuple[SaeSource, Fetched]:
    """The SAE with its form, and its configuration, which is checked; of a form without one, no files."""
    source = _with_form_on_hub(source, revision, cache_dir) if source.loader is None else source
    names, configs = files_of(source), Fetched(Path(), source.repo, "", {})
    if names.configs:
        configs = _fetch_named(source, revision, cache_dir, names.configs, ())
    _check_config(source, configs, expected)
    return source, configs


def _with_form_on_hub(source: SaeSource, revision: str | None, cache_dir: Path | None) -> SaeSource:
    """The SAE of a repository that is in no list, with the form that its files' names tell."""
    with_forms: list[SaeSource] = []

    def choose(repo: str, listing: Mapping[str, int]) -> list[str]:
        with_forms.append(with_form(source, listing))
        return list(files_of(with_forms[-1]).configs)

    fetch_files(source.repo, revision, choose, cache_dir, inside=source.folder)
    return with_forms[-1]


def _fetch_named(
    source: SaeSource, revision: str | None, cache_dir: Path | None, needed: tuple[str, ...], optional: tuple[str, ...]
) -> Fetched:
    choose = chosen(needed, optional, f", which an SAE of this form ({source.loader}) consists of; check the id and revision")
    return fetch_files(source.repo, revision, choose, cache_dir, needed=needed + optional, inside=folder_of(source))


def _check_config(source: SaeSource, fetched: Fetched, expected: Spec | None) -> None:
    """Refuse what the configuration tells, where it is known without the weights."""
    if FORMS[str(source.loader)].config_first:
        check_config(source.name, config_of(source, fetched), expected, source.norm_scaling_factor is not None)


def _fetched(source: SaeSource, fetched: Fetched, expected: Spec | None) -> Plain:
    weights = fetched.folder / files_of(source).weights
    if weights.suffix == ".npz" and expected:
        check_shape(source.name, npz_shape(weights), expected)
    return plain(source.name, read(source, fetched), expected)


def _local(folder: Path) -> tuple[SaeSource, Fetched]:
    """A folder is part of a repository on this machine."""
    source = local_source(folder)
    names, repository = files_of(source), Path(source.release)
    present = (name for name in (*names.configs, names.weights, *names.optional) if (repository / name).is_file())
    return source, Fetched(repository, source.repo, "", dict.fromkeys(present, ""))


def _from_folder(folder: Path, expected: Spec | None) -> tuple[Origin, Plain]:
    source, fetched = _local(folder)
    _check_config(source, fetched, expected)
    weights = fetched.folder / files_of(source).weights
    if weights.suffix == ".safetensors" and (fault := safetensors_fault(weights)):
        raise ValueError(f"{weights}: not a readable safetensors file ({fault}); fetch or copy it again")
    origin = {"source": folder.as_posix(), "source_digest": pin(folder, patterns=SAE_FILES)["digest"]}
    return origin, _fetched(source, fetched, expected)


def check_shape(what: str, shape: tuple[int, int], expected: Spec) -> None:
    """Refuse an SAE of another width or number of features."""
    shapes = f"(W_enc is {shape[0]} x {shape[1]}, the experiment's SAE is {expected.d_model} x {expected.n_features})"
    if shape[0] != expected.d_model:
        raise ValueError(f"{what}: this SAE reads residuals of width {shape[0]}, but the model's width is {expected.d_model} {shapes}")
    if shape[1] != expected.n_features:
        raise ValueError(f"{what}: this SAE has {shape[1]} features, but {expected.n_features} were asked for {shapes}")


def check_config(what: str, config: Mapping[str, Any], expected: Spec | None, scale_known: bool) -> Spec:
    """What a configuration describes; refused when it is not the SAE expected, or one whose arithmetic the plain files cannot express."""
    if missing := [name for name in ("architecture", "d_in", "d_sae") if name not in config]:
        raise ValueError(f"{what}: its configuration lacks {', '.join(missing)}; fetch or copy it again")
    architecture = config["architecture"]
    if architecture not in ARCHITECTURES:
        reason = _REFUSED.get(architecture, f"supported: {', '.join(ARCHITECTURES)}")
        raise ValueError(f"{what}: architecture {architecture!r} is not supported; {reason}")
    normalisation = config.get("normalize_activations") or "none"
    if normalisation == "expected_average_only_in" and not scale_known:
        raise ValueError(
            f"{what}: normalize_activations is {normalisation!r}, but the constant that residuals are multiplied by is not published with"
            " it; fold it into the weights and set normalize_activations to 'none'"
        )
    if normalisation not in ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"):
        raise ValueError(f"{what}: normalize_activations is {normalisation!r}; fold it into the weights and set it to 'none'")
    if config.get("reshape_activations") not in (None, "none", "hook_z"):  # hook_z: heads come side by side
        raise ValueError(f"{what}: reshape_activations is {config['reshape_activations']!r}; only SAEs on residuals are supported")
    hook = hook_of_config(what, config.get("metadata", config))
    if hook is None:
        raise ValueError(f"{what}: its configuration names no hook (hook_name), so this SAE's layer cannot be checked; add it to cfg.json")
    spec = Spec(*layer_and_hook_point(what, hook), config["d_in"], config["d_sae"])
    if config.get("d_out", spec.d_model) != spec.d_model:
        raise ValueError(
            f"{what}: it reads {spec.d_model} numbers and writes {config['d_out']}; only transcoders of one width are supported"
        )
    if spec.hook_point not in CENTRED_HOOK_POINTS and normalisation in ("layer_norm", "constant_norm_rescale"):
        raise ValueError(f"{what}: normalize_activations is {normalisation!r}, which is not supported at {spec.hook_point}")
    if expected:
        check_hook(what, hook, expected.layer, expected.hook_point)
        check_shape(what, (spec.d_model, spec.n_features), expected)
    return spec


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
    check_weights(what, ((name, tensors[name]) for name in shapes))
    kwargs, normalisation = sae.cfg.metadata.model_from_pretrained_kwargs or {}, sae.cfg.normalize_activations
    return Plain(
        {name: tensors[name].contiguous() for name in shapes},
        spec,
        sae.cfg.architecture(),
        centred=spec.hook_point in CENTRED_HOOK_POINTS
        and (bool(kwargs.get("center_writing_weights", False)) or normalisation == "layer_norm"),
        k=min(sae.cfg.k, spec.n_features) if sae.cfg.architecture() == "topk" else None,
        scale={"layer_norm": "std", "constant_norm_rescale": "rms"}.get(normalisation),
    )


def with_unit_rows(what: str, sae: Plain) -> Plain:
    """An SAE with its decoder rows brought to unit norm: each is divided by its norm, and its feature's activations are multiplied by it. A
    row of zeros stays."""
    if sae.k is not None:
        raise ValueError(
            f"{what}: a TopK SAE would keep other activations with decoder rows of unit norm; set saes.decoder_rows to as_trained"
        )
    norms = sae.tensors["W_dec"].double().norm(dim=1)
    norms = norms.where(norms > 0, 1.0)
    longer = {name: (sae.tensors[name].double() * norms).float() for name in ("W_enc", "b_enc", "threshold")}
    rows = (sae.tensors["W_dec"].double() / norms[:, None]).float()
    return replace(sae, tensors={**sae.tensors, **longer, "W_dec": rows}, decoder_rows="unit")


def _tensors(sae: Any) -> dict[str, Tensor]:
    """W_enc, b_enc, threshold, W_dec and b_dec."""
    W_enc, W_dec, b_dec = sae.W_enc.detach().float(), sae.W_dec.detach().float(), sae.b_dec.detach().float()
    if sae.cfg.architecture() == "gated":
        # Gate and magnitude are one product with two biases, so the gate x W_enc + b_gate > 0 says that the magnitude e^r x W_enc + b_mag
        # is above b_mag - e^r b_gate: a JumpReLU SAE (arXiv 2404.16014, section 3.2).
        growth, b_mag = sae.r_mag.detach().double().exp(), sae.b_mag.detach().double()
        W_enc, b_enc = W_enc * growth.float(), b_mag.float()
        threshold = (b_mag - growth * sae.b_gate.detach().double()).clamp(min=0).float()
    else:
        b_enc = sae.b_enc.detach().float()
        # sae-lens applies a ReLU before the threshold, so a negative threshold acts as 0.
        jumps = sae.cfg.architecture().startswith("jumprelu")
        threshold = sae.threshold.detach().float().clamp(min=0) if jumps else torch.zeros_like(b_enc)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):  # activations are those of unit decoder rows
        norm = W_dec.norm(dim=1)
        W_enc, b_enc, W_dec = W_enc * norm, b_enc * norm, W_dec / norm[:, None]
    if sae.cfg.apply_b_dec_to_input:  # in blocks, so that the encoder is never there in float64 as a whole
        shift = torch.cat([b_dec.double() @ block.double() for block in W_enc.split(_FOLD_BLOCK, dim=1)])
        b_enc = (b_enc.double() - shift).float()
    return {"W_enc": W_enc, "b_enc": b_enc, "threshold": threshold, "W_dec": W_dec, "b_dec": b_dec}
