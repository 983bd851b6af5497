"""The comparison of steering methods: which, on which concepts, under which protocol."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from saesteer.settings.base import NonNegativeFactor, Settings, Temperature, unique
from saesteer.settings.registry import METHODS, Method, method
from saesteer.settings.steps import Endpoint, PilotSettings, SamplingSettings

N_ORDINARY_TEXTS, ORDINARY_TOKENS = 32, 32
"""On how many texts it is measured what steering breaks, and how many tokens are read of each, the first eight as its prompt."""
N_PROMPT_TEXTS = {"prompt": 3, "prompt_search": 14}
"""Grid of a method that adds text -> how many texts it has, one a factor; a search has as many as additions have factors."""
P4_LONGEST_TEXT = 128
"""Tokens of a training text, as many as P4 (arXiv 2501.17148) lets a model write."""
HELD_OUT_TEXTS = 0.25
"""Share of the training texts on which learning rate and number of epochs are chosen; the method is then trained on all."""


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        method(name)
    return names


class TopicTexts(Settings):
    kind: Literal["topics"]
    """Topics of the shipped world: training texts come from its grammar."""
    topics: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(unique)]
    """Which topics."""
    lexicon: Path
    """The grammar's words."""
    openers: Path
    """File of neutral openers that training texts begin with, a line each; those that are prompts here are left out."""

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts in order."""
        return self.topics


class LabelledTexts(Settings):
    kind: Literal["texts"]
    """Concepts and labelled texts of one's own; another concept's texts are the negative ones."""
    texts: Path
    """Parquet, CSV or JSON lines (.jsonl) with columns concept and text, and opener where texts go on from something; those that go on
    from a prompt of the comparison are left out."""
    names: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(unique)]
    """Which of the file's concepts."""


class PublishedConcepts(Settings):
    kind: Literal["published"]
    """A published concept set in AxBench's form."""
    concepts: str
    """Key of the list of concepts (metadata.jsonl), e.g. axbench/concept500_9b_l20."""
    texts: str
    """Key of the training texts (train_data.parquet), e.g. axbench/concept500_9b_l20_train."""
    n_concepts: Annotated[int, Field(gt=1)] | None = None
    """Use this many concepts, from the top; null: all."""


NamedConcepts = TopicTexts | LabelledTexts
"""Sources whose concepts the settings name."""
ConceptSource = Annotated[TopicTexts | LabelledTexts | PublishedConcepts, Field(discriminator="kind")]


Grid = Annotated[tuple[NonNegativeFactor, ...], Field(min_length=1), AfterValidator(unique)]


class FactorGrids(Settings):
    addition: Grid = (
        "0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4", "1.6", "1.8", "2", "2.5", "3", "4", "5",
    )  # fmt: skip
    """Vectors, in multiples of each vector's largest activation on its concept's texts (P4's grid)."""
    clamp: Grid = (
        "0.4", "0.8", "1.2", "1.6", "2", "3", "4", "6", "8", "10", "20", "40", "60", "100",
    )  # fmt: skip
    """Feature activations, in multiples of the feature's largest activation (P4's grid)."""
    adapter: Grid = (
        "0.1", "0.25", "0.4", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2", "2.5", "3", "4", "5",
    )  # fmt: skip
    """Adapters and fine-tuned weights, in multiples of the change as trained."""
    prompt: Grid = tuple(map(str, range(1, N_PROMPT_TEXTS["prompt"] + 1)))
    """Prompts: which of the method's texts, 1 is the first."""
    prompt_search: Grid = tuple(map(str, range(1, N_PROMPT_TEXTS["prompt_search"] + 1)))
    """The method prompt_search: which of its candidates, 1 is the first; by default all."""
    of_method: dict[str, Grid] = Field(default_factory=dict)
    """Name of a method -> its factors, in place of those of its kind; for a method whose choices lie at an end of the grid."""

    @model_validator(mode="after")
    def _sensible(self) -> "FactorGrids":
        for name in self.of_method:
            if method(name).grid == "once":
                raise ValueError(f"of_method: {name} has no strength to choose, so no factors: leave it out")
        grids = [(kind, kind, getattr(self, kind)) for kind in N_PROMPT_TEXTS]
        grids += [(f"of_method.{name}", method(name).grid, grid) for name, grid in self.of_method.items() if method(name).adds_text]
        for key, kind, grid in grids:
            n_texts = N_PROMPT_TEXTS[kind]
            if unknown := [factor for factor in grid if factor not in map(str, range(1, n_texts + 1))]:
                raise ValueError(f"{key}: a factor is the number of one of the method's texts, 1 to {n_texts}, not {unknown[0]}")
        return self

    def factors(self, row: Method) -> tuple[str, ...]:
        """The factors that a method is tried at."""
        of_kind: tuple[str, ...] = ("1",) if row.grid == "once" else getattr(self, row.grid)
        return self.of_method.get(row.name, of_kind)


def most_effect_vectors(n_features: int) -> int:
    """How many vectors the decoder rows of an SAE make, one by one and in pairs (methods.fit.effects)."""
    return n_features * (1 + (n_features - 1) // 2)


class EffectSettings(Settings):
    n_vectors: Annotated[int, Field(gt=2)] = 1024
    """Directions whose effects are measured (P2: 50,000): decoder rows and, beyond the SAE's width, sums of two."""
    n_held_out: Annotated[int, Field(gt=1)] = 128
    """Vectors among them that the approximator is measured with and not fitted on (P2: 100)."""
    n_rollouts: Annotated[int, Field(gt=0)] = 2
    """Texts per vector and prompt (P2: 64)."""
    prompts: Path = Path("config/prefixes.txt")
    """Text file of neutral prefixes, a line each; those that methods are judged on are left out."""
    n_prompts: Annotated[int, Field(gt=0)] = 14
    """Neutral prompts that they start from, the beginning-of-sequence token alone three times among them (P2: 14)."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 24
    """Tokens of each text (P2: 32)."""
    top_k: Annotated[int, Field(gt=0)] = 50
    """Sampling is among this many most likely tokens (P2)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """And among the most likely of them that together have this probability (P2: 0.3); 1: among all of them."""
    loss_rise: Annotated[float, Field(gt=0)] = 1.0
    """Vectors are scaled so that they raise the loss of unsteered texts by so much, in nats a token."""

    @model_validator(mode="after")
    def _some_are_fitted(self) -> "EffectSettings":
        fewest = self.n_held_out + 2
        if self.n_vectors < fewest:
            raise ValueError(
                f"effects.n_vectors is {self.n_vectors}, but {self.n_held_out} vectors are held out and 2 at least fitted:"
                f" set it to {fewest}"
            )
        return self


class PromptWriter(Endpoint):
    section: ClassVar[str] = "methods.prompt_writer"


class ProtocolSettings(SamplingSettings):
    """What a concept's score is, which prompts choose the factor, and the intervals; of texts from elsewhere too."""

    score: Literal["harmonic_mean", "harmonic_mean_of_means", "product_of_means"] = "harmonic_mean"
    """A concept's score: mean over texts of their ratings' harmonic mean (P4); harmonic mean of the ratings' means (P1); mean
    of concept / 2 times mean of fluency / 2 (P2)."""
    factor_choice: Literal["held_out", "first_half", "same_texts"] = "held_out"
    """Which prompts choose the factor: each half for the other, averaged; the first half for the second (P4); the same (P2)."""
    bootstrap_draws: Annotated[int, Field(gt=99)] = 10_000
    """Resamples of concepts behind the intervals of ranks."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level of intervals."""


class MethodSettings(ProtocolSettings):
    methods: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique), AfterValidator(_known)] = tuple(
        row.name for row in METHODS if row.name != "from_file"
    )
    """Names of methods (saesteer.settings.registry)."""
    concepts: ConceptSource
    """What the texts should be about."""
    n_positive: Annotated[int, Field(gt=1)] = 72
    """Training texts that show a concept (P4)."""
    n_negative: Annotated[int, Field(gt=1)] = 72
    """Training texts that do not (P4)."""
    longest_training_text: Annotated[int, Field(gt=1)] = P4_LONGEST_TEXT
    """Tokens of a training text, its prompt not counted, after which it is cut: as long as P4 lets a model write."""
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(unique)] = (
        3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2,
    )  # fmt: skip
    """Every method that learns by gradient descent is trained at each, and takes the one, with its number of epochs, of lowest loss on
    held-out training texts (a quarter); none: as published for the model (settings/recipes.csv)."""
    training_tokens: Literal["output", "all"] = "output"
    """Which tokens of training texts make vectors and choose features: those that a text says; or its prompt's too, all but the
    beginning-of-sequence token and what the chat template begins with (P4). Losses are of what texts say in any case."""
    prompts: Path | None = None
    """Text file with one neutral prefix (for a model that answers: one instruction) a line."""
    published_prompts: str | None = None
    """Instead of a file: key of a published list, e.g. alpaca_eval/instructions."""
    n_prompts: Annotated[int, Field(gt=0)] = 10
    """How many of them are used, from the top (P4: ten); half choose the factor, half report."""
    n_samples: Annotated[int, Field(gt=0)] = 1
    """Texts per method, concept, factor and prompt."""
    temperature: Temperature = 1.0
    """Sampling temperature (P4); 0 is greedy."""
    ordinary_texts: Path | None = None
    """Parquet file of texts (a column text) about anything, on which it is measured what steering breaks; null: those of local
    max-activating examples, or else it is not measured."""
    sae_features: Literal["everywhere", "last_position"] = "everywhere"
    """Steering with SAE features: everywhere adds a multiple of the feature's max activation at every position (P4); last_position adds a
    multiple of a_max at the last position of every forward (P1)."""
    factors: FactorGrids = FactorGrids()
    """Each kind of method's strengths."""
    pilot: Annotated[PilotSettings | None, Field(exclude_if=lambda pilot: pilot is None)] = None
    """Factor 1 of each fit: where steering raises the loss of ordinary texts by so much, so that one grid is right for all. null: the
    strength that the method itself names. Added texts and what has no strength to choose stay as they are."""
    effects: EffectSettings = EffectSettings()
    """Measuring what steering does, for P2 and P6."""
    prompt_writer: PromptWriter | None = None
    """A language model behind an OpenAI-compatible address that writes the texts of the method prompting, for each concept one of each
    insistence (P4); null: fixed wordings. Only for a model that answers."""
    vectors: Path | None = None
    """Safetensors file of vectors trained elsewhere, a tensor [d_model] a concept, for the method from_file."""
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Words that stand for each concept, for the method sae_logits, which abstains where there are none. Its authors let a language model
    judge."""
    blank_texts: Literal["unrated", "rated"] = "unrated"
    """Texts of nothing but white space: unrated, and so missing from means; or put to the judge as any other (P4; the oracle rates
    them 0)."""
    factor_rule: Literal["score", "gen_success"] = "score"
    """What they choose it by: the score; or, of methods that steer with one SAE feature, GenSuccess@20 over perplexity (P1), and of all
    others the score."""
    averaged: Literal["all", "surviving"] = "all"
    """The headline's mean: over all concepts, an abstaining method's counting as unsteered; or over those that have a fit (P1)."""

    @model_validator(mode="after")
    def _sources(self) -> "MethodSettings":
        if (self.prompts is None) == (self.published_prompts is None):
            raise ValueError("give either prompts (a file) or published_prompts (a key), and null for the other")
        if self.n_prompts < 2 and self.factor_choice != "same_texts":
            raise ValueError("n_prompts: one half of the prompts chooses the factor, the other reports: at least 2 are needed")
        if self.prompt_writer and "prompting" not in self.methods:
            raise ValueError("prompt_writer writes the texts of the method prompting, which is not among methods: add it, or set null")
        if ("from_file" in self.methods) != (self.vectors is not None):
            raise ValueError("method from_file and the key vectors belong together: give both or neither")
        return self
