"""The table of steering methods, methods.csv: name, paper, where it is fitted, what it needs, what chooses, its grid of factors. No torch:
planning reads it.

A new method is one file in saesteer/methods/fit and one row there, which names its function. This takes a `Problem`
(saesteer.methods.fit.problem) and gives back an intervention (saesteer.engine.interventions), or raises `Abstains` where it has none for
the concept. The rows are data rather than code, so that a new one makes no job due but those that compare methods.

How methods that learn by gradient descent are trained is in recipes.csv, a row for each model and method.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE, RECIPES = (Path(__file__).with_name(name) for name in ("methods.csv", "recipes.csv"))
ANY_MODEL = "*"

NEEDS = ("sae", "label", "effects", "file")
"""sae: the layer's SAE and its scored features; label: a feature labelled with the concept; effects: the approximator of steering effects;
file: vectors trained elsewhere."""

TEXT_USES = ("choice", "scale", "none", "unlabelled", "base")
"""What the concept's labelled texts are used for. choice: they choose or train; scale: their largest activation is what factor 1 adds; none
(an SAE that divides its input by its size reads that size from them); unlabelled: choice where no feature is labelled with the concept,
else scale; base: choice for a base model, none for a model that answers."""

GRIDS = ("addition", "clamp", "adapter", "prompt", "prompt_search", "once")
"""Which of the experiment's grids of factors is swept (settings: `methods.factors`). once: factor 1 only."""


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    title: str  # in tables and figures
    paper: str
    fitted_by: str  # module in saesteer.methods.fit and function, e.g. means.diffmean
    needs: tuple[str, ...]  # of NEEDS
    chosen_by: str  # what chose its features or made its vector, in the order of use
    text_use: str  # one of TEXT_USES
    grid: str  # one of GRIDS
    version: int  # raised by hand when what `fit` means changes: only this method is then fitted and judged again

    @property
    def key(self) -> str:
        """What its rows on disk are keyed by."""
        return self.name if self.version == 1 else f"{self.name}-{self.version}"

    @property
    def has_layer(self) -> bool:
        """Whether what it steers with depends on the layer: added text, adapters, fine-tuned weights and no steering do not."""
        return self.grid not in ("adapter", "once") and not self.adds_text

    @property
    def adds_text(self) -> bool:
        """Whether it puts text before the prompt: its factors number texts and have no order."""
        return self.grid in ("prompt", "prompt_search")

    @property
    def module(self) -> str:
        """The module that fits it."""
        return f"saesteer.methods.fit.{self.fitted_by.rpartition('.')[0]}"


def read_methods(path: Path = TABLE) -> tuple[Method, ...]:
    """The rows of the table; one that names something unknown is refused by its line."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(enumerate(csv.DictReader(file), start=2))
    methods = []
    for line, row in rows:
        if None in row or None in row.values():
            raise ValueError(f"{path}, line {line}: it has not as many values as the first line has names: {', '.join(filter(None, row))}")
        needs = tuple(row["needs"].split())
        for column, values, valid in (("needs", needs, NEEDS), ("text_use", [row["text_use"]], TEXT_USES), ("grid", [row["grid"]], GRIDS)):
            if unknown := [value for value in values if value not in valid]:
                raise ValueError(f"{path}, line {line}: {column} {unknown[0]!r} is unknown; known: {', '.join(valid)}")
        methods.append(Method(**{**row, "needs": needs, "version": int(row["version"])}))  # type: ignore[arg-type]
    return tuple(methods)


METHODS = read_methods()


def key_of(name: str) -> str:
    """The `method` of a name in tables; what is no name, such as the key itself, as it is."""
    return next((row.key for row in METHODS if row.name == name), name)


def method(name: str) -> Method:
    """The row of a name; an unknown one is refused with the known ones."""
    rows = {row.name: row for row in METHODS}
    if name not in rows:
        raise ValueError(f"there is no method {name!r}; known: {', '.join(rows)}")
    return rows[name]


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


def recipes_of(model: str, path: Path = RECIPES) -> dict[str, Recipe]:
    """Method -> recipe of a model, whose name contains that of the table's row in any case. A row of `*`, Gemma-2-2B's, is for every model
    that has none of its own."""
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
