"""What adding each of many vectors at every position does to the SAE's feature activations of the texts written (SAE-TS, P2)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from saesteer.core.files import value_digest
from saesteer.core.tables import LAYER, Column, Table
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment
from saesteer.settings.registry import method
from saesteer.sources.prefixes import effect_prompts
from saesteer.steps.step import Step, by_layer, configured, model_values, sampling_values

if TYPE_CHECKING:
    from saesteer.engine.models import LanguageModel
    from saesteer.methods.fit.effects import EffectRun


EFFECTS = Table(
    "effects",
    ("layer", "vector"),
    {
        "layer": LAYER,
        "vector": Column(pl.UInt32, "number of the vector added"),
        "direction": Column(pl.List(pl.Float32), "the vector, scaled as it was added at every position"),
        "effect": Column(pl.List(pl.Float32), "mean activation of each feature on texts written with it, less that on unsteered texts"),
        "loss_rise": Column(pl.Float64, "by how much it raises the mean loss (nats per token) of unsteered texts"),
    },
)


def step(experiment: Experiment) -> Step | None:
    if not isinstance(experiment, Comparison) or not any("effects" in method(name).needs for name in experiment.methods.methods):
        return None
    compared = experiment.methods
    settings = sampling_values(compared.effects, exclude={"n_vectors", "n_held_out", "prompts"})
    settings |= {"prompts": value_digest(effect_prompts(compared)), "seed": compared.seed, **model_values(experiment)}
    vectors, inputs, modules = [configured(vector=range(compared.effects.n_vectors))], ("model", "saes"), ("methods.fit.effects",)
    return Step(EFFECTS, lambda _layer: vectors, settings, inputs, modules, compute, runs_model=True, unit="vector")


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.methods.fit.effects import measured_effects

    lm = run.model()
    for layer, rows in by_layer(missing):
        yield from measured_effects(effect_run(run, lm, layer), rows)


def effect_run(run: Run, lm: "LanguageModel", layer: int) -> "EffectRun":
    """What the effects of a layer's vectors share; its SAE is loaded."""
    from saesteer.engine.models import plain_token_ids
    from saesteer.methods.fit.effects import EffectRun

    settings = run.comparison.methods
    prompts = [ids for text in effect_prompts(settings) if (ids := plain_token_ids(lm, text))]  # "" has none where there is no BOS token
    return EffectRun(lm, run.sae(layer), layer, prompts, settings.effects, settings.seed)
