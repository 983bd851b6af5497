"""A feature or a method's fit as a file that other programs add to the residual stream: frozen, measured beside the original, written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

import saesteer
from saesteer.core import markdown
from saesteer.core.errors import SettingsError
from saesteer.core.files import write_json
from saesteer.engine.generations import feature_addition, placed
from saesteer.engine.hook_points import to_residual
from saesteer.engine.interventions import Addition
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, prompt_token_ids
from saesteer.engine.saes import Sae
from saesteer.engine.vector_formats import FORMATS, block_vector, check_constant, check_format, check_suffix, median_a_max
from saesteer.exchange.fits import concept_of, fit_of, fitted_layer, not_a_feature, parse_feature, recommended_factor
from saesteer.exchange.measured import MeasuredSteering, measured
from saesteer.run import Run
from saesteer.settings import Experiment, canonical_factor
from saesteer.sources.neuronpedia.sources import known_sources
from saesteer.steps.judges import judge_of
from saesteer.steps.logit_lens import LOGIT_LENS


@dataclass(frozen=True)
class Steerer:
    """What is to be exported."""

    label: str
    addition: Addition  # as the experiment steers with it
    factor: float
    factor_from: str  # what chose it
    concept: str | None  # that texts are rated for
    origin: Mapping[str, Any]  # feature, or method and concept


@dataclass(frozen=True)
class Target:
    """Where a vector goes."""

    form: str  # of FORMATS
    path: Path
    n_texts: int  # the fewest that are measured for each form of steering
    model_id: str | None = None  # what Neuronpedia calls the model


def steerer_of(
    run: Run, which: str, layer: int | None = None, factor: float | None = None, concept: str | None = None
) -> tuple[Steerer, Sae]:
    """What LAYER/FEATURE or METHOD/CONCEPT names in a finished experiment, and the SAE of its layer. `concept` is what texts are rated for;
    None: what the feature stands for in the experiment, or what the method was fitted for. Refused where the texts that tell what the
    vector does cannot be made or rated."""
    judge = judge_of(run.steering)
    if judge and concept:
        judge.check_concepts(run, [concept])
    layer_and_feature = parse_feature(which)
    if layer_and_feature is not None:
        run.check_feature(*layer_and_feature)
        sae = run.sae(layer_and_feature[0])
        return _of_feature(run, sae, layer_and_feature[1], factor, concept), sae
    method, slash, fitted_for = which.partition("/")
    if not slash:
        raise not_a_feature(which, nor=", nor METHOD/CONCEPT, e.g. 'diffmean/the sea'")
    fit = fit_of(run, method, fitted_for, fitted_layer(run, layer), factor)
    addition = check_constant(fit.intervention)
    sae = run.sae(fit.layer)
    addition = check_constant(placed(addition, sae, run.comparison.methods.sae_features))
    origin = {"method": method, "concept": fitted_for, "features": list(addition.features)}
    label = f"{fitted_for} ({method}, layer {fit.layer})"
    return Steerer(label, addition, fit.factor, fit.factor_from, concept or fitted_for, origin), sae


def _of_feature(run: Run, sae: Sae, feature: int, factor: float | None, concept: str | None) -> Steerer:
    layer = sae.meta.layer
    if factor is None:
        factor, factor_from = recommended_factor(run, layer, feature)
    else:
        factor, factor_from = float(canonical_factor(factor)), "given"
    stands_for = concept or concept_of(run, layer, feature)
    label = f"feature {layer}/{feature}" + (f" ({stands_for})" if stands_for else "")
    return Steerer(label, feature_addition(sae, feature), factor, factor_from, stands_for, {"feature": feature})


def export_vector(run: Run, steerer: Steerer, sae: Sae, to: Target) -> dict[str, Any]:
    """Freeze, measure and write; gives what is said of the vector. What a format cannot express is refused before anything is measured."""
    check_suffix(to.form, to.path)
    layer, hook_point, original = sae.meta.layer, sae.meta.hook_point, steerer.addition
    neuronpedia = {"neuronpedia_model": _neuronpedia_model(run.experiment, layer, to)} if to.form == "neuronpedia" else {}
    lm, form = run.model(), FORMATS[to.form]
    constant, scale = _constant(run, lm, sae, original, form.positions)
    added = block_vector(lm, layer, hook_point, constant, steerer.factor)
    check_format(to.form, added)
    forms = [MeasuredSteering("original", original, steerer.factor)]
    if (constant.scale, constant.positions) != (original.scale, original.positions):
        forms.append(MeasuredSteering("frozen", constant, steerer.factor))
    lens = None
    if len(original.features) == 1:
        ids, _ = top_logit_lens_tokens(lm, sae.W_dec[list(original.features)].float(), 20, to_residual=to_residual(lm, layer, hook_point))
        row = {"layer": layer, "feature": original.features[0], "token_ids": ids[0].tolist()}
        lens = pl.DataFrame([row], schema=LOGIT_LENS.schema)
    texts = measured(run, lm, sae, forms, steerer.concept, lens, to.n_texts)
    about = {
        "label": steerer.label,
        "made_by": f"saesteer {saesteer.__version__}",
        "experiment": run.name,
        "model": run.model_record() | {"model_type": added.model_type, "licence": _licence(run.model_folder())},
        "sae": {"source": sae.meta.source, "sha256": sae.meta.sha256, "layer": layer, "hook_point": hook_point},
        "steered_by": dict(steerer.origin),
        "added_to": {"output_of_block": added.block, "module": added.module, "positions": _POSITIONS[constant.positions]},
        "factor": steerer.factor,
        "factor_from": steerer.factor_from,
        **scale,
        "norm": float(added.vector.norm()),
        "expected_effect": {"concept": steerer.concept, "judge": run.steering.judge.kind, "texts": texts},
        "usage": form.usage(to.path, added),
        **neuronpedia,
    }
    form.write(to.path, added, about)
    if not form.has_about:
        write_json(to.path.with_name(f"{to.path.name}.json"), about)
    return about


_POSITIONS = {"all": "all", "last": "the prompt's last token and all that follow"}


def _constant(
    run: Run, lm: LanguageModel, sae: Sae, addition: Addition, positions: Literal["all", "last"]
) -> tuple[Addition, dict[str, Any]]:
    """The addition frozen for a consumer that can start at these positions; and what factor 1 adds, with how that was fixed."""
    where = positions if addition.positions == "last" else "all"
    if addition.scale is not None:
        return replace(addition, positions=where), {"scale": addition.scale, "scale_from": "fitted by the method"}
    ids = [prompt_token_ids(lm, prompt) for prompt in run.prompts().values()]
    a_max = median_a_max(lm, sae, sae.meta.layer, ids)
    how = f"median over {len(ids)} neutral prompts of the largest feature activation at the last token"
    return replace(addition, scale=a_max, positions=where), {"a_max": a_max, "a_max_from": how}


def _neuronpedia_model(experiment: Experiment, layer: int, to: Target) -> str:
    sources = known_sources(experiment, [layer])
    if to.model_id is None and layer not in sources:
        raise SettingsError("neuronpedia: it is not known what Neuronpedia calls this model: give --model-id, e.g. gemma-2-2b")
    return to.model_id or sources[layer].model


def _licence(folder: Path) -> str | None:
    """The licence that a model card in the model's folder names; None where there is none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import RepoCard

    named = RepoCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    return named if isinstance(named, str) else None


def strength(about: Mapping[str, Any]) -> str:
    """How hard is steered, in a line."""
    name, label = "a_max" if "a_max" in about else "scale", markdown.printable(about["label"])
    return f"{label}: factor {about['factor']:g} ({about['factor_from']}), {name} {about[name]:.4g} ({about[f'{name}_from']})"


def effect_table(about: Mapping[str, Any]) -> str:
    """What was measured, as a table in Markdown."""

    def cell(value: Mapping[str, Any] | None, n_texts: int) -> str:
        if value is None:
            return "–"
        of_all = "" if value["n"] == n_texts else f" (n = {value['n']})"
        return markdown.with_interval(value["mean"], value["low"], value["high"]) + of_all

    header = ("", "texts", "score", "concept", "fluency", "GenSuccess@20", "perplexity, × unsteered")
    scores = ("judge_score", "concept_rating", "fluency_rating", "gen_success_20", "perplexity_ratio")
    rows = about["expected_effect"]["texts"]
    lines = [(row["form"], row["n_texts"], *(cell(row[score], row["n_texts"]) for score in scores)) for row in rows]
    if len(rows) == 2:  # nothing was frozen
        lines.append(("frozen", "the same: what it adds is constant already", *[""] * 5))
    return markdown.table(header, lines)
