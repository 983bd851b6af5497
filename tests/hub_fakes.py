"""Tiny models and SAEs in the forms in which they are published: random, seeded, with a usable share of active features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_models import hf_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

_SPECIAL = {
    "gemma2": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
}
_ADDS_BOS = ("gemma2", "llama")
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_TEXT = (
    "The weather in the north was cold and the river froze before the winter festival began.",
    "She explained that the experiment measures how strongly a feature changes what the model writes.",
    "I think that a good recipe needs fresh tomatoes, basil, olive oil and a little patience.",
    "When the market opened, prices of wheat and copper rose again and traders talked about the harvest.",
)


def small_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of about 400 entries with the special tokens and habits of the family; Gemma's has a chat template."""
    special = _SPECIAL[family]
    added = [*dict.fromkeys(special.values()), *(_TURNS if family == "gemma2" else ())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=added, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(_TEXT, trainer)
    if family in _ADDS_BOS:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    if family == "gemma2":
        fast.chat_template = _TEMPLATE
    return fast


def random_model(folder: Path, family: str, d_model: int = 32, n_layers: int = 4, seed: int = 0, max_shard_size: str = "1GB") -> Path:
    """Write a random model of a family (`_SPECIAL`) with its tokenizer, as a repository of the hub holds it."""
    tokenizer = small_tokenizer(family)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        special = {
            f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
            for name in ("bos", "eos", "pad")
            if name != "pad" or family == "gemma2"
        }
        config = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "initializer_range": 0.1}
        model = hf_model(family, d_model, n_layers, **config, **special)
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases too, so that leaving one out shows
                weight.data += 0.1 * torch.randn_like(weight.data)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def random_weights(d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    """An SAE with unit decoder rows whose codes on residuals with coordinates of size `scale` are active about a fifth of the time."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(n_features, d_model, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    return {
        "W_enc": (decoder.T + 0.1 * torch.randn(d_model, n_features, generator=generator) / d_model**0.5).contiguous(),
        "b_enc": 0.1 * scale * torch.randn(n_features, generator=generator),
        "W_dec": decoder,
        "b_dec": 0.2 * scale * torch.randn(d_model, generator=generator),
        "threshold": scale * (0.5 + 0.5 * torch.rand(n_features, generator=generator)),
    }


def gemma_scope(folder: Path, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> Path:
    """JumpReLU as in Gemma Scope: params.npz alone; layer, hook point and width are in the repository's and folders' names only."""
    folder.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in random_weights(d_model, n_features, seed, scale).items()}
    np.savez(folder / "params.npz", **arrays)
    return folder


def gemma_scope_2(
    folder: Path, layer: int, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0, transcoder: bool = False
) -> Path:
    """JumpReLU as in Gemma Scope 2: config.json and params.safetensors with small w; a transcoder with a skip connection."""
    config: dict[str, Any] = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "width": n_features, "l0": 60}
    config |= {"hf_hook_point_in": f"model.layers.{layer}.output", "type": "sae"}
    weights = random_weights(d_model, n_features, seed, scale)
    if transcoder:
        config |= {"hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output", "affine_connection": True}
        config |= {"hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output", "type": "transcoder"}
        weights["affine_skip_connection"] = torch.eye(d_model)
    renamed = {name.replace("W_", "w_"): tensor for name, tensor in weights.items()}
    return _saved(folder, renamed, "params.safetensors", config, "config.json")


def llama_scope(
    folder: Path, layer: int, d_model: int, n_features: int, factor: float, seed: int = 0, scale: float = 1.0, letter: str = "R"
) -> Path:
    """JumpReLU as in Llama Scope: weights in bfloat16 for residuals times `factor`, one threshold for all, in units of the raw residual."""
    hook = {"R": f"blocks.{layer}.hook_resid_post", "M": f"blocks.{layer}.hook_mlp_out"}[letter]
    weights = random_weights(d_model, n_features, seed, scale * factor)
    hyper = {"d_model": d_model, "d_sae": n_features, "expansion_factor": n_features / d_model, "act_fn": "jumprelu"}
    hyper |= {"hook_point_in": hook, "hook_point_out": hook, "jump_relu_threshold": 0.7 * scale, "norm_activation": "dataset-wise"}
    hyper |= {"dataset_average_activation_norm": {"in": d_model**0.5 / factor, "out": d_model**0.5 / factor}, "use_decoder_bias": True}
    hyper |= {"apply_decoder_bias_to_pre_encoder": False, "sparsity_include_decoder_norm": True, "dtype": "torch.bfloat16"}
    tensors = {name: tensor.bfloat16() for name, tensor in _as_linear(weights).items()}
    return _saved(folder, tensors, "checkpoints/final.safetensors", hyper, "hyperparams.json")


def llama_scope_r1(folder: Path, layer: int, d_model: int, n_features: int, factor: float, seed: int = 0, scale: float = 1.0) -> Path:
    """JumpReLU as in Llama Scope R1-Distill: one threshold a feature, as its logarithm, in units of residuals times `factor`."""
    weights = random_weights(d_model, n_features, seed, scale * factor)
    config = {"d_model": d_model, "expansion_factor": n_features // d_model, "act_fn": "jumprelu"}
    config["hook_point_in"] = f"blocks.{layer}.hook_resid_post"
    tensors = _as_linear(weights) | {"log_jumprelu_threshold": weights["threshold"].log()}
    return _saved(folder, tensors, "sae_weights.safetensors", config, "config.json")


def res_jb(folder: Path, layer: int, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> Path:
    """A ReLU SAE as in gpt2-small-res-jb: an early sae-lens configuration (hook_point, no normalisation key), b_dec taken off the input."""
    config = {"model_name": "gpt2-small", "hook_point": f"blocks.{layer}.hook_resid_pre", "hook_point_layer": layer}
    config |= {"hook_point_head_index": None, "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": False, "context_size": 128}
    config |= {"use_cached_activations": False, "d_in": d_model, "d_sae": n_features, "expansion_factor": n_features // d_model}
    config |= {"dtype": "torch.float32", "device": "mps", "seed": 42, "l1_coefficient": 8e-05, "lr": 0.0004, "b_dec_init_method": "mean"}
    weights = _relu_weights(d_model, n_features, seed, scale) | {"scaling_factor": torch.ones(n_features)}
    _saved(folder, weights, "sae_weights.safetensors", config)
    save_file({"sparsity": torch.zeros(n_features)}, folder / "sparsity.safetensors")
    return folder


def res_sm(
    folder: Path, layer: int, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0, hook_point: str = "resid_post"
) -> Path:
    """A ReLU SAE as in pythia-70m-deduped-res-sm: sae-lens' later configuration, with architecture and hook_name."""
    more = {"hook_layer": layer, "hook_head_index": None, "dataset_trust_remote_code": True, "neuronpedia_id": None}
    return _before_6(folder, f"blocks.{layer}.hook_{hook_point}", _relu_weights(d_model, n_features, seed, scale), more)


def openai_v5(folder: Path, layer: int, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> Path:
    """A TopK SAE on layer-normalised rows as in gpt2-small-resid-post-v5: sae-lens' configuration before 6, with the activation's name."""
    weights = _relu_weights(d_model, n_features, seed, 1.0)  # the input has size 1, whatever the residual's
    more = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}, "normalize_activations": "layer_norm"}
    return _before_6(folder, f"blocks.{layer}.hook_resid_post", weights, more)


def mistral_wg(folder: Path, layer: int, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> Path:
    """A ReLU SAE on rows of one norm as in mistral-7b-res-wg: that they are is said by sae-lens' list, not by the configuration."""
    return _before_6(folder, f"blocks.{layer}.hook_resid_pre", _relu_weights(d_model, n_features, seed, 1.0), {})


def gated_jh(folder: Path, layer: int, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> Path:
    """A gated SAE as in llama-3-8b-it-res-jh."""
    weights = gated_weights(d_model, n_features, seed, scale)
    return _before_6(folder, f"blocks.{layer}.hook_resid_post", weights, {"architecture": "gated"})


def gated_weights(d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    """Gates that close on some positive magnitudes and open on some negative ones."""
    generator = torch.Generator().manual_seed(seed + 1)
    weights = random_weights(d_model, n_features, seed, scale)
    biases = {name: scale * (0.5 * torch.randn(n_features, generator=generator) - 0.5) for name in ("b_gate", "b_mag")}
    growth = 0.3 * torch.randn(n_features, generator=generator)
    return {"W_enc": weights["W_enc"], "W_dec": weights["W_dec"], "b_dec": weights["b_dec"], "r_mag": growth} | biases


def _before_6(folder: Path, hook: str, weights: dict[str, Tensor], more: dict[str, Any]) -> Path:
    n_features, d_model = weights["W_dec"].shape
    config = {"architecture": "standard", "d_in": d_model, "d_sae": n_features, "activation_fn_str": "relu", "apply_b_dec_to_input": True}
    config |= {"finetuning_scaling_factor": False, "context_size": 64, "model_name": "gpt2-small", "hook_name": hook, "prepend_bos": True}
    config |= {"normalize_activations": "none", "dtype": "float32", "device": "cpu", "sae_lens_training_version": None}
    return _saved(folder, weights, "sae_weights.safetensors", config | more)


def sparsify(folder: Path, d_model: int, n_features: int, k: int = 5, seed: int = 0, scale: float = 1.0, **changes: Any) -> Path:
    """A TopK SAE as sparsify saves it: the encoder transposed, the decoder not; the folder's name is the place that it reads."""
    config = {"expansion_factor": n_features // d_model, "normalize_decoder": True, "num_latents": 0, "k": k, "signed": False}
    weights = _relu_weights(d_model, n_features, seed, scale)
    tensors = {"encoder.weight": weights["W_enc"].T, "encoder.bias": weights["b_enc"]}
    tensors |= {name: weights[name] for name in ("W_dec", "b_dec")}
    return _saved(folder, tensors, "sae.safetensors", config | {"d_in": d_model} | changes)


def transcoder_mw(folder: Path, layer: int, d_model: int, n_features: int, seed: int = 0, scale: float = 1.0) -> Path:
    """A ReLU transcoder as in mwhanna's: one file a layer, the encoder transposed, and what W&B kept of the run, misspelt in some."""
    sizes = {"d_model": {"value": d_model}, "d_feature": {"value": n_features}, "batch_size": {"value": 64}}
    weights = _relu_weights(d_model, n_features, seed, scale)
    _saved(folder, weights | {"W_enc": weights["W_enc"].T}, f"layer_{layer}.safetensors", sizes, "wanb-config.yaml")  # JSON is YAML
    _json(folder / "config.yaml", {"model_name": "Qwen/Qwen3-4B"})
    return folder


def dictionary(
    folder: Path,
    layer: int,
    d_model: int,
    n_features: int,
    kind: str = "AutoEncoderTopK",
    seed: int = 0,
    scale: float = 1.0,
    **trainer: Any,
) -> Path:
    """An SAE as dictionary_learning saves it: ae.pt, a pickled state dict, and config.json."""
    folder.mkdir(parents=True)
    values = {"dict_class": kind, "activation_dim": d_model, "dict_size": n_features, "k": 6, "layer": layer, "lm_name": "EleutherAI/p"}
    values |= {"submodule_name": f"resid_post_layer_{layer}"} | trainer
    _json(folder / "config.json", {"trainer": values, "buffer": {"d_submodule": d_model, "ctx_len": 128}})
    torch.save(_dictionary_state(kind, d_model, n_features, seed, scale), folder / "ae.pt")
    return folder


def _dictionary_state(kind: str, d_model: int, n_features: int, seed: int, scale: float) -> dict[str, Tensor]:
    weights = random_weights(d_model, n_features, seed, scale)
    if kind in ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        one = torch.tensor(0.4 * scale)
        return weights | ({"threshold": one, "k": torch.tensor(6)} if kind == "MatryoshkaBatchTopKSAE" else {})
    linear = {f"{part}.weight": _as_linear(weights)[f"{part}.weight"].contiguous() for part in ("encoder", "decoder")}
    if kind == "GatedAutoEncoder":
        gated = gated_weights(d_model, n_features, seed, scale)
        biases = {"decoder_bias": gated["b_dec"], "gate_bias": gated["b_gate"], "mag_bias": gated["b_mag"], "r_mag": gated["r_mag"]}
        return linear | biases
    bias = weights["b_enc"] - weights["threshold"] * (kind == "AutoEncoder")
    named = {"encoder.bias": bias, "bias" if kind == "AutoEncoder" else "b_dec": weights["b_dec"]}
    return linear | named | ({} if kind == "AutoEncoder" else {"threshold": torch.tensor(0.4 * scale), "k": torch.tensor(6)})


def sae_lens_form(folder: Path, d_model: int, n_features: int, hook_name: str, seed: int = 0, scale: float = 1.0, **changes: Any) -> Path:
    """A JumpReLU SAE as sae-lens 6 saves it; `changes` are keys of its configuration."""
    config = {"architecture": "jumprelu", "d_in": d_model, "d_sae": n_features, "dtype": "float32", "device": "cpu"}
    config |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    config["metadata"] = {"hook_name": hook_name, "sae_lens_version": "6.54.0"} | changes.pop("metadata", {})
    config |= changes
    weights = random_weights(d_model, n_features, seed, scale)
    if config["architecture"] != "jumprelu":
        del weights["threshold"]
    return _saved(folder, weights, "sae_weights.safetensors", config)


def _relu_weights(d_model: int, n_features: int, seed: int, scale: float) -> dict[str, Tensor]:
    weights = random_weights(d_model, n_features, seed, scale)
    weights["b_enc"] -= weights.pop("threshold")
    return weights


def _as_linear(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder as torch's linear layers have them: transposed."""
    encoder = {"encoder.weight": weights["W_enc"].T, "encoder.bias": weights["b_enc"]}
    return encoder | {"decoder.weight": weights["W_dec"].T, "decoder.bias": weights["b_dec"]}


def _saved(folder: Path, weights: dict[str, Tensor], name: str, config: dict[str, Any], config_name: str = "cfg.json") -> Path:
    """The folder with weights and a configuration in it."""
    (folder / name).parent.mkdir(parents=True)
    _json(folder / config_name, config)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / name)
    return folder


def _json(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")
