"""Train the shipped world, or models and SAEs beside it: `python -m studies.world COMMAND`, from the repository's root."""

import json
import logging
from pathlib import Path
from typing import Annotated

import torch
import typer

from saesteer.world.lexicon import load_lexicon
from studies import ROOT
from studies.world import build, card, corpus, measure, sae_kinds, train_saes
from studies.world.architectures import Architecture, build_architecture
from studies.world.build import CARD, METRICS, MODEL, MODEL_NAME, SAES, THREADS, TOPICS, Build, WorldRecipe
from studies.world.tokenizer import CONTEXT, build_tokenizer

SHIPPED, PREFIXES = ROOT / "data/world", ROOT / "config/prefixes.txt"
KINDS, KINDS_LAYERS, KINDS_SEED = ROOT / "build/kinds", (3, 6), 0

app = typer.Typer(help=__doc__, add_completion=False)


@app.callback()
def log() -> None:
    """Training says how far it is."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@app.command("build")
def build_seed(seed: Annotated[int, typer.Option()], out: Annotated[Path, typer.Option()]) -> None:
    """Train one seed of the world from nothing and show its metrics beside the shipped ones."""
    built = build.build_world(SHIPPED / "lexicon.yaml", PREFIXES, out, seed, WorldRecipe())
    typer.echo(card.comparison(built, json.loads((SHIPPED / METRICS).read_text(encoding="utf-8"))), nl=False)


@app.command()
def adopt() -> None:
    """Ship build/world/seed_0 with the metrics of every seed built beside it, and write the card."""
    metrics = build.adopt(ROOT / "build/world", SHIPPED)
    topics = json.loads((SHIPPED / TOPICS).read_text(encoding="utf-8"))
    (SHIPPED / CARD).write_text(card.render_card(metrics, topics), encoding="utf-8")


@app.command()
def architecture(name: Architecture, seed: Annotated[int, typer.Option()] = 0) -> None:
    """Train a model of another architecture and its SAEs on the world's grammar into build/world/NAME."""
    torch.set_num_threads(THREADS)
    lexicon = load_lexicon(SHIPPED / "lexicon.yaml", PREFIXES)
    build_architecture(Build(ROOT / f"build/world/{name}", lexicon, build_tokenizer(lexicon), seed, WorldRecipe()), name)


@app.command()
def kinds() -> None:
    """Train SAEs of other kinds and sparsities on the shipped model into build/kinds, and measure them beside its own."""
    torch.set_num_threads(THREADS)
    world, lexicon = WorldRecipe(), load_lexicon(SHIPPED / "lexicon.yaml", PREFIXES)
    model, tokenizer = measure.load_model(SHIPPED / MODEL), build_tokenizer(lexicon)
    # The shipped SAEs' texts.
    rows = corpus.training_rows(lexicon, tokenizer, KINDS_SEED, "saes", world.sae_documents)
    recipe = sae_kinds.KindsRecipe(world.sae)
    sae_kinds.build_kinds(train_saes.residuals(model, rows), KINDS_LAYERS, recipe, KINDS_SEED, MODEL_NAME, CONTEXT, KINDS)
    held_out = corpus.training_rows(lexicon, tokenizer, KINDS_SEED, "kinds", world.held_out_documents)
    folders = {sae_kinds.SHIPPED: SHIPPED / SAES, **{name: KINDS / name for name in sae_kinds.names(recipe)}}
    sae_kinds.measure_kinds(train_saes.residuals(model, held_out), KINDS_LAYERS, folders, KINDS)


if __name__ == "__main__":
    app()
