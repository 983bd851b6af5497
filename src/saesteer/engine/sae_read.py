"""Published forms of SAEs, read by sae-lens' own loaders from files that were fetched and checked, without a network and without running
anything that a file holds.

Pickled files are read as plain tensors only (torch.load's weights_only, which the loaders leave to an environment variable). sparsify's
form is read here: sae-lens' loader transposes its decoder, and takes `normalize_decoder` for "b_dec is not subtracted" (6.54). What
sae-lens would take for something else, because it does not look, is refused or corrected: `_overrides`.
"""

import functools
import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from saesteer.core.files import zip_fault
from saesteer.settings import SettingsError
from saesteer.sources.hub import Fetched
from saesteer.sources.sae_sources import SaeSource, files_of, hook_of_module

_DICTIONARIES = ("AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder", "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")
"""Classes of dictionary_learning whose arithmetic sae-lens' loader knows; any other it takes for AutoEncoder."""


def config_of(source: SaeSource, fetched: Fetched) -> dict[str, Any]:
    """The configuration as sae-lens understands it. What version 6 wrote is read without importing sae-lens, which takes seconds."""
    values, *_ = [_json(fetched.folder / name) for name in files_of(source).configs]
    if source.loader == "sae_lens":
        values |= _overrides(source, fetched)
        if str(values.get("metadata", {}).get("sae_lens_version", "")).startswith("6."):
            return values
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_CONFIG_GETTERS, handle_config_defaulting

    getters: dict[str, Callable[..., dict[str, Any]]] = NAMED_PRETRAINED_SAE_CONFIG_GETTERS | {"sparsify": _sparsify_config}
    with _reading(fetched), readable(source.name):
        config = getters[str(source.loader)](source.repo, source.folder, "cpu", False, _overrides(source, fetched))
        return dict(handle_config_defaulting(config))


def read(source: SaeSource, fetched: Fetched) -> Any:
    """The SAE as an `sae_lens.SAE` in float32, a constant factor on its input folded into its weights."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

    loaders: dict[str, Callable[..., tuple[Any, Any, Any]]] = NAMED_PRETRAINED_SAE_LOADERS | {"sparsify": _sparsify}

    def converter(_path: Path, device: str, cfg_overrides: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        overrides = _overrides(source, fetched) | cfg_overrides
        config, state, _ = loaders[str(source.loader)](source.repo, source.folder, device, False, overrides)
        return config, _in_full(state)

    with _reading(fetched), readable(source.name):
        sae = SAE.load_from_disk(fetched.folder / source.folder, device="cpu", dtype="float32", converter=converter)
        if sae.cfg.normalize_activations == "expected_average_only_in" and source.norm_scaling_factor is not None:
            sae.fold_activation_norm_scaling_factor(source.norm_scaling_factor)
    return sae


def npz_shape(file: Path) -> tuple[int, int]:
    """Width and number of features of an SAE in NumPy's form, a zip archive; read before anything else of it."""
    if fault := zip_fault(file):
        raise SettingsError(f"{file}: {fault}; choose other SAEs, or fetch them again")
    with readable(str(file)), np.load(file, allow_pickle=False) as arrays:
        name = next(name for name in arrays.files if name.lower() == "w_enc")
        d_model, n_features = arrays[name].shape
        return d_model, n_features


@contextmanager
def readable(what: str) -> Iterator[None]:
    """What sae-lens raises for a file that it cannot read, as one sentence."""
    try:
        yield
    except SettingsError:
        raise
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{what}: its pickled weights hold more than tensors ({needed[1] if needed else 'an object'}), which can run code when they are"
            " opened; they were not opened: choose SAEs in safetensors, or convert them where you trust them"
        ) from error
    except (AttributeError, KeyError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(
            f"{what}: sae-lens cannot read it ({type(error).__name__}: {' '.join(str(error).split())}); is it an SAE of this form, in"
            " folders named as on the hub?"
        ) from error


@contextmanager
def _reading(fetched: Fetched) -> Iterator[None]:
    """sae-lens' loaders know no revision and ask the hub for the newest files: let them read those that were fetched and checked, and of a
    pickled one nothing but tensors."""
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

    replaced: dict[tuple[Any, str], Any] = {
        (loaders, "hf_hub_download"): local_file,
        (loaders, "get_safetensors_tensor_shapes"): local_shapes,
        (torch, "load"): functools.partial(torch.load, weights_only=True),
    }
    before = {place: getattr(*place) for place in replaced}
    try:
        for place, function in replaced.items():
            setattr(*place, function)
        yield
    finally:
        for place, function in before.items():
            setattr(*place, function)


def _overrides(source: SaeSource, fetched: Fetched) -> dict[str, Any]:
    """What replaces sae-lens' reading or guessing of a configuration: its own list's corrections, and what the files say."""
    listed = dict(source.overrides)
    files = files_of(source)
    if files.weights.endswith(".npz") and files.weights in fetched.files:  # width and number of features are guessed from names
        d_model, n_features = npz_shape(fetched.folder / files.weights)
        return listed | {"d_in": d_model, "d_sae": n_features} | ({"d_out": d_model} if source.loader == "gemma_2_transcoder" else {})
    if source.loader == "sae_lens":  # version 6 reads configurations of older versions, but drops their activation function without a word
        config = _json(fetched.folder / files.configs[0]) | listed
        activation = config.get("activation_fn_str") or config.get("activation_fn") or "relu"
        if activation not in ("relu", "topk") or (activation == "topk" and not (config.get("activation_fn_kwargs") or {}).get("k")):
            raise SettingsError(f"{source.name}: activation function {activation!r} is not supported; supported: relu, and topk with its k")
    if source.loader != "dictionary_learning_1":
        return listed
    trainer = _json(fetched.folder / files.configs[0]).get("trainer", {})
    kind, module = trainer.get("dict_class"), trainer.get("submodule_name")
    if kind not in _DICTIONARIES:
        raise SettingsError(f"{source.name}: dictionaries of class {kind!r} are not supported; supported: {', '.join(_DICTIONARIES)}")
    if module is None:
        return listed
    hook = hook_of_module(str(module))
    if hook is None:
        raise SettingsError(f"{source.name}: it reads {module!r}, which is no known hook point in a model; choose one of resid_post")
    return listed | {"hook_name": hook}


def _in_full(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, with matrices in full that are stored in eight bits: a row of integers a feature (`W_enc.int8`, `W_dec.int8`) and what
    each is multiplied by (`W_enc.scale`, `W_dec.scale`)."""
    scaled = {name.removesuffix(".scale") for name in state if name.endswith(".scale")}
    rows = {name: state[f"{name}.int8"] * state[f"{name}.scale"][:, None] for name in scaled}
    plain = {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] not in scaled}
    return plain | {name: matrix.T if name == "W_enc" else matrix for name, matrix in rows.items()}


def _sparsify_config(repo: str, folder: str, _device: str, _force: bool, overrides: dict[str, Any]) -> dict[str, Any]:
    from sae_lens.loading.pretrained_sae_loaders import hf_hub_download

    values = _json(Path(hf_hub_download(repo, f"{folder}/cfg.json")))
    what, hook = f"{repo}/{folder}", hook_of_module(folder.rsplit("/", 1)[-1])
    if hook is None:
        raise SettingsError(
            f"{what}: the folder names no hook point in a model; those of sparsify are called layers.10 or layers.10.mlp, not {folder}"
        )
    for key in ("transcode", "skip_connection", "embed_skip", "gram_lookup", "signed"):
        if values.get(key):
            raise SettingsError(f"{what}: {key} is set in its cfg.json, which is not supported")
    if values.get("activation", "topk") != "topk":
        raise SettingsError(f"{what}: activation {values['activation']!r} is not supported; supported: topk")
    n_features = values.get("num_latents") or values["d_in"] * values["expansion_factor"]
    sizes = {"d_in": values["d_in"], "d_sae": n_features, "k": values["k"]}
    metadata = {"hook_name": hook, "sae_lens_version": "6.0.0"}
    return {"architecture": "topk", **sizes, "apply_b_dec_to_input": True, "metadata": metadata, **overrides}


def _sparsify(repo: str, folder: str, device: str, force: bool, overrides: dict[str, Any]) -> tuple[Any, Any, None]:
    from sae_lens.loading.pretrained_sae_loaders import hf_hub_download

    tensors = load_file(hf_hub_download(repo, f"{folder}/sae.safetensors"))
    state = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    return _sparsify_config(repo, folder, device, force, overrides), state, None


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{file} is not readable as JSON ({error}): fetch or copy it again") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{file} holds no settings, but a {type(values).__name__}: fetch or copy it again")
    return values
