"""What a step is. The module of a step has a function `step`, which says what the step is in an experiment.

Features, factors, prefixes, texts, methods and concepts are keys, not settings: one more of them leaves all other rows valid.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

import saesteer.steps
from saesteer.core.modules import declared, modules_of
from saesteer.core.tables import Table
from saesteer.run import Run
from saesteer.settings import Experiment, Settings
from saesteer.sources.features import features_of


@dataclass(frozen=True)
class Axis:
    """Key columns whose values go together."""

    columns: tuple[str, ...]
    values: Callable[[Run], pl.DataFrame]
    configured: Any
    """What the configuration alone says of the values, as a JSON value: a change of it makes the layer's job due. Published files are told
    by what pins them; None of what an input of the job holds."""
    file: Callable[[Run], Path] | None = None
    """The file that is fetched or computed first, and from which the values are read."""

    def some(self, positions: slice) -> "Axis":
        """The axis with some of its values."""
        return replace(self, values=lambda run: self.values(run)[positions], configured=self.configured[positions])


Keys = Callable[[int], list[Axis]]
"""The axes of a step's keys at a layer, besides the layer."""


def configured(**columns: Sequence[Any]) -> Axis:
    """An axis whose values the configuration says."""
    frame = pl.DataFrame(columns)
    return Axis(tuple(columns), lambda run: frame, frame.rows() if len(columns) > 1 else list(*columns.values()))


def every_feature(experiment: Experiment) -> Keys:
    """Every feature of the experiment."""
    return lambda layer: [configured(feature=features_of(experiment, layer))]


def describes_every_feature(experiment: Experiment) -> bool:
    """Whether max-activating examples and top logit-lens tokens are those of all the SAEs' features, not of the experiment's alone."""
    return bool(experiment.local_examples and experiment.local_examples.every_feature)


def described_features(experiment: Experiment) -> Keys:
    """Every feature whose max-activating examples and top logit-lens tokens are known."""
    if describes_every_feature(experiment):
        return lambda _layer: [configured(feature=range(experiment.saes.n_features))]
    return every_feature(experiment)


@dataclass(frozen=True)
class Step:
    table: Table
    keys: Keys
    settings: dict[str, Any]
    """JSON values of the settings that rows depend on."""
    inputs: tuple[str, ...]
    """What the rows depend on besides: names of pins, `saes`, and earlier steps."""
    modules: tuple[str, ...]
    """Modules that compute the rows. The ALGORITHM_VERSION of each module that they import, directly or not, is in the fingerprint."""
    compute: Callable[[Run, pl.DataFrame], Iterator[pl.DataFrame]]
    """The rows of missing keys, in frames of one layer each."""
    runs_model: bool = False
    """Whether a model runs, so that a job with missing keys needs a GPU."""
    unit: str = "feature"
    """What a row is of, for progress and rates."""
    tokens: str | None = None
    """The column that counts the tokens that the model read or wrote, for rates."""
    modules_of_methods: tuple[str, ...] = ()
    """Modules that count by a version in the keys instead: those that fit a method."""
    beside_unsteered: bool = False
    """Whether a row depends on the rows of all unsteered texts of the same target as well."""
    reads: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of inputs that are earlier steps: the values of the key column `method` whose rows alone depend on them."""
    written: tuple[Table, ...] = ()
    """Summary tables that rows depend on in a way that settings and inputs do not say: a language model wrote them, or other keys count."""


def steps_of(experiment: Experiment) -> dict[str, Step]:
    """The steps of an experiment by name, each after those that it reads."""
    steps = {name: step for name, definition in _definitions().items() if (step := definition(experiment)) is not None}
    order = TopologicalSorter({name: [read for read in step.inputs if read in steps] for name, step in steps.items()})
    return {name: steps[name] for name in order.static_order()}


@cache
def _definitions() -> dict[str, Callable[[Experiment], Step | None]]:
    return declared(saesteer.steps, "step")


def step_of(experiment: Experiment, name: str) -> Step:
    """A step that an experiment has; no other step's module is imported."""
    step: Step | None = import_module(f"{saesteer.steps.__name__}.{name}").step(experiment)
    assert step is not None
    return step


@cache
def is_step(name: str) -> bool:
    """Whether what a step depends on is an earlier step."""
    module = f"{saesteer.steps.__name__}.{name}"
    return find_spec(module) is not None and hasattr(import_module(module), "step")


FLOW = (
    "activations", "max_activating_examples", "logit_lens", "concepts", "explanations", "input_score", "output_score", "effects", "fits",
    "damage", "pilot", "generations", "gen_success", "perplexity", "judge",
)  # fmt: skip
"""The order in which steps are listed, each after those that it reads."""


@cache
def step_tables() -> dict[str, Table]:
    """The table of each step, by the step's name, in the order of FLOW; steps that it does not name come last."""
    modules = {name: vars(module) for name, module in modules_of(saesteer.steps).items()}
    names = sorted(_definitions(), key=lambda name: FLOW.index(name) if name in FLOW else len(FLOW))
    return {name: next(value for value in modules[name].values() if isinstance(value, Table) and value.name == name) for name in names}


def by_layer(missing: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """The missing keys, one layer after the other."""
    for (layer,), rows in missing.group_by("layer", maintain_order=True):
        yield int(str(layer)), rows


def layers_of(missing: pl.DataFrame) -> list[int]:
    """The layers of the missing keys, ascending."""
    layers: list[int] = missing["layer"].unique().sort().to_list()
    return layers


def values_of(section: Settings, *names: str) -> dict[str, Any]:
    """A section's values for a fingerprint; of some keys, where they are named."""
    return section.model_dump(mode="json", include=set(names) or None)


def sampling_values(section: Settings, **fields: set[str]) -> dict[str, Any]:
    """Some of a section's values. A top_p of 1 draws as if there were none, and is left out: rows made before there was one stay valid."""
    values = section.model_dump(mode="json", **fields)  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if (name, value) != ("top_p", 1)}


def model_values(experiment: Experiment) -> dict[str, Any]:
    """How the model that is steered reads prompts and computes, for a fingerprint."""
    model = experiment.model
    return values_of(model, "dtype", "bos", "prompt_format") | (model.template_values if model.prompt_format == "chat" else {})
