"""Random Gemma-2 models and JumpReLU SAEs of any shape for the benchmarks, and how many floating-point operations they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers import decoders as token_decoders
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.models import LanguageModel, language_model
from saesteer.engine.saes import TENSORS, Sae, SaeMeta
from saesteer.engine.structure import untried_structure


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of the SAE at each of its layers."""

    n_vocab: int
    d_model: int
    n_layers: int
    n_features: int  # of one SAE
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_mlp: int

    @property
    def block_weights(self) -> int:
        """Entries of the matrices of one decoder block: queries and output, keys and values, three of the MLP."""
        attention = 2 * self.d_model * self.head_dim * (self.n_heads + self.n_kv_heads)
        return attention + 3 * self.d_model * self.d_mlp

    @property
    def n_parameters(self) -> int:
        """Weights of the whole model in its matrices; head and embedding are one."""
        return self.n_layers * self.block_weights + self.n_vocab * self.d_model

    @property
    def head_flops(self) -> float:
        """Of one row's logits; a lens row's as well."""
        return 2.0 * self.n_vocab * self.d_model

    def feature_flops(self, layer: int) -> float:
        """Of one spliced row of the output score: the blocks after `layer`, and the head. Matrix products alone, as everywhere here."""
        return 2.0 * (self.n_layers - 1 - layer) * self.block_weights + self.head_flops

    @property
    def token_flops(self) -> float:
        """Of one token of the sweep: all blocks, the head, and the SAE's encoder for a_max."""
        return 2.0 * (self.n_layers * self.block_weights + self.n_features * self.d_model) + self.head_flops


MAIN_JOB = Shape(n_vocab=64_000, d_model=512, n_layers=10, n_features=16_384, n_heads=8, n_kv_heads=4, head_dim=64, d_mlp=2048)
GEMMA_2_2B = Shape(n_vocab=256_000, d_model=2304, n_layers=26, n_features=16_384, n_heads=8, n_kv_heads=4, head_dim=256, d_mlp=9216)
GEMMA_2_9B = Shape(n_vocab=256_000, d_model=3584, n_layers=42, n_features=16_384, n_heads=16, n_kv_heads=8, head_dim=256, d_mlp=14_336)
PROMPT = "From my experience,"
PREFIXES = ("I believe that", "I once heard that", "Findings show that", "Then the man said:")
SCORE_FACTOR, SWEEP_FACTOR = 10.0, "2"
"""What the main job is asked."""


def word_tokenizer(n_vocab: int, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """The words of some texts, a full stop, and made-up words up to `n_vocab`."""
    split = pre_tokenizers.Whitespace()
    known = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)} - {"."})
    # "abcdef" is a text that transformers' stop strings tokenise and expect back.
    vocab = {piece: number for number, piece in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", ".", "abcdef", *known])}
    vocab |= {f"w{number}": number for number in range(len(vocab), n_vocab)}
    fast = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    fast.pre_tokenizer = split
    fast.decoder = token_decoders.Fuse()
    fast.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])])
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


@contextmanager
def _made_as(device: str, dtype: str) -> Iterator[None]:
    """Within the context, new tensors are of this kind and on this device: no second copy of the weights anywhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def random_gemma2(shape: Shape, texts: Sequence[str], device: str = "cpu", dtype: str = "float32") -> LanguageModel:
    """A Gemma-2 with random weights, made where it will be used; `texts` are those that its tokenizer has to know."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=shape.n_vocab,
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.d_mlp,
        query_pre_attn_scalar=shape.head_dim,
        initializer_range=0.05,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="eager",
    )
    with _made_as(device, dtype):
        model = Gemma2ForCausalLM(config)
    tokenizer = word_tokenizer(shape.n_vocab, texts)
    if device == "meta":
        projections = tuple(block.self_attn.o_proj for block in model.model.layers)
        return LanguageModel(model.eval().requires_grad_(False), tokenizer, replace(untried_structure(model), projections=projections))
    return language_model(model, tokenizer)


def random_sae_tensors(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Unit decoder rows in random directions; the encoder is their transpose."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(shape.n_features, shape.d_model, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    return {
        "W_enc": decoder.T.contiguous(),
        "b_enc": torch.zeros(shape.n_features),
        "threshold": torch.full((shape.n_features,), 2.0),
        "W_dec": decoder,
        "b_dec": torch.zeros(shape.d_model),
    }


def sae_meta(shape: Shape, layer: int) -> SaeMeta:
    """What a random SAE says of itself."""
    return SaeMeta("random", "", 1, "jumprelu", "resid_post", False, layer, shape.d_model, shape.n_features, "")


def random_sae(shape: Shape, layer: int) -> Sae:
    """A random SAE in memory, on the CPU, in float32."""
    return Sae(**random_sae_tensors(shape, layer), meta=sae_meta(shape, layer))


def sae_on_gpu(shape: Shape, layer: int, dtype: str) -> Sae:
    """The same on a GPU, in a number format."""
    sae = random_sae(shape, layer)
    return replace(sae, **{name: getattr(sae, name).to(getattr(torch, dtype)).to("cuda") for name in TENSORS})


def by_id(texts: Sequence[str]) -> dict[str, str]:
    """Prefixes under made-up ids."""
    return {f"{number:016x}": text for number, text in enumerate(texts)}


def swept(
    lm: LanguageModel,
    sae: Sae,
    n_features: int,
    prefixes: Mapping[str, str],
    sampling: Sampling,
    factors: Sequence[str] = (SWEEP_FACTOR,),
) -> pl.DataFrame:
    """Generations, one a feature, factor and prefix."""
    rows = [(feature, factor, name, 0) for feature in range(n_features) for factor in factors for name in prefixes]
    schema = {"feature": pl.UInt32, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return pl.concat(feature_texts(lm, sae, sae.meta.layer, table, prefixes, sampling, 0))
