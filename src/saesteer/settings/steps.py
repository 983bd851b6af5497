"""The protocol: one section a step, in the order of the steps."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from saesteer.settings.base import Factor, NonNegativeFactor, Seed, Settings, Temperature, unique
from saesteer.settings.inputs import ModelSettings, ModelSource

HEADLINE_THRESHOLD = 0.3
"""Output score of the features that P1's filter keeps, unless settings say otherwise."""


class InputScoreSettings(Settings):
    tokens: Literal["retokenised", "ids"] = "retokenised"
    """Which id an example's maximal token has: its string tokenised again (P1's program; refused where less than 99 % of the
    vocabulary come back as themselves), or the id it was recorded with (P1's text)."""
    min_examples: Annotated[int, Field(gt=0)] = 10
    """Features with fewer max-activating examples have no input score (P1's program: 10; its text: 20)."""


class OutputScoreSettings(Settings):
    prompt: Annotated[str, Field(min_length=1)] = "From my experience,"
    """Neutral prompt (P1's program; its text says "In my experience,")."""
    factor: NonNegativeFactor = "10"
    """Steering factor, in multiples of a_max."""


class SamplingSettings(Settings):
    max_new_tokens: Annotated[int, Field(gt=0)] = 20
    """Longest text, in tokens (P1: 20, P4: 128)."""
    temperature: Temperature = 0.7
    """Sampling temperature; 0 is greedy."""
    top_k: Annotated[int, Field(gt=0)] = 50
    """Sampling is among this many most likely tokens (transformers' own default, which P1's program inherits)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """And among the most likely of them that together have this probability (P2: 0.3); 1: among all of them (transformers' own default)."""
    stop: Annotated[str, Field(min_length=1, max_length=1)] | None = "."
    """A text ends with the first token that contains this character; null: only with the model's end-of-sequence token."""
    seed: Seed = 0
    """Seed of the sampling, and of a comparison's fits; every row has its own random numbers, from this seed and its key."""


CLOSEST = 1.02
"""Ratio of a sweep's factors that stay apart when each is multiplied by the same number and rounded to three digits."""


Edit = Literal["addition", "decay", "ablation", "projection", "clamp"]
"""What is done with a feature; decay: an addition that weakens at each further token."""


class PilotSettings(Settings):
    loss_rise: Annotated[float, Field(gt=0)] = 1.0
    """At a feature's pilot factor, steering raises the mean loss of ordinary texts by so much, in nats a token."""
    n_texts: Annotated[int, Field(gt=0)] = 8
    """How many of the texts of local max-activating examples are read for it, spread over their file."""


def _some_positive(factors: tuple[str, ...]) -> tuple[str, ...]:
    if not any(float(factor) > 0 for factor in factors):
        raise ValueError("no factor is positive: add at least one, e.g. 2")
    if "0" not in factors:
        raise ValueError("factor 0 is missing: the unsteered text is what perplexity is compared with; add 0")
    return factors


SweepFactors = Annotated[tuple[Factor, ...], Field(min_length=1), AfterValidator(unique), AfterValidator(_some_positive)]


class SweepSettings(SamplingSettings):
    factors: SweepFactors
    """Steering factors in multiples of a_max, with a pilot in multiples of each feature's pilot factor; 0 (unsteered) is needed for
    perplexity limits. The rules choose among those above 0."""
    pilot: Annotated[PilotSettings | None, Field(exclude_if=lambda pilot: pilot is None)] = None
    """Where each feature's factors lie: around its pilot factor, at which ordinary text begins to be lost. null: the same multiples of
    a_max for all features (P1). For models whose useful factors differ by layer and feature; only for the edit addition."""
    edit: Edit = "addition"
    """addition: factor times a_max times the feature's decoder direction is added (P1). ablation: the feature's activation is 0 at every
    position; its factors are 0 and 1. projection: factor times what each position has along that direction is taken away. clamp: where
    the feature is active, its activation is set to factor times a_max, below 0 to suppress; factor 0 is unsteered."""
    prefixes: Path | None = None
    """Text file with one neutral prefix (for a model that answers: one instruction) a line."""
    published_prefixes: str | None = None
    """Instead of a file: key of a published list, e.g. p1/prefixes; it is downloaded and checked when the workflow runs."""
    n_prefixes: Annotated[int, Field(ge=2)] = 20
    """How many of the prefixes are used, from the top; half choose the factor, half report."""
    n_samples: Annotated[int, Field(gt=0)] = 1
    """Generations per feature, factor and prefix."""

    @model_validator(mode="after")
    def _one_source(self) -> "SweepSettings":
        if (self.prefixes is None) == (self.published_prefixes is None):
            raise ValueError("give either prefixes (a file) or published_prefixes (a key), and null for the other")
        return self

    @model_validator(mode="after")
    def _ablation_has_no_strength(self) -> "SweepSettings":
        if self.edit == "ablation" and set(self.factors) != {"0", "1"}:
            raise ValueError("edit: ablation has no strength: its factors are 0 (unsteered) and 1 (ablated)")
        return self

    @model_validator(mode="after")
    def _pilot_fits(self) -> "SweepSettings":
        if self.pilot is None:
            return self
        if self.edit != "addition":
            raise ValueError(f"pilot: it finds the factors of the edit addition, not of {self.edit}: set pilot to null")
        check_apart("factors", self.factors)
        return self


def check_apart(key: str, factors: Sequence[str]) -> None:
    """Refuse multiples of a pilot factor that rounding may make one."""
    steering = sorted((float(factor) for factor in factors if factor != "0"), key=lambda factor: (factor < 0, abs(factor)))
    for one, other in pairwise(steering):
        if 1 < other / one < CLOSEST:
            raise ValueError(
                f"{key}: {one:g} and {other:g} can be one once each is multiplied by a pilot factor and rounded: leave one out, or take a"
                f" ratio of {CLOSEST} at least"
            )


class GenSuccessSettings(Settings):
    tokens: Literal["retokenised", "ids"] = "retokenised"
    """Which tokens are counted: the continuation's text tokenised again (P1's program; refused as for input_score), or the ids as
    generated."""


class PerplexitySettings(Settings):
    model: ModelSource
    """The second language model that scores the texts, as they stand."""


class BestFactorSettings(Settings):
    rule: Literal["capped", "p1"] = "capped"
    """The rule whose factor the selection and the headline report; both are always computed."""
    factor_choice: Literal["held_out", "same_texts"] = "held_out"
    """held_out: choose on one half of the prefixes, report on the other, both directions averaged; same_texts: both on all (P1)."""
    gen_success_limit: Annotated[float, Field(gt=0)] = 3.0
    """p1: factors with GenSuccess@20 above this are dropped as repetition."""
    perplexity: Literal["continuation", "continuation_arithmetic", "whole_text"] = "continuation"
    """The perplexity that both rules go by: of the continuation given its prefix, geometric mean over texts; the same, arithmetic mean; or
    of prefix and continuation together, arithmetic mean, as in Hugging Face's metric (which P1's program may have used: it reads a
    `mean_perplexity` whose producer is not public)."""


class IntervalSettings(Settings):
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level of intervals and bands."""
    seed: Seed = 0
    """Seed of control and permutations."""


class SelectionSettings(IntervalSettings):
    thresholds: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), AfterValidator(unique)]
    """Output-score thresholds: keep features that score at least this."""
    headline_threshold: Annotated[float, Field(ge=0, le=1)] = HEADLINE_THRESHOLD
    """The threshold of the headline and of the test within layers."""
    late_layers_from: Annotated[int, Field(ge=0)]
    """First layer that counts as late."""
    random_draws: Annotated[int, Field(gt=0)] = 1000
    """Draws of the random-removal control."""
    permutations: Annotated[int, Field(gt=0)] = 10000
    """Permutations of the test within layers."""


class RecommendationSettings(Settings):
    damage_limit: Annotated[float, Field(ge=1)] = 4.0
    """`saesteer recommend` says use only where the perplexity of steered texts, and that of ordinary texts under steering, is at most this
    multiple of the unsteered one (4 is the cap of the rule capped too)."""
    n_candidates: Annotated[int, Field(gt=0)] | None = None
    """How many candidates it steers with, over all layers, unless --features says how many of a layer: those most similar to the concept by
    an embedding judge, otherwise those of the highest output scores; null: every candidate of each layer."""
    factors: SweepFactors | None = None
    """The factors that it chooses from, which include 0, in place of the sweep's; with sweep.pilot multiples of the median pilot factor of
    the experiment's features, so that candidates need no pilot, or where it is no sweep, of their own; null: the sweep's."""


class PmiSettings(Settings):
    texts: Path | None = None
    """Parquet of texts (a column text) whose co-occurrences are counted; null: the texts of local max-activating examples, or else no
    such figure."""
    published: str | None = None
    """Instead of texts: key of a published corpus, e.g. nltk/webtext (P1's)."""


class NoJudge(Settings):
    kind: Literal["none"]
    """No ratings: the scores' and GenSuccess figures are made, the judge's are left out."""


class OracleJudge(Settings):
    kind: Literal["oracle"]
    """The judge of a shipped world, which knows its topics."""
    oracle: Path
    """Its folder (classifier.safetensors with oracle.json or text_judge.json)."""


class AnswerSettings(Settings):
    max_tokens: Annotated[int, Field(gt=0)] = 200
    """Longest answer, in tokens."""
    seed: Seed = 0
    """Another seed makes another model of the same one, whose answers are stored apart: for asking the same twice."""


class Endpoint(AnswerSettings):
    section: ClassVar[str] = "judge"
    """Where in the experiment file it stands, for messages."""
    base_url: str
    """Address up to /v1, e.g. https://api.openai.com/v1 or http://localhost:8000/v1."""
    model: str
    """Name of the model there."""
    key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null: the endpoint needs none."""
    temperature: Literal[0] | None = 0
    """0: the likeliest answer; null: none is sent, for models that take none (OpenAI's o-series and gpt-5), whose answers then vary."""
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name by which max_tokens is sent; OpenAI's o-series and gpt-5 know the second only, and spend part of it on thoughts."""
    concurrency: Annotated[int, Field(gt=0)] = 8
    """Requests of a job under way at once."""
    batch: bool = False
    """Use the endpoint's batch API (cheaper, slower) where it has one."""
    usd_per_million_input_tokens: Annotated[float, Field(ge=0)] = 0.0
    """Price, for the estimate and the limit."""
    usd_per_million_output_tokens: Annotated[float, Field(ge=0)] = 0.0
    """Price, for the estimate and the limit."""
    max_usd: Annotated[float, Field(ge=0)] | None = None
    """Spend at most this much on the experiment, all jobs and runs together; null: no limit in money."""
    max_total_tokens: Annotated[int, Field(gt=0)] | None = None
    """Use at most this many tokens, prompts and answers, all jobs and runs together; null: no limit."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for one answer."""

    @property
    def identity(self) -> dict[str, Any]:
        """Which model answers, as rows depend on it: with its temperature where it is not the usual one."""
        return {"model": self.model} | ({} if self.temperature == 0 else {"temperature": self.temperature})


class LanguageModelJudge(AnswerSettings):
    n_prefixes: Annotated[int, Field(gt=0)] | None = None
    """Rate the texts of this many prefixes, from the top; null: of all. Half choose the factor, half report, so 2 at least are of use."""


class EndpointJudge(LanguageModelJudge, Endpoint):
    kind: Literal["endpoint"]
    """A language model behind an OpenAI-compatible address."""


class LocalModelJudge(LanguageModelJudge):
    kind: Literal["model"]
    """A transformers model on the GPU."""
    model: ModelSettings
    """The model; instruction-tuned, with a chat template."""


class EmbeddingJudge(Settings):
    kind: Literal["embedding"]
    """Cosines of texts and concept by a sentence-embedding model, against those of unsteered texts on the same prompts. Concepts are any
    words, texts English; it costs nothing."""
    model: ModelSource
    """The model: an encoder of the transformers library with the files of sentence-transformers, that pools by mean or cls; in float32."""
    descriptions: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default={})
    """Concept -> texts that describe it or are about it; their vectors and that of its name are averaged. A concept without: its name."""

    @model_validator(mode="after")
    def _in_float32(self) -> "EmbeddingJudge":
        if self.model.dtype != "float32":
            raise ValueError("model.dtype: a judge of kind embedding computes in float32: leave dtype out")
        return self


class ExplanationSettings(Settings):
    evidence: Literal["examples", "lens", "both"] = "both"
    """What a feature is named from: its max-activating examples, its top logit-lens tokens, or both."""
    n_shown: Annotated[int, Field(gt=0)] = 15
    """Max-activating examples shown: the largest of those that are not held out."""
    n_held_out: Annotated[int, Field(ge=2)] = 10
    """Max-activating examples that a label is scored on, at most half of them, and as many texts in which the feature is not active."""
    seed: Seed = 0
    """Seed of which examples are held out, and of the other texts."""


JudgeSettings = Annotated[NoJudge | OracleJudge | EmbeddingJudge | EndpointJudge | LocalModelJudge, Field(discriminator="kind")]
RatingJudge = Annotated[OracleJudge | EmbeddingJudge | EndpointJudge | LocalModelJudge, Field(discriminator="kind")]
"""The judges that rate."""
