"""Train the shipped world: `python -m studies.world COMMAND`, from the repository's root."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from studies import ROOT
from studies.world import build, card
from studies.world.build import CARD, METRICS, TOPICS, WorldRecipe

SHIPPED, PREFIXES = ROOT / "data/world", ROOT / "config/prefixes.txt"

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


if __name__ == "__main__":
    app()
