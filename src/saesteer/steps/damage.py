"""What each fit at its chosen factors does to ordinary text."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import DAMAGE, FITS
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, LocalRecords
from saesteer.sources.corpus import read_texts
from saesteer.steps import keys
from saesteer.steps.step import Step, by_layer, model_values


def step(experiment: Experiment) -> Step | None:
    if not isinstance(experiment, Comparison) or (texts := ordinary_texts_pin(experiment)) is None:
        return None
    sizes = experiment.methods.model_dump(mode="json", include={"n_ordinary_texts", "ordinary_tokens", "sae_features"})
    inputs, modules = ("model", "saes", "fits", texts), ("engine.damage", "sources.corpus")
    return Step(
        table=DAMAGE,
        keys=keys.chosen_fits(experiment),
        settings={**sizes, **model_values(experiment)},
        inputs=inputs,
        modules=modules,
        compute=compute,
        runs_model=True,
        unit="fit",
    )


def ordinary_texts_pin(experiment: Comparison) -> str | None:
    """The pin of the ordinary texts; None: there are none."""
    if experiment.methods.ordinary_texts:
        return "ordinary_texts"
    return "texts" if isinstance(experiment.records, LocalRecords) else None


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.damage import ordinary_texts, text_damage

    settings, file = run.comparison.methods, run.file(str(ordinary_texts_pin(run.comparison)))
    corpus = read_texts(file, run.model_folder(), run.experiment.model.bos, settings.ordinary_tokens)
    texts = ordinary_texts(corpus["token_ids"].to_list(), settings.n_ordinary_texts, settings.ordinary_tokens)
    lm = run.model()
    for layer, rows in by_layer(missing):
        fits = run.rows(FITS, [layer], ["kind", "tensors", "values"])
        yield from text_damage(lm, run.sae(layer), layer, rows, fits, texts, settings.sae_features)
