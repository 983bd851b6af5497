"""The keys of texts, and of fits at factors, which several steps have. No torch: this decides whether a job has anything to compute."""

from collections.abc import Sequence

import polars as pl

from saesteer.analysis.pilot_grid import grid
from saesteer.core.files import text_id
from saesteer.core.store import StoreError
from saesteer.core.texts import SINGLE_FEATURE
from saesteer.run import Run
from saesteer.settings import Comparison, MethodSettings, NamedConcepts, Steering, Sweep
from saesteer.settings.registry import Method, method
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.sources.features import features_of
from saesteer.sources.prefixes import prompt_source, read_prefixes
from saesteer.sources.published import published_file
from saesteer.steps.pilot import PILOT
from saesteer.steps.step import Axis, Keys, configured


def texts_of_features(experiment: Sweep, n_prefixes: int) -> Keys:
    """P1's sweep: every feature with every factor, sample and each of the first prefixes."""
    return lambda layer: [
        configured(method=[SINGLE_FEATURE]),
        *_features_at_factors(experiment, layer),
        _prompts(experiment, n_prefixes),
        configured(sample=range(experiment.sweep.n_samples)),
    ]


def _features_at_factors(experiment: Sweep, layer: int) -> list[Axis]:
    """Every feature with every factor; with a pilot, whose rows say what each feature's factors are, in one axis."""
    features, factors = features_of(experiment, layer), experiment.sweep.factors
    if experiment.sweep.pilot is None:
        return [configured(target=[str(feature) for feature in features]), configured(factor=factors)]

    def values(run: Run) -> pl.DataFrame:
        of_job = pl.DataFrame({"feature": features[run.features_of_job]}, schema={"feature": PILOT.schema["feature"]})
        pilot = of_job.join(run.rows(PILOT, [layer]), on="feature", maintain_order="left")
        if pilot.height < of_job.height:
            raise StoreError(f"layer {layer}: of some features there is no pilot factor yet: run the workflow again")
        return grid(pilot, factors).select(pl.col("feature").cast(pl.String).alias("target"), "factor")

    (columns, known) = ("target", "factor"), {"features": features, "factors": factors}
    return [Axis(columns, values, known, lambda run: run.manifests(PILOT.name, [layer])[0])]


def fits_at_factors(experiment: Comparison, concept: str = "concept_id") -> Keys:
    """Every method at every factor of its grid, with every concept, whose id is in the column `concept`; those without a layer at the
    first layer only."""

    def axes(layer: int) -> list[Axis]:
        methods, factors = zip(*strengths(experiment.methods, experiment.layers, layer), strict=True)
        return [configured(method=methods, factor=factors), concept_axis(experiment.methods, concept)]

    return axes


def texts_of_fits(experiment: Comparison) -> Keys:
    """Every method at every factor, with every concept, prompt and sample."""
    of_fits, compared = fits_at_factors(experiment, "target"), experiment.methods
    return lambda layer: [*of_fits(layer), _prompts(experiment, compared.n_prompts), configured(sample=range(compared.n_samples))]


def texts_of(experiment: Steering) -> Keys:
    """All of an experiment's texts."""
    return texts_of_fits(experiment) if isinstance(experiment, Comparison) else texts_of_features(experiment, experiment.sweep.n_prefixes)


def is_unsteered(experiment: Steering) -> pl.Expr:
    """Which of an experiment's texts are the unsteered model's, by their keys."""
    return pl.col("method") == method("unsteered").key if isinstance(experiment, Comparison) else pl.col("factor") == "0"


def layer_of_unsteered(experiment: Steering, layer: int) -> int:
    """Where the unsteered texts of a layer's targets are: a comparison has them once, at its first layer."""
    return min(experiment.layers) if isinstance(experiment, Comparison) else layer


def _prompts(experiment: Steering, n: int) -> Axis:
    """The first prompts of the experiment's file, or of a published one."""
    source = prompt_source(experiment)
    if source.file:
        return configured(prefix_id=list(read_prefixes(source.file, n)))
    identity = published_file(str(source.published)).identity

    def values(run: Run) -> pl.DataFrame:
        return pl.DataFrame({"prefix_id": list(read_prefixes(run.prompts_path, n))})

    return Axis(("prefix_id",), values, {"published": identity, "n_prompts": n}, lambda run: run.prompts_path)


def concept_axis(compared: MethodSettings, column: str) -> Axis:
    """Every concept by its concept_id: known from the configuration, or from the fetched list."""
    concepts = compared.concepts
    if isinstance(concepts, NamedConcepts):
        return configured(**{column: [text_id(name) for name in concepts.names]})

    def values(run: Run) -> pl.DataFrame:
        return pl.read_parquet(run.summary_path(COMPARED_CONCEPTS), columns=["concept_id"]).rename({"concept_id": column})

    return Axis((column,), values, concepts.model_dump(mode="json"), lambda run: run.summary_path(COMPARED_CONCEPTS))


def methods_at(compared: MethodSettings, layers: Sequence[int], layer: int) -> list[Method]:
    """The methods that are fitted at one of the layers: all at the first, at others those that depend on it."""
    rows = [method(name) for name in compared.methods]
    return [row for row in rows if row.has_layer or layer == min(layers)]


def strengths(compared: MethodSettings, layers: Sequence[int], layer: int) -> list[tuple[str, str]]:
    """Every method of a layer with each factor of its grid."""
    return [(row.key, factor) for row in methods_at(compared, layers, layer) for factor in compared.factors.factors(row)]


def n_fit_generations(comparison: Comparison) -> int:
    """How many texts a comparison generates."""
    compared = comparison.methods
    n_strengths = sum(len(strengths(compared, comparison.layers, layer)) for layer in comparison.layers)
    return n_strengths * n_concepts(compared) * compared.n_prompts * compared.n_samples


def n_concepts(compared: MethodSettings) -> int:
    """How many concepts there are; a published list whose length is not given counts as 500."""
    return len(compared.concepts.names) if isinstance(compared.concepts, NamedConcepts) else compared.concepts.n_concepts or 500
