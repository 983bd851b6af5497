"""A real model's speed in float32 on a CPU, beside what else one would use and beside the machine's peak; all in one run.

    OMP_NUM_THREADS=1 python benchmarks/real_model.py MODEL_FOLDER ... [--gguf FILE ...]

The SAE is random. Texts are steered by a direction each, and compared with transformers' `generate` under a hook that adds the same, in
one batch; with sae-lens' bridge to the model under a hook of TransformerLens; and, where a GGUF file of the model is named, with
llama.cpp, which adds one direction to all texts of a batch, 256 at most, and takes the likeliest token. Activations are compared with a
plain forward of one text at a time that stops at the layer. Each pair is measured in turns, by CPU time of the process. Operations are
those of the blocks' matrices, the head's and the encoder's; attention's own are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
from llama_cpp import MAX_SEQUENCES, Context, converted
from measuring import Used, command_line, load_note, peak_flops, publish, used, written_by
from torch import Tensor

from saesteer.core.counter_rng import streams, text_keys
from saesteer.engine.activations import sparse_activations
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.interventions import Addition
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, load_language_model, plain_token_ids, residual_at, residual_changed
from saesteer.engine.output_score import output_scores
from saesteer.engine.perplexity import continuation_nll
from saesteer.engine.saes import Sae, SaeMeta

ROOT = Path(__file__).parents[1]
NEW_TOKENS, PROMPT_TOKENS, N_FEATURES, ACTIVE = 20, 6, 4096, 64
N_DIRECTIONS = 16
STRENGTH = 0.3
"""Of the residual's median norm."""
TEMPERATURE, TOP_K = 0.7, 50


@dataclass(frozen=True)
class Bench:
    """A model with a random SAE at two thirds of its depth, and texts."""

    folder: Path
    lm: LanguageModel
    sae: Sae
    layer: int
    norm: float
    texts: list[str]
    ids: list[list[int]]
    peak: float

    def flops(self, n_tokens: int, n_layers: int | None = None, outputs: int = 0, encoded: int = 0) -> float:
        """Operations of so many tokens through the blocks, and of those that go on through the head, or into the encoder."""
        block = sum(weight.numel() for weight in self.lm.blocks[0].parameters() if weight.ndim == 2)
        head = self.lm.n_vocab * self.lm.d_model
        return 2 * (n_tokens * block * (n_layers or self.lm.n_layers) + outputs * head + encoded * self.lm.d_model * N_FEATURES)


def prepared(folder: Path, texts: Sequence[str]) -> Bench:
    lm = load_language_model(folder, "float32", "cpu", "always")
    layer = lm.n_layers * 2 // 3
    ids = [plain_token_ids(lm, text)[: min(128, lm.n_positions)] for text in texts]
    decoder = torch.randn(N_FEATURES, lm.d_model, generator=torch.Generator().manual_seed(0))
    decoder /= decoder.norm(dim=1, keepdim=True)
    with torch.no_grad():
        residual = residual_at(lm, torch.tensor([ids[0][:32]]), layer + 1)[0, 1:]
    threshold = float((residual @ decoder.T).flatten().topk(ACTIVE * len(residual)).values.min())
    meta = SaeMeta("random", "0" * 64, 1, "jumprelu", "resid_post", False, layer, lm.d_model, N_FEATURES, "0" * 64)
    encoder, zeros = decoder.T.contiguous(), torch.zeros(N_FEATURES)
    sae = Sae(encoder, zeros, zeros + threshold, decoder, torch.zeros(lm.d_model), meta)
    return Bench(folder, lm, sae, layer, float(residual.norm(dim=1).median()), list(texts), ids, peak_flops())


def in_turns(*works: Callable[[], object], repeats: int) -> list[Used]:
    """The least CPU time of each, measured in turns."""
    rounds = [[used(work) for work in works] for _ in range(repeats)]
    return [min(of_work, key=lambda run: run.process) for of_work in zip(*rounds, strict=True)]


def steered(bench: Bench, n: int) -> pl.DataFrame:
    prompts = [ids[:PROMPT_TOKENS] for ids in bench.ids[:n]]
    additions = [Addition(vector, STRENGTH * bench.norm) for vector in bench.sae.W_dec[:N_DIRECTIONS]]
    columns = {
        "row": range(n),
        "intervention": [row % N_DIRECTIONS for row in range(n)],
        "prompt": [row % len(prompts) for row in range(n)],
        "factor": ["1"] * n,
        "stream": streams(0, text_keys(str(row) for row in range(n))),
    }
    rows = pl.DataFrame(columns, schema_overrides={"row": pl.UInt32})
    sampling = Sampling(NEW_TOKENS, TEMPERATURE, TOP_K, stop="")
    return pl.concat(steered_texts(bench.lm, bench.sae, bench.layer, rows, additions, prompts, sampling))


def batch_of(bench: Bench, n: int) -> tuple[Tensor, Tensor]:
    """Prompts [text, token] of other programs, and what is added to each text's residuals [text, 1, d_model]."""
    prompts = torch.tensor([bench.ids[row % len(bench.ids)][:PROMPT_TOKENS] for row in range(n)])
    return prompts, STRENGTH * bench.norm * bench.sae.W_dec[torch.arange(n) % N_DIRECTIONS][:, None]


@torch.no_grad()
def generated(bench: Bench, n: int) -> Tensor:
    """transformers' `generate` under a hook, all texts in one batch."""
    prompts, added = batch_of(bench, n)
    options = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    with residual_changed(bench.lm, bench.layer + 1, lambda residual: residual + added):
        texts: Tensor = bench.lm.model.generate(prompts, attention_mask=torch.ones_like(prompts), pad_token_id=0, **options)
    return texts


def bridge_of(folder: Path) -> Any:
    """sae-lens' form of the model."""
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    bridge = SAETransformerBridge.boot_transformers(str(folder), device="cpu")
    return bridge.eval()


@torch.no_grad()
def bridge_generated(bench: Bench, bridge: Any, n: int) -> Tensor:
    """sae-lens' bridge: `generate` under a hook of TransformerLens, all texts in one batch."""
    prompts, added = batch_of(bench, n)
    options = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K, "stop_at_eos": False, "return_type": "tokens"}
    with bridge.hooks(fwd_hooks=[(f"blocks.{bench.layer}.hook_out", lambda residual, hook: residual + added)]):
        texts: Tensor = bridge.generate(prompts, max_new_tokens=NEW_TOKENS, verbose=False, **options)
    return texts


def llama_generated(bench: Bench, gguf: Path, n: int) -> Used:
    """llama.cpp, all texts in one batch: what a text takes after the model is loaded."""
    prompts, added = batch_of(bench, n)
    context = Context(gguf, n, PROMPT_TOKENS + NEW_TOKENS, bench.lm.d_model, bench.lm.n_layers, bench.lm.n_vocab)
    context.add({bench.layer: added[0, 0].numpy()})

    def texts() -> None:
        logits = context.logits(prompts.tolist(), outputs_from=PROMPT_TOKENS - 1)
        for position in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS - 1):
            logits = context.logits([[int(token)] for token in logits[:, -1].argmax(axis=1)], position)

    took = used(texts)
    context.close()
    return took


def activations(bench: Bench, n: int) -> pl.DataFrame:
    texts = pl.DataFrame({"text_id": [str(row) for row in range(n)], "token_ids": bench.ids[:n]})
    return pl.concat(sparse_activations(bench.lm, {bench.layer: bench.sae}, texts))


@torch.no_grad()
def plain_forwards(bench: Bench, n: int) -> None:
    for ids in bench.ids[:n]:
        residual_at(bench.lm, torch.tensor([ids]), bench.layer + 1)


def losses(bench: Bench, n: int) -> pl.DataFrame:
    """Of continuations of about 20 tokens after one of 8 beginnings."""
    words = [text.split() for text in bench.texts[:n]]
    texts = [(row, " ".join(words[row % 8][:5]), " " + " ".join(words[row][5:21])) for row in range(n)]
    return continuation_nll(bench.lm, pl.DataFrame(texts, schema={"row": pl.UInt32, "prefix": pl.String, "text": pl.String}, orient="row"))


def scores(bench: Bench, n: int) -> pl.DataFrame:
    lens = top_logit_lens_tokens(bench.lm, bench.sae.W_dec[:n], 20).ids
    return output_scores(bench.lm, bench.sae, bench.layer, range(n), lens, bench.texts[0][:20], 10.0)


def row_of(bench: Bench, work: str, n: int, unit: str, count: int, flops: float, ours: Used, theirs: Used | None = None) -> str:
    speed, share = count / ours.process, flops / ours.process / bench.peak
    other = "" if theirs is None else f"{count / theirs.process:,.0f}"
    ratio = "" if theirs is None else f"{theirs.process / ours.process:.2f}"
    line = f"| {work} | {n} | {speed:,.0f} {unit} | {share:.0%} | {other} | {ratio} |"
    print(line, file=sys.stderr, flush=True)  # a whole run takes long
    return line


def steered_lines(bench: Bench, sizes: Sequence[int], repeats: int, ggufs: dict[str, Path]) -> list[str]:
    """Tokens a second of CPU, here and elsewhere."""
    bridge = bridge_of(bench.folder)
    programs = ["share of the peak", "generate", "sae-lens", *(f"llama.cpp {name}" for name in ggufs)]
    lines = [f"| texts at once | saesteer | {' | '.join(programs)} |", "| ---: " * (len(programs) + 2) + "|"]
    for n in sizes:
        works = (partial(steered, bench, n), partial(generated, bench, n), partial(bridge_generated, bench, bridge, n))
        runs = in_turns(*works, repeats=repeats)
        n_new = n * NEW_TOKENS
        share = bench.flops(n * (PROMPT_TOKENS + NEW_TOKENS - 1), outputs=n_new) / runs[0].process / bench.peak
        at_once = min(n, MAX_SEQUENCES)
        speeds = [n_new / run.process for run in runs]
        speeds += [at_once * NEW_TOKENS / llama_generated(bench, gguf, at_once).process for gguf in ggufs.values()]
        ours, *others = (f"{speed:,.0f}" for speed in speeds)
        lines.append(f"| {n} | {ours} | {share:.0%} | {' | '.join(others)} |")
        print(lines[-1], file=sys.stderr, flush=True)  # a whole run takes long
    return lines


def measured(bench: Bench, sizes: Sequence[int], repeats: int, ggufs: dict[str, Path]) -> list[str]:
    lines = [
        f"## {bench.folder.name}",
        "",
        f"Layer {bench.layer}; the peak is {bench.peak / 1e9:.0f} GFLOP/s. New tokens of steered texts, a second:",
        "",
        *steered_lines(bench, sizes, repeats, ggufs),
        "",
        "| work | at once | a second | share of the peak | otherwise | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for n in sizes:
        ours, theirs = in_turns(lambda n=n: activations(bench, n), lambda n=n: plain_forwards(bench, n), repeats=repeats)
        n_tokens = sum(map(len, bench.ids[:n]))
        flops = bench.flops(n_tokens, bench.layer + 1, encoded=n_tokens)
        lines.append(row_of(bench, "activations of texts", n, "tokens", n_tokens, flops, ours, theirs))
    for n in sizes:
        (ours,) = in_turns(lambda n=n: losses(bench, n), repeats=repeats)
        n_scored = int(ours.result["n_scored"].sum())
        lines.append(row_of(bench, "losses", n, "tokens", n_scored, bench.flops(n_scored, outputs=n_scored), ours))
    for n in sizes:
        (ours,) = in_turns(lambda n=n: scores(bench, n), repeats=repeats)
        lines.append(row_of(bench, "output scores", n, "features", n, bench.flops(n, bench.lm.n_layers - bench.layer - 1, 2 * n), ours))
    return lines


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="folders in Hugging Face's format")
    parser.add_argument("--gguf", nargs="*", type=Path, default=[], help="the models' GGUF files, one each; needs xllamacpp")
    parser.add_argument("--sizes", nargs="+", type=int, default=[16, 64, 256, 512])
    parser.add_argument("--texts", default=ROOT / "data" / "public" / "smollm2-135m" / "texts.parquet", help="a table with a column text")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts = pl.read_parquet(args.texts)["text"]
    texts = texts.filter(texts.str.len_chars() > 100).head(max(8, *args.sizes)).to_list()
    lines = written_by("A real model", "OMP_NUM_THREADS=1 python benchmarks/real_model.py MODEL_FOLDER ... --gguf FILE ...")
    lines[-1] += f" One thread, float32; {load_note()}."
    with TemporaryDirectory() as scratch:
        for folder, gguf in zip_longest(args.models, args.gguf):
            ggufs = {} if gguf is None else {kind: converted(gguf, kind, Path(scratch) / f"{kind}.gguf") for kind in ("F16", "Q8_0")}
            lines += ["", *measured(prepared(folder, texts), args.sizes, args.repeats, ggufs)]
    publish(lines, args.write)


if __name__ == "__main__":
    main()
