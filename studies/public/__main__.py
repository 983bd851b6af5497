"""`python -m studies.public PHASE MODEL`: what ships of a public model, phase by phase; what is done is not done again.

sample: texts that the model writes; texts: those of them that ship; activations: residuals on the books and on these texts; kinds: SAEs
of several kinds at one layer, measured; saes: one SAE a layer, measured, rounded and measured again; ship: copied into data/public, with a
card.
"""

import argparse
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from saesteer.core.files import write_json
from saesteer.engine.models import LanguageModel, load_language_model
from saesteer.engine.sae_convert import sae_from_folder
from studies.public import activations, train
from studies.public.activations import Rows
from studies.public.card import ship
from studies.public.clean import cleaned
from studies.public.measure import loss_recovered, quality
from studies.public.rounded import save_rounded
from studies.public.sample import prompts, sampled_parts

LAYERS = {"smollm2-135m": (3, 8, 13, 18, 23, 28), "gemma-3-270m": (2, 5, 9, 12, 15, 17)}
"""After these blocks. Gemma Scope 2 has SAEs of four of Gemma's."""
ANSWERING = ("smollm2-135m",)
"""Models that answer requests."""
COMPARED = {"smollm2-135m": 18, "gemma-3-270m": 9}
"""Where kinds are compared."""
COMPARED_TOKENS = 1_000_000
BOOK_TOKENS, HELD_OUT_TOKENS, LOSS_ROWS = 2_600_000, 60_000, 192
KINDS = {
    "batchtopk-32": train.Recipe(k=32),
    "batchtopk-64": train.Recipe(k=64),
    "topk-64": train.Recipe("topk", k=64),
    "jumprelu": train.Recipe("jumprelu"),
}
SHIPPED = train.Recipe(k=64)
SHIPPED_TO = Path("data/public")


def main() -> None:
    """Run one phase for one model."""
    parser = argparse.ArgumentParser(prog="python -m studies.public", description=__doc__)
    parser.add_argument("phase", choices=["sample", "texts", "activations", "kinds", "saes", "ship"])
    parser.add_argument("model", choices=sorted(LAYERS))
    parser.add_argument("--weights", type=Path, help="the converted model's folder")
    parser.add_argument("--paragraphs", type=Path, help="the books' paragraphs")
    parser.add_argument("--out", type=Path, required=True, help="folder of all models' phases")
    parser.add_argument("--texts", type=int, default=12_288, help="how many are sampled, before cleaning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    folder = args.out / args.model
    if args.phase == "texts":
        write_texts(folder, args.model in ANSWERING)
        return
    if args.phase == "ship":
        ship(folder, args.model, LAYERS[args.model], COMPARED[args.model], SHIPPED_TO / args.model)
        return
    lm = load_language_model(args.weights, "float32", "cpu", "always", "plain")
    if args.phase == "sample":
        choices = prompts(str(lm.tokenizer.bos_token), args.model in ANSWERING)
        logging.info("%d texts", sum(part.height for part in sampled_parts(lm, choices, args.texts, args.seed, folder / "sampled")))
        return
    trained, held_out, tokens = rows_of(lm, args.paragraphs, folder / "texts.parquet", args.seed)
    if args.phase == "activations":
        write_json(folder / "tokens.json", tokens)
        activations.store(lm, held_out, LAYERS[args.model], folder / "held_out")
        activations.store(lm, trained, LAYERS[args.model], folder / "trained")
    elif args.phase == "kinds":
        x = activations.read(folder / "trained", COMPARED[args.model])[:COMPARED_TOKENS]
        for name, recipe in KINDS.items():
            build(lm, held_out, x, COMPARED[args.model], recipe, args.model, folder, folder / "kinds" / name, args.seed)
    else:
        for layer in LAYERS[args.model]:
            x = activations.read(folder / "trained", layer)
            build(lm, held_out, x, layer, SHIPPED, args.model, folder, folder / "saes" / f"layer_{layer:02d}", args.seed)


def write_texts(folder: Path, answers: bool) -> None:
    """The model's texts that ship, each with the concept that it was asked about, and why others do not."""
    concepts = {prompt.text: prompt.subject for prompt in prompts("", answers)}
    sampled = pl.concat(pl.read_parquet(file) for file in sorted((folder / "sampled").glob("*.parquet")))
    of_prompt = pl.col("prompt").replace_strict(concepts, default=None, return_dtype=pl.String)
    texts, left_out = cleaned(sampled.with_columns(concept=of_prompt))
    texts.write_parquet(folder / "texts.parquet", compression="zstd", compression_level=19)
    write_json(folder / "texts.json", {"sampled": sampled.height, "texts": texts.height, "left_out": dict(left_out), "answers": answers})
    logging.info("%d of %d texts ship", texts.height, sampled.height)


def rows_of(lm: LanguageModel, paragraphs: Path, texts: Path, seed: int) -> tuple[Rows, Rows, dict[str, int]]:
    """Rows to train on, of the books and of the model's texts, rows held out (the books of the split `valid`, and a fiftieth of the
    texts), and how many of the first rows' tokens are from which."""
    pieces = pl.read_parquet(texts)["text"].to_list()
    books = activations.book_rows(lm, paragraphs, "train", BOOK_TOKENS, seed)
    written = activations.text_rows(lm, [text for place, text in enumerate(pieces) if place % 50])
    held_out = [activations.book_rows(lm, paragraphs, "valid", HELD_OUT_TOKENS, seed), activations.text_rows(lm, pieces[::50])]
    tokens = {"books": int(books.used.sum()), "texts": int(written.used.sum())}
    return activations.joined([books, written], seed), activations.joined(held_out, seed), tokens


def build(
    lm: LanguageModel, held_out: Rows, x: torch.Tensor, layer: int, recipe: train.Recipe, model: str, folder: Path, out: Path, seed: int
) -> None:
    """Train, round and measure one SAE: out/full, out/rounded, out/metrics.json."""
    recipe = replace(recipe, tokens=len(x))
    train.train_sae(x, recipe, layer, model, seed, out / "full")
    if (out / "metrics.json").exists():
        return
    save_rounded(out / "full", out / "rounded")
    held_out_x, some = activations.read(folder / "held_out", layer), held_out.take(np.arange(LOSS_ROWS))
    metrics: dict[str, object] = {"recipe": asdict(recipe), "seed": seed}
    for form in ("full", "rounded"):
        sae = sae_from_folder(out / form, "float32", "cpu")
        recovered, *losses = loss_recovered(lm, sae, some)
        metrics[form] = asdict(quality(sae, held_out_x)) | {"loss_recovered": recovered, "losses": losses}
    write_json(out / "metrics.json", metrics)
    logging.info("layer %d: %s", layer, json.dumps(metrics))


if __name__ == "__main__":
    main()
