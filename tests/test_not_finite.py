"""Where steering makes logits that are no numbers, the row is refused by name and finished ones stay; what is measured on a missing text is
missing. Numbers that lead to such logits, in files, commands and requests, are refused."""

import copy
import math
from collections.abc import Iterator
from typing import Any, get_args

import polars as pl
import pytest
import torch
from engine_models import TINY, sweep_rows, tiny_model, tiny_sae
from polars.testing import assert_frame_equal
from pydantic import BaseModel, ValidationError
from synthetic_tables import lens_rows
from test_generate import swept

from saesteer.analysis.best_factor import best_factors
from saesteer.analysis.gen_success import gen_success
from saesteer.analysis.summaries import steering_table
from saesteer.analysis.tables import BEST_FACTORS, STEERING
from saesteer.core.errors import NotFiniteError
from saesteer.core.tables import validate
from saesteer.core.texts import NO_FIT, as_generations, of_features
from saesteer.core.tokens import TextTokens
from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.models import language_model
from saesteer.engine.output_score import output_scores
from saesteer.engine.perplexity import continuation_nll, text_losses
from saesteer.engine.sampling import NOTHING, sample_tokens
from saesteer.serve.requests import CompletionRequest
from saesteer.settings import BestFactorSettings, Settings, SettingsError, canonical_factor
from saesteer.settings.methods import MethodSettings
from saesteer.settings.steps import SamplingSettings
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS
from saesteer.steps.perplexity import PERPLEXITY

FAMILY, OVERFLOWS = "gemma2", "1" + "0" * 39
"""A factor that is infinite in float32."""
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.0, 50, 1.0), (0.7, 2, 1.0), (0.7, 2, 0.5), (0.7, 0, 1.0), (0.7, 0, 0.5)])
@pytest.mark.parametrize("bad", [[NAN, 1.0, 2.0, 3.0], [1.0, 2.0, NAN, 0.0], [0.0, INF, 1.0, 2.0], [NAN] * 4, [-INF] * 4])
def test_no_token_is_drawn(bad: list[float], temperature: float, top_k: int, top_p: float) -> None:
    masked, plain = [-INF, 1.0, -INF, 0.5], [0.1, 0.2, 3.0, 0.4]
    numbers = torch.tensor([0.3, 0.6, 0.9], dtype=torch.double)
    drawn = sample_tokens(torch.tensor([masked, bad, plain]), numbers, temperature, top_k, top_p)
    alone = sample_tokens(torch.tensor([masked, plain, plain]), numbers, temperature, top_k, top_p)
    assert drawn.tolist() == [alone[0], NOTHING, alone[2]]
    assert drawn[0] in (1, 3)


@pytest.mark.parametrize("sampling", [Sampling(8, 0.0, stop="o"), Sampling(8, stop=""), Sampling(8, top_k=0, stop="o")])
def test_a_text_of_no_numbers_is_refused_by_name_after_the_finished_ones(sampling: Sampling) -> None:
    lm, sae, keys = tiny_model(FAMILY), tiny_sae(1), ["feature", "factor", "prefix_id", "sample"]
    rows = sweep_rows(48).with_columns(pl.col("factor").replace({"10": OVERFLOWS})).unique(maintain_order=True)
    finished, plain = [], swept(lm, sae, sweep_rows(48), FAMILY, sampling)
    with pytest.raises(
        NotFiniteError, match=rf"layer 1, feature \d+, factor {OVERFLOWS}, prompt '.*': logits are not finite in float32 on cpu"
    ):
        finished.extend(feature_texts(lm, sae, 1, rows, TINY, sampling, 3))
    made = pl.concat(finished)
    assert made.height > 4
    assert made.filter(factor=OVERFLOWS).is_empty()
    assert_frame_equal(made.sort(keys), plain.join(made, on=keys, how="semi").sort(keys), check_exact=True)


def generations() -> pl.DataFrame:
    """GENERATIONS rows of one feature: four prefixes at factors 0, 1 and 2, of which all at 2 are missing, and one at 1."""
    rows = [
        {"layer": 1, "feature": 3, "factor": factor, "prefix_id": prefix, "sample": 0, "token_ids": [5, 6], "text": " ba be", "n_tokens": 2}
        for factor in ("0", "1", "2")
        for prefix in TINY
    ]
    first = next(iter(TINY))
    for row in rows:
        row["reason"] = NO_FIT if row["factor"] == "2" or (row["factor"], row["prefix_id"]) == ("1", first) else None
        if row["reason"]:
            row |= {"token_ids": None, "text": None, "n_tokens": 0}
    schema = {name: GENERATIONS.schema[name] for name in ("token_ids", "n_tokens", "layer", "sample")} | {"feature": pl.UInt32}
    frame = pl.DataFrame(rows, schema_overrides=schema).with_columns(stopped=False, seconds=pl.lit(None, pl.Float64))
    return as_generations(frame).select(list(GENERATIONS.columns))


def measured() -> dict[str, pl.DataFrame]:
    """What is measured on them."""
    made, lm = generations(), tiny_model(FAMILY)
    lens = lens_rows(1, {3: [5]})
    tokens = TextTokens(lm.tokenizer.backend_tokenizer, lm.tokenizer.bos_token_id, lm.name)
    return {
        GEN_SUCCESS.name: gen_success(made.with_columns(feature=pl.lit(3, pl.UInt32)), lens, tokens, "ids"),
        PERPLEXITY.name: pl.concat(text_losses(lm, made, TINY, "plain")),
    }


def test_what_is_measured_on_a_missing_text_is_missing() -> None:
    missing = pl.col("text").is_null()
    made = generations()
    assert made.filter(missing).height == 5
    for name, rows in measured().items():
        column = {GEN_SUCCESS.name: "gen_success_20", PERPLEXITY.name: "mean_nll"}[name]
        joined = rows.join(made.select(*GENERATIONS.keys, "text"), on=GENERATIONS.keys)
        assert joined.filter(missing)[column].null_count() == 5
        assert joined.filter(missing)["reason"].to_list() == [NO_FIT] * 5
        assert joined.filter(~missing)[column].null_count() == joined.filter(~missing)["reason"].count() == 0
        validate({GEN_SUCCESS.name: GEN_SUCCESS, PERPLEXITY.name: PERPLEXITY}[name], rows, "test")


def steering() -> pl.DataFrame:
    """STEERING of them."""
    rows = [of_features(frame).drop("reason") for frame in measured().values()]
    unrated = of_features(pl.DataFrame(schema=JUDGEMENTS.schema)).drop("reason").with_columns(concept_outside=pl.lit(None, pl.Float64))
    return steering_table(*rows, unrated, {prefix: number % 2 for number, prefix in enumerate(TINY)})


def test_a_factor_without_texts_is_not_chosen_and_counts_as_nothing() -> None:
    made = validate(STEERING, steering(), "test")
    assert made.filter(factor="2").select("n", "gen_success_20", "log_perplexity").unique().row(0) == (0, None, None)
    assert made.filter(factor="1").sort("half")["n"].to_list() == [1, 2]
    chosen = best_factors(made, BestFactorSettings())
    assert chosen["factor"].unique().to_list() == ["1"]
    validate(BEST_FACTORS, chosen, "test")
    nothing = best_factors(made.filter(pl.col("factor") != "1"), BestFactorSettings())
    assert nothing.select(pl.col("factor", "gen_success_20").null_count()).row(0) == (nothing.height, nothing.height)
    validate(BEST_FACTORS, nothing, "test")


def test_an_output_score_of_no_numbers_is_refused() -> None:
    lm, sae = tiny_model(FAMILY), tiny_sae(1)
    with pytest.raises(NotFiniteError, match=r"feature 4, factor 3e\+38: .* not finite in float32 on cpu: .*steer it less"):
        output_scores(lm, sae, 1, [4, 5], torch.zeros((2, 3), dtype=torch.long), "From ba be", 3e38)


def test_logits_of_tokens_that_can_never_come_may_be_infinite() -> None:
    whole, sae = tiny_model("llama"), tiny_sae(1)
    model = copy.deepcopy(whole.model)
    bias = torch.zeros(whole.n_vocab).index_fill(0, torch.arange(20, whole.n_vocab, 3), -INF)
    model.lm_head.bias = torch.nn.Parameter(bias)
    lm = language_model(model, whole.tokenizer)
    rows = pl.DataFrame({"row": [0], "prefix": ["From ba"], "text": [" be"]}, schema_overrides={"row": pl.UInt32})
    assert continuation_nll(lm, rows)["mean_nll"].is_finite().all()
    assert output_scores(lm, sae, 1, [4, 5], torch.zeros((2, 3), dtype=torch.long), "From ba be", 10.0)["output_score"].is_finite().all()
    drawn = [token for tokens in swept(lm, sae, sweep_rows(48), "llama", Sampling(4))["token_ids"] for token in tokens]
    assert bias[drawn].max() == bias[drawn].min() == 0


@pytest.mark.parametrize("value", ["1e30", 10_001, 1e30, "10000.5", -10_001, "-inf"])
def test_an_absurd_factor_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match="a factor is a number from -10000 to 10000, not"):
        canonical_factor(value)
    assert [canonical_factor(value) for value in ("1e4", "-2.50", "-0")] == ["10000", "-2.5", "0"]


@pytest.mark.parametrize("value", ["1e-320", 5e-324, "-1e-400000", 1e-10])
def test_a_factor_that_changes_nothing_is_refused(value: Any) -> None:
    """Written as a decimal, the third has 400,002 digits."""
    with pytest.raises(SettingsError, match="a factor is a number from -10000 to 10000, not .* below 1e-09"):
        canonical_factor(value)
    assert canonical_factor("1e-9") == "0.000000001"


@pytest.mark.parametrize("value", [NAN, INF, 1e308, 1e-320])
def test_a_temperature_that_cannot_be_divided_by_is_refused(value: float) -> None:
    def of(section: type[BaseModel]) -> BaseModel:
        return section.model_validate({"temperature": value, **({"prompt": "x"} if section is CompletionRequest else {})})

    for section in (SamplingSettings, MethodSettings, CompletionRequest):
        with pytest.raises(ValidationError) as refused:
            of(section)
        assert "temperature" in [error["loc"][0] for error in refused.value.errors()]
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=value)
    assert Sampling(temperature=1e-9).temperature == 1e-9


def _sections(section: type[Settings]) -> Iterator[type[Settings]]:
    yield section
    for below in section.__subclasses__():
        yield from _sections(below)


@pytest.mark.parametrize("value", [NAN, INF, -INF, "nan", "-inf", 1e309], ids=str)
def test_no_number_of_a_file_is_nan_or_infinite(value: Any) -> None:
    """Every number in every section, by its own name; an integer is none of these either."""
    numbers = [
        (section, name)
        for section in _sections(Settings)
        for name, field in section.model_fields.items()
        if {float, int} & {field.annotation, *get_args(field.annotation)}
    ]
    assert len(numbers) > 40
    for section, name in numbers:
        with pytest.raises(ValidationError) as refused:
            section.model_validate({name: value})
        assert name in [error["loc"][0] for error in refused.value.errors()], (section, name)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_of_no_stream_is_refused(seed: int) -> None:
    """Random numbers are drawn from states of 64 bits."""
    seeded = [section for section in _sections(Settings) if "seed" in section.model_fields]
    assert len(seeded) >= 5
    for section in seeded:
        with pytest.raises(ValidationError) as refused:
            section.model_validate({"seed": seed})
        assert "seed" in [error["loc"][0] for error in refused.value.errors()], section
