"""Models of other architectures, or of another initialisation, on the grammar of the shipped world, with their SAEs: the same texts,
tokenizer, sizes and schedule. Judge, reference model and labelled texts are the shipped ones, which do not depend on the model.

One folder: model/, saes/layer_NN/, metrics.json.
"""

import logging
import shutil
from dataclasses import asdict, replace
from typing import Any, Literal, get_args

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PretrainedConfig, PreTrainedModel

from saesteer.core.files import write_json
from saesteer.world.streams import stream_seed
from studies.world import corpus, measure, train_model, train_saes
from studies.world.build import METRICS, MODEL, SAES, Build, train_all_saes, training_rows
from studies.world.tokenizer import BOS_ID, EOS_ID, PAD_ID
from studies.world.train_model import ModelRecipe

logger = logging.getLogger(__name__)

EMBEDDING_ROWS = 64
"""Of the held-out texts, those on which it is measured how much of the token the first layer leaves."""


Architecture = Literal["gemma_plain", "llama", "neox"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)


def untrained_model(name: Architecture, recipe: ModelRecipe, vocab_size: int, seed: int) -> PreTrainedModel:
    """gemma_plain: the shipped model's architecture with an ordinary initialisation, so that every layer writes as much. llama: RMS norms
    before each block, gated MLP, rotary positions in all dimensions, tied embeddings. neox (Pythia's): layer norms, attention and a plain
    MLP side by side, rotary positions in a quarter, untied embeddings; the MLP is half as wide again, as it has two matrices for three."""
    if name == "gemma_plain":
        plain = replace(recipe, embedding_scale=1.0, first_write=1.0, growth=1.0, final_norm=1.0)
        return train_model.new_model(plain, vocab_size, seed, "gemma_plain")
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": recipe.d_model,
        "num_hidden_layers": recipe.n_layers,
        "num_attention_heads": recipe.n_heads,
        "max_position_embeddings": recipe.context,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    if name == "llama":
        sizes |= {"intermediate_size": recipe.d_mlp, "num_key_value_heads": recipe.n_kv_heads, "head_dim": recipe.head_dim}
        config: PretrainedConfig = LlamaConfig(rms_norm_eps=1e-6, tie_word_embeddings=True, **sizes)
    else:
        sizes["intermediate_size"] = recipe.d_mlp * 3 // 2
        config = GPTNeoXConfig(use_parallel_residual=True, tie_word_embeddings=False, **sizes)
    with torch.random.fork_rng(devices=[]):  # weights as transformers draws them
        torch.manual_seed(stream_seed(seed, f"{config.model_type}/constructor"))
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def build_architecture(build: Build, name: Architecture) -> dict[str, Any]:
    """Train the model and an SAE a layer into the build's folder, which appears when all is done; returns the metrics."""
    partial, recipe = build.folder.with_name(f"{build.folder.name}.partial"), build.recipe
    shutil.rmtree(partial, ignore_errors=True)
    model = untrained_model(name, recipe.model, len(build.tokenizer), build.seed)
    train_model.train(model, training_rows(build), recipe.model, build.seed, name)
    train_model.save_model(model, build.tokenizer, partial / MODEL)
    train_all_saes(replace(build, folder=partial), f"saesteer-{name}")
    model = measure.load_model(partial / MODEL)
    held_out = corpus.fitted_corpus(build.lexicon, build.seed, "held_out", recipe.held_out_documents)
    measured_rows = corpus.padded_rows(build.tokenizer, held_out.documents)
    layers = [
        {"layer": layer, **measure.sae_metrics(measure.load_sae(partial / SAES / f"layer_{layer:02d}"), x)}
        for layer, x in enumerate(train_saes.residuals(model, measured_rows))
    ]
    metrics = {
        "seed": build.seed,
        "architecture": name,
        "recipe": asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "model_loss": measure.held_out_loss(model, measured_rows),
        "entropy_bound": held_out.nats / held_out.n_tokens,
        "embedding_cosine": measure.embedding_cosine(model, measured_rows[:EMBEDDING_ROWS]),
        "layers": layers,
    }
    write_json(partial / METRICS, metrics)
    shutil.rmtree(build.folder, ignore_errors=True)
    partial.rename(build.folder)
    logger.info("%s: %.3f nats a token", build.folder, metrics["model_loss"])
    return metrics
