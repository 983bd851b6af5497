"""The steps of an experiment: the table of each, the modules that compute its rows, its keys, and what the rows depend on besides.

Features, factors, prefixes, texts, methods and concepts are keys, not settings: one more of them leaves all other rows valid.
"""

from dataclasses import asdict, dataclass
from typing import Any

from saesteer.core import tables
from saesteer.core.files import value_digest
from saesteer.core.tables import Table
from saesteer.judge.prompt_writing import prompts_fingerprint
from saesteer.judge.rubric import rubric_digest
from saesteer.settings import (
    EndpointJudge,
    Experiment,
    LocalModelJudge,
    LocalRecords,
    NamedConcepts,
    NoJudge,
    OracleJudge,
    OwnTexts,
    PublishedConcepts,
    Settings,
    TopicConcepts,
    TopicTexts,
    settings_of,
)
from saesteer.settings.recipes import recipes_of
from saesteer.settings.registry import METHODS, method
from saesteer.sources.model_size import QUANTISED
from saesteer.sources.prefixes import effect_prompts, training_openers
from saesteer.sources.published import published_file
from saesteer.workflow.code_digest import algorithm_versions
from saesteer.workflow.keys import ChosenFits, FeatureGenerations, Features, FitGenerations, Fits, Keys, Texts, Vectors


@dataclass(frozen=True)
class StepPlan:
    table: Table
    modules: tuple[str, ...]
    """Modules that compute the rows. The ALGORITHM_VERSION of each module that they import, directly or not, is in the fingerprint."""
    keys: Keys
    settings: dict[str, Any]
    """JSON values of the settings that rows depend on."""
    inputs: tuple[str, ...]
    """What the rows depend on besides: names of pins, `saes`, and earlier steps."""
    versioned_rows: tuple[str, ...] = ()
    """Modules that count by a version in the keys instead: those that fit a method."""
    written: tuple[Table, ...] = ()
    """Summary tables that rows depend on and that nothing determines: a language model wrote them."""

    @property
    def versions(self) -> dict[str, int]:
        """Module -> ALGORITHM_VERSION, of all modules that the rows depend on."""
        unused = () if self.settings.get("dtype") in QUANTISED else ("engine.quantised",)
        return algorithm_versions(*self.modules, without=(*self.versioned_rows, *unused))


def plans(experiment: Experiment) -> dict[str, StepPlan]:
    """The steps of an experiment, in order. Which there are depends on where records come from, on who judges, and on where it stops."""
    scores = {**_record_steps(experiment), **_score_steps(experiment)}
    if experiment.until == "scores":
        return scores
    if experiment.until == "methods":
        judged = {**scores, **_fit_steps(experiment), **_text_steps(experiment), **_judge_step(experiment)}
        return {**judged, **_damage_step(experiment)}
    return {**scores, **_text_steps(experiment), **_judge_step(experiment)}


def _record_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """Feature records and the concepts that they show."""
    records, concepts, model = experiment.records, experiment.concepts, experiment.model
    steps = {}
    if isinstance(records, LocalRecords):
        on_texts = {"dtype": model.dtype, "bos": model.bos, "max_tokens": records.max_tokens}
        modules = ("engine.activations", "sources.corpus")
        steps["activations"] = StepPlan(tables.ACTIVATIONS, modules, Texts(), on_texts, ("model", "saes"))
        n_records = {"n_records": records.n_records}
        modules = ("analysis.records", "sources.corpus")
        steps["records"] = StepPlan(tables.RECORDS, modules, Features(), n_records, ("texts", "activations"))
    else:
        source = records.source or [experiment.saes.release, experiment.saes.id]
        of_source = {"source": source, "n_records": records.n_records}
        steps["records"] = StepPlan(tables.RECORDS, ("sources.neuronpedia.convert",), Features(), of_source, ())
    if isinstance(concepts, TopicConcepts):
        share, read = {"min_share": concepts.min_share}, ("texts", "topics", "records")
        steps["concepts"] = StepPlan(tables.CONCEPTS, ("analysis.concepts",), Features(), share, read)
    else:
        of_kind = concepts.model_dump(mode="json", exclude={"topics"})
        steps["concepts"] = StepPlan(tables.CONCEPTS, ("analysis.concepts",), Features(), of_kind, ("records",))
    return steps


def _score_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """P1's two scores, and the lens tokens that both rest on."""
    dtype = {"dtype": experiment.model.dtype}
    lens, output = {"k": experiment.logit_lens.k, **dtype}, _values(experiment.output_score)
    output |= {**dtype, "bos": experiment.model.bos}  # its prompt is always plain
    score, read = _values(experiment.input_score), ("model", "records", "logit_lens")
    return {
        "logit_lens": StepPlan(
            tables.LOGIT_LENS, ("engine.logit_lens", "engine.saes", "engine.sites"), Features(), lens, ("model", "saes")
        ),
        "input_score": StepPlan(tables.INPUT_SCORE, ("analysis.input_score",), Features(), score, read),
        "output_score": StepPlan(tables.OUTPUT_SCORE, ("engine.output_score",), Features(), output, ("model", "saes", "logit_lens")),
    }


def _fit_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """Effects of steering where a method needs them, and each method's intervention for each concept.

    Fits depend on every feature's scores, since methods choose among all features.
    """
    compared = settings_of(experiment)
    model = _of_model(experiment)
    steps = {}
    if any("effects" in method(name).needs for name in compared.methods):
        effects = _sampled(compared.effects, exclude={"n_vectors", "n_held_out", "prompts", "multiples", "n_at_later_layers"})
        effects |= {"prompts": value_digest(effect_prompts(compared)), "seed": compared.seed, **model}
        steps["effects"] = StepPlan(tables.EFFECTS, ("methods.fit.effects",), Vectors(), effects, ("model", "saes"))
    made_from = "lexicon" if isinstance(compared.concepts, TopicTexts) else "own_texts"
    pins = (*([made_from] if isinstance(compared.concepts, NamedConcepts) else []), *(["vectors"] if compared.vectors else []))
    scores = ("records", "concepts", "logit_lens", "input_score", "output_score")
    settings = {**_training(experiment), **model, "features": _values(experiment.features), "n_features": experiment.saes.n_features}
    settings |= {"n_vectors": compared.effects.n_vectors} if steps else {}
    if compared.prompt_writer:
        settings |= {"prompt_writer": prompts_fingerprint(compared.prompt_writer)}
    if compared.words:
        settings["words"] = compared.words
    texts = "world.concept_texts" if isinstance(compared.concepts, TopicTexts) else "sources.concept_texts"
    of_methods = tuple(dict.fromkeys(row.module.removeprefix("saesteer.") for row in METHODS))
    modules = ("methods.fit.fits", "methods.fit.approximator", "methods.fit.vectors_file", texts, *of_methods)
    written = (tables.STEERING_PROMPTS,) if compared.prompt_writer else ()
    steps["fits"] = StepPlan(tables.FITS, modules, Fits(), settings, ("model", "saes", *pins, *scores, *steps), of_methods, written)
    return steps


def _training(experiment: Experiment) -> dict[str, Any]:
    """What training depends on, but for the concepts, which are keys."""
    compared = settings_of(experiment)
    source: Any = "topics"
    if isinstance(compared.concepts, OwnTexts):
        source = "texts"
    elif isinstance(compared.concepts, PublishedConcepts):
        source = [published_file(key).identity for key in (compared.concepts.concepts, compared.concepts.texts)]
    sizes = compared.model_dump(
        mode="json", include={"n_positive", "n_negative", "seed", "training_tokens", "learning_rates", "held_out_texts"}
    )
    recipes = {name: asdict(recipe) for name, recipe in recipes_of(experiment.model.name).items()}
    openers, n_held_out = value_digest(training_openers(compared)), compared.effects.n_held_out
    return {**sizes, "recipes": recipes, "texts": source, "openers": openers, "n_held_out": n_held_out}


def _text_steps(experiment: Experiment) -> dict[str, StepPlan]:
    """Generated texts, of single features (P1's sweep) or of fits (the comparison of methods), and what is measured on them."""
    second, of_fits = experiment.perplexity.model, experiment.until == "methods"
    sampling = {"max_new_tokens", "temperature", "top_k", "top_p", "stop", "seed"}
    section: Settings = settings_of(experiment) if of_fits else experiment.sweep
    texts = {**_sampled(section, include=sampling | ({"sae_features"} if of_fits else set())), **_of_model(experiment)}
    scoring = {**second.model_dump(mode="json", include={"dtype", "bos"}), "prompt_format": experiment.model.prompt_format}
    keys = _text_keys(experiment)
    read = ("model", "saes", "fits") if of_fits else ("model", "saes")
    steps = {"generations": StepPlan(tables.GENERATIONS, ("engine.generations",), keys, texts, read)}
    if not of_fits or settings_of(experiment).factor_rule == "gen_success":
        counted = ("model", "generations", "logit_lens", *(["fits"] if of_fits else []))
        success = _values(experiment.gen_success)
        steps["gen_success"] = StepPlan(tables.GEN_SUCCESS, ("analysis.gen_success",), keys, success, counted)
    scored = ("perplexity_model", "generations")
    return {**steps, "perplexity": StepPlan(tables.PERPLEXITY, ("engine.perplexity",), keys, scoring, scored)}


def _judge_step(experiment: Experiment) -> dict[str, StepPlan]:
    judge, of_fits = experiment.judge, experiment.until == "methods"
    if isinstance(judge, NoJudge):
        return {}
    keys = _text_keys(experiment)
    concepts = () if of_fits else ("concepts",)
    blank = {"blank_texts": "rated"} if experiment.rates_blank_texts else {}
    if isinstance(judge, OracleJudge):
        read = ("oracle", "topics", *concepts, "generations", "perplexity")
        oracle = ("world.rating", "analysis.concepts")
        return {"judge": StepPlan(tables.JUDGEMENTS, oracle, keys, {"kind": judge.kind} | blank, read)}
    settings: dict[str, Any] = {
        "rubric": rubric_digest(),
        **judge.model_dump(mode="json", include={"kind", "max_tokens", "seed"}),
        "prompt_format": experiment.model.prompt_format,
        **blank,
    }
    pins: tuple[str, ...] = ()
    if isinstance(judge, EndpointJudge):
        settings = {**settings, "model": judge.model}
    else:
        assert isinstance(judge, LocalModelJudge)
        of_judge = judge.model.model_dump(mode="json", include={"dtype", *(["chat"] if judge.model.chat else [])})
        settings, pins = settings | of_judge, ("judge_model",)
    modules = ("judge.rate_llm", "analysis.concepts", *(["judge.local_model"] if pins else []))
    if not of_fits:
        keys = FeatureGenerations(min(judge.n_prefixes or experiment.sweep.n_prefixes, experiment.sweep.n_prefixes))
    return {"judge": StepPlan(tables.JUDGEMENTS, modules, keys, settings, (*pins, *concepts, "generations"))}


def _damage_step(experiment: Experiment) -> dict[str, StepPlan]:
    """What the chosen factors do to ordinary text, where there is any."""
    pin = ordinary_pin(experiment)
    if pin is None:
        return {}
    sizes = settings_of(experiment).model_dump(mode="json", include={"n_ordinary_texts", "ordinary_tokens", "sae_features"})
    settings = {**sizes, **_of_model(experiment)}
    modules = ("engine.damage", "sources.corpus")
    return {"damage": StepPlan(tables.DAMAGE, modules, ChosenFits(), settings, ("model", "saes", "fits", pin))}


def ordinary_pin(experiment: Experiment) -> str | None:
    """The pin of the ordinary texts; None: there are none."""
    if settings_of(experiment).ordinary_texts:
        return "ordinary_texts"
    return "texts" if isinstance(experiment.records, LocalRecords) else None


def _text_keys(experiment: Experiment) -> Keys:
    return FitGenerations() if experiment.until == "methods" else FeatureGenerations(experiment.sweep.n_prefixes)


def _of_model(experiment: Experiment) -> dict[str, Any]:
    chat = {"chat"} if experiment.model.chat else set()
    return experiment.model.model_dump(mode="json", include={"dtype", "bos", "prompt_format"} | chat)


def _sampled(section: Settings, **fields: set[str]) -> dict[str, Any]:
    """Some of a section's values. A top_p of 1 draws as if there were none, and is left out: rows made before there was one stay valid."""
    values = section.model_dump(mode="json", **fields)  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if (name, value) != ("top_p", 1)}


def _values(section: Settings) -> dict[str, Any]:
    return section.model_dump(mode="json")
