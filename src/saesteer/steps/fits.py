"""The intervention that each method fits for each concept. Fits depend on every feature's scores: methods choose among all features."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import polars as pl

from saesteer.core.files import value_digest
from saesteer.core.tables import LAYER, Column, Table
from saesteer.core.texts import OF_TEXT
from saesteer.judge.prompt_writing import prompts_fingerprint
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, LabelledTexts, NamedConcepts, PublishedConcepts, TopicTexts
from saesteer.settings.methods import HELD_OUT_TEXTS, ORDINARY_TOKENS, P4_LONGEST_TEXT, MethodSettings
from saesteer.settings.registry import METHODS, Training, method, recipes_of
from saesteer.sources.concept_tables import COMPARED_CONCEPTS, CONCEPT_TEXTS, STEERING_PROMPTS
from saesteer.sources.prefixes import effect_prompts, training_openers
from saesteer.sources.published import published_file
from saesteer.steps import effects
from saesteer.steps.effects import EFFECTS
from saesteer.steps.keys import concept_axis, methods_at
from saesteer.steps.pilot import ordinary, ordinary_texts_pin
from saesteer.steps.step import Keys, Step, by_layer, configured, model_values, values_of

FITS = Table(
    "fits",
    ("layer", "method", "concept_id"),
    {
        "layer": LAYER,
        "method": OF_TEXT["method"],
        **COMPARED_CONCEPTS.some("concept_id"),
        "kind": Column(pl.String, "kind of intervention (saesteer.engine.interventions)", "the method abstains; see reason"),
        "tensors": Column(pl.Binary, "the intervention's tensors, as safetensors", "the method abstains; see reason"),
        "values": Column(pl.String, "its other values, as JSON", "the method abstains; see reason"),
        "features": Column(pl.List(pl.UInt32), "SAE features that it uses; empty where it uses none"),
        "residual_change": Column(
            pl.Float64, "norm of the change of the residual at the layer at factor 1, mean over neutral prompts' tokens", "it abstains"
        ),
        "residual_norm": Column(pl.Float64, "norm of the unsteered residual there, mean", "it abstains"),
        "n_texts": Column(pl.UInt32, "labelled texts that chose its features, made its vector or stand in its prompts"),
        "learning_rate": Column(pl.Float64, "at which it was trained", "it is not trained by gradient descent, or abstains"),
        "n_epochs": Column(pl.UInt32, "for how long", "it is not trained by gradient descent, or abstains"),
        "loss_before": Column(pl.Float64, "loss (nats per token) on held-out texts, untrained", "no texts were held out"),
        "loss_after": Column(pl.Float64, "the same, trained on the others so long at that rate", "no texts were held out"),
        "r2": Column(pl.Float64, "held-out R2 of the approximator of effects that it rests on", "it rests on none"),
        "fit_seconds": Column(pl.Float64, "wall time of the fit", is_wall_time=True),
        "reason": Column(pl.String, "why kind is null", "kind is not null"),
    },
)


def step(experiment: Experiment) -> Step | None:
    if not isinstance(experiment, Comparison):
        return None
    compared, has_effects = experiment.methods, effects.step(experiment) is not None
    from_topics = isinstance(compared.concepts, TopicTexts)
    settings = {**_training(experiment), **model_values(experiment)}
    settings |= {"features": values_of(experiment.features), "n_features": experiment.saes.n_features}
    settings |= {"prompt_writer": prompts_fingerprint(compared.prompt_writer)} if compared.prompt_writer else {}
    settings |= {"words": compared.words} if compared.words else {}
    settings |= {"pilot": {**values_of(compared.pilot), "n_tokens": ORDINARY_TOKENS}} if compared.pilot else {}
    texts = ["lexicon" if from_topics else "labelled_texts"] if isinstance(compared.concepts, NamedConcepts) else []
    inputs = ["model", "saes", *texts, *(["vectors"] if compared.vectors else [])]
    inputs += [str(ordinary_texts_pin(experiment))] if compared.pilot else []
    inputs += ["max_activating_examples", "concepts", "logit_lens", "input_score", "output_score", *(["effects"] if has_effects else [])]
    of_methods = tuple(dict.fromkeys(row.module.removeprefix("saesteer.") for row in METHODS))
    drawn_by = "world.concept_texts" if from_topics else "sources.concept_texts"
    return Step(
        table=FITS,
        keys=_methods_with_concepts(experiment),
        settings=settings,
        inputs=tuple(inputs),
        modules=(
            "methods.fit.fits",
            "methods.fit.tokenised",
            "methods.fit.approximator",
            "methods.fit.vectors_file",
            drawn_by,
            *(("engine.fit_pilot", "sources.corpus") if compared.pilot else ()),
            *of_methods,
        ),
        compute=compute,
        runs_model=True,
        unit="fit",
        modules_of_methods=of_methods,
        reads={EFFECTS.name: [row.key for name in compared.methods if "effects" in (row := method(name)).needs]},
        written=_written(compared),
    )


def _written(compared: MethodSettings) -> tuple[Table, ...]:
    """The tables of the concepts whose rows are no function of a concept and the settings."""
    tables = (
        (CONCEPT_TEXTS, isinstance(compared.concepts, LabelledTexts)),  # negative ones depend on the other concepts, and on the prompts
        (COMPARED_CONCEPTS, isinstance(compared.concepts, PublishedConcepts)),  # labels depend on what Neuronpedia calls the SAEs
        (STEERING_PROMPTS, compared.prompt_writer is not None),
    )
    return tuple(table for table, is_read in tables if is_read)


def _methods_with_concepts(experiment: Comparison) -> Keys:
    """Every method with every concept; those without a layer at the first layer only."""
    compared, layers = experiment.methods, experiment.layers
    return lambda layer: [
        configured(method=[row.key for row in methods_at(compared, layers, layer)]),
        concept_axis(compared, "concept_id"),
    ]


def _training(experiment: Comparison) -> dict[str, Any]:
    """What training depends on, but for the concepts, which are keys."""
    compared = experiment.methods
    source: Any = "topics"
    if isinstance(compared.concepts, LabelledTexts):
        source = "texts"
    elif isinstance(compared.concepts, PublishedConcepts):
        source = [published_file(key).identity for key in (compared.concepts.concepts, compared.concepts.texts)]
    sizes = values_of(compared, "n_positive", "n_negative", "seed", "training_tokens", "learning_rates")
    sizes |= {"longest_training_text": longest} if (longest := compared.longest_training_text) != P4_LONGEST_TEXT else {}
    recipes = {name: asdict(recipe) for name, recipe in recipes_of(experiment.model.name).items()}
    digests = {"neutral": value_digest(effect_prompts(compared)), "openers": value_digest(training_openers(compared))}
    n_held_out = compared.effects.n_held_out
    return {**sizes, **digests, "recipes": recipes, "texts": source, "n_held_out": n_held_out, "held_out_texts": HELD_OUT_TEXTS}


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.engine.models import plain_token_ids
    from saesteer.methods.fit.approximator import fitted
    from saesteer.methods.fit.fits import fitted_rows, labelled_feature
    from saesteer.methods.fit.problem import Problem
    from saesteer.methods.fit.tokenised import n_prefix_tokens, training_texts
    from saesteer.methods.fit.vectors_file import read_vectors
    from saesteer.steps.features import features_of_layers

    experiment, settings, lm = run.comparison, run.comparison.methods, run.model()
    neutral = [plain_token_ids(lm, text) for text in effect_prompts(settings) if text]
    prompts = run.summary(STEERING_PROMPTS) if settings.prompt_writer else pl.DataFrame(schema=STEERING_PROMPTS.schema)
    vectors = read_vectors(run.pinned_file("vectors"), experiment.saes.d_model) if settings.vectors else {}
    training = Training(recipes_of(experiment.model.name), settings.learning_rates, HELD_OUT_TEXTS)
    n_prefix = n_prefix_tokens(lm) if settings.training_tokens == "all" else None
    has_effects = effects.step(experiment) is not None
    concepts = {concept_id: (concept, label) for concept_id, concept, label in run.summary(COMPARED_CONCEPTS).iter_rows()}
    labelled_texts, features = run.summary(CONCEPT_TEXTS), features_of_layers(run, run.layers)
    texts = {
        concept_id: training_texts(labelled_texts.filter(concept_id=concept_id), lm, settings.longest_training_text)
        for concept_id in missing["concept_id"].unique()
    }
    pilot_texts = tuple(ordinary(run, settings.pilot.n_texts)) if settings.pilot else ()
    for layer, of_layer in by_layer(missing):
        sae, candidates = run.sae(layer), features.filter(layer=layer)
        approximator = fitted(run.rows(EFFECTS, [layer]), settings.effects.n_held_out) if has_effects else None
        # Concept by concept, so that a concept's residuals are computed once and let go with its problem.
        for (concept_id,), rows in of_layer.group_by("concept_id", maintain_order=True):
            concept, label = concepts[concept_id]
            problem = Problem(
                lm=lm,
                sae=sae,
                layer=layer,
                concept=concept,
                positive=texts[concept_id][0],
                negative=texts[concept_id][1],
                features=candidates,
                seed=settings.seed,
                training=training,
                label=labelled_feature(candidates, concept) if label is None else label,
                effects=approximator,
                vector=vectors.get(concept),
                n_prefix=n_prefix,
                prompts=tuple(prompts.filter(concept_id=concept_id).sort("number")["prompt"]),
                words=settings.words.get(concept, ()),
                ordinary_texts=pilot_texts,
                loss_rise=settings.pilot.loss_rise if settings.pilot else 1.0,
            )
            yield from fitted_rows(problem, rows, neutral)
