"""How methods that learn by gradient descent are trained: the table of (model, method) values, recipes.csv, and what a comparison makes of
it. No torch: planning reads it.

A model without rows of its own has those of `*`, which are Gemma-2-2B's.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("recipes.csv")

ANY_MODEL = "*"


@dataclass(frozen=True)
class Recipe:
    """AdamW on the mean loss per token, its rate falling in a straight line to 0."""

    learning_rate: float
    batch: int  # texts in a forward
    accumulated: int  # forwards in a step
    epochs: int
    weight_decay: float = 0.0
    largest_gradient: float | None = None  # norm that a step's gradient is cut to
    layers: tuple[int, ...] = ()  # that adapters change; none given: engine.adapters.DEPTHS


@dataclass(frozen=True)
class Training:
    """The recipes of a comparison, and over what their learning rate and number of epochs are chosen."""

    recipes: Mapping[str, Recipe]  # by method
    learning_rates: tuple[float, ...] = ()  # tried on held-out texts; none: the recipes' own
    held_out: float = 0.25  # share of the training texts


def recipes_of(model: str, path: Path = TABLE) -> dict[str, Recipe]:
    """Method -> recipe of a model, whose name contains that of the table's row in any case (a row of `*` is for every other)."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    recipes = {}
    for row in [*(row for row in rows if row["model"] == ANY_MODEL), *(row for row in rows if row["model"] in model.lower())]:
        batch, accumulated, epochs = int(row["batch"]), int(row["accumulated"]), int(row["epochs"])
        largest_gradient = float(row["largest_gradient"]) if row["largest_gradient"] else None
        layers = tuple(map(int, row["layers"].split()))
        recipes[row["method"]] = Recipe(
            float(row["learning_rate"]), batch, accumulated, epochs, float(row["weight_decay"]), largest_gradient, layers
        )
    return recipes
