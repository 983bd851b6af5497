"""What a user brings: a small Llama-form model with random weights and Llama 2's kind of tokenizer, SAEs as sae-lens saves them, texts."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import torch
from tokenizer_kinds import KINDS, TEXTS
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

D_MODEL, N_FEATURES, N_LAYERS = 32, 48, 4


def write_model(folder: Path) -> None:
    """A model whose tokenizer puts "<s>" and a dummy prefix before every text."""
    tokenizer = KINDS["BPE with dummy prefix (Llama 2)"]()
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos)])
    sizes = {"hidden_size": D_MODEL, "intermediate_size": 64, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4}
    ids = {"bos_token_id": bos, "eos_token_id": tokenizer.token_to_id("</s>")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, initializer_range=0.2, **sizes, **ids)
        LlamaForCausalLM(config).save_pretrained(folder)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def write_named_files(folder: Path) -> None:
    """What `saesteer init` reads of a larger model and its SAEs: configurations and the tokenizer, without weights."""
    configs: dict[str, dict[str, Any]] = {"model/config.json": {"hidden_size": 2048, "num_hidden_layers": 16, "bos_token_id": 1}}
    for layer in (4, 8, 12):
        metadata = {"hook_name": f"blocks.{layer}.hook_resid_post", "prepend_bos": True, "sae_lens_version": "6.54.12"}
        configs[f"saes/layer_{layer}/cfg.json"] = {"architecture": "jumprelu", "d_in": 2048, "d_sae": 16384, "metadata": metadata}
    for name, values in configs.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(values))
    KINDS["BPE with dummy prefix (Llama 2)"]().save(str(folder / "model/tokenizer.json"))


def write_saes(folder: Path, layers: tuple[int, ...]) -> None:
    """SAEs with random weights and decoder rows of unit norm, saved by sae-lens for inference."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    for layer in layers:
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_MODEL, d_sae=N_FEATURES))
        sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(layer)
            sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(N_FEATURES, D_MODEL), dim=1))
            sae.W_enc.copy_(sae.W_dec.T)
            sae.threshold.fill_(0.5)
        sae.save_model(folder / f"layer_{layer}")


def write_texts(file: Path) -> None:
    """Some 120 different texts of the words that the tokenizer was made from."""
    words = [text.split() for text in TEXTS[:4]]
    texts = [" ".join([*words[n % 4][n % 5 :], *words[(n + 1) % 4][: n % 7], *words[n % 3][: n % 11]]) for n in range(120)]
    pl.DataFrame({"text": texts}).write_parquet(file)
