"""An experiment file, which is of one of three kinds, and a workflow file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from saesteer.core.shipped import EXPERIMENTS as SHIPPED_EXPERIMENTS
from saesteer.settings.base import DERIVED, DOWNLOADS, ExperimentName, Layers, Settings, unique
from saesteer.settings.inputs import (
    ConceptSettings,
    ExampleConcepts,
    ExampleSettings,
    ExplicitFeatures,
    FeatureSet,
    LocalExamples,
    ModelSettings,
    NearestConcepts,
    NoConcepts,
    SaeSettings,
    SampledFeatures,
    TopicConcepts,
)
from saesteer.settings.methods import MethodSettings, most_effect_vectors
from saesteer.settings.registry import method
from saesteer.settings.steps import (
    BestFactorSettings,
    EmbeddingJudge,
    ExplanationSettings,
    GenSuccessSettings,
    InputScoreSettings,
    IntervalSettings,
    JudgeSettings,
    NoJudge,
    OracleJudge,
    OutputScoreSettings,
    PerplexitySettings,
    PmiSettings,
    RatingJudge,
    RecommendationSettings,
    SamplingSettings,
    SelectionSettings,
    SweepSettings,
    check_apart,
)


class ScoringSections(Settings):
    """What experiments of every kind have: all that the scores are computed from."""

    extends: str | None = None
    """Name of an experiment whose file is read first; this file's keys are laid over it, and what its kind does not read is left out."""
    preset: Literal["p1", "p1_table_1", "p2", "p4"] | None = None
    """A paper whose program's conventions are set, as far as the kind reads them; keys given beside it are laid over them."""
    kind: Literal["scores", "sweep", "comparison"] = "sweep"
    """scores: input and output score, e.g. of every feature of a model; nothing is generated. sweep: from there to texts steered with
    each feature, ratings and figures. comparison: from there to the comparison of steering methods. Left out: as in the experiment that
    it extends, or else sweep."""
    description: str
    """One line: what this experiment is for."""
    model: ModelSettings
    """The language model that is steered."""
    saes: SaeSettings
    """Its sparse autoencoders."""
    layers: Layers
    """Decoder layers whose features are scored, 0-based."""
    features: FeatureSet
    """Which features of each layer."""
    max_activating_examples: ExampleSettings
    """The texts in which a feature is most active."""
    concepts: ConceptSettings = NoConcepts(kind="none")
    """What a feature stands for. Left out: none with local max-activating examples, explanations with Neuronpedia's."""
    input_score: InputScoreSettings = InputScoreSettings()
    """P1's input score."""
    output_score: OutputScoreSettings = OutputScoreSettings()
    """P1's output score."""
    layers_per_job: Annotated[int, Field(gt=0)] = 1
    """Layers that one job covers; each job costs a Python start."""
    features_per_job: Annotated[int, Field(gt=0)] | None = None
    """Features of each of these layers whose texts one job writes, scores or rates, so that a layer is spread over several GPUs. null: all.
    A comparison's jobs cover whole layers."""
    seed_of_world: int | None = None
    """Which training seed of the shipped world this is; null for other models."""

    @model_validator(mode="before")
    @classmethod
    def _concepts_of_examples(cls, values: Any) -> Any:
        if isinstance(values, dict) and "concepts" not in values and isinstance(values.get("max_activating_examples"), dict):
            return values | (
                {"concepts": {"kind": "explanations"}} if values["max_activating_examples"].get("kind") == "neuronpedia" else {}
            )
        return values

    @model_validator(mode="after")
    def _sections_fit(self) -> "ScoringSections":
        if isinstance(self.features, ExplicitFeatures) and (unscored := set(self.features.features) - set(self.layers)):
            raise ValueError(f"features: layers {sorted(unscored)} are not among `layers`")
        if isinstance(self.features, SampledFeatures) and self.features.n_per_layer > self.saes.n_features:
            raise ValueError(
                f"features: n_per_layer {self.features.n_per_layer} is more than the {self.saes.n_features} features of an SAE"
            )
        if isinstance(self.concepts, TopicConcepts) and not self.local_examples:
            raise ValueError(
                "concepts: kind topics needs max-activating examples of kind local, whose texts carry topics (Neuronpedia's: explanations)"
            )
        return self

    @property
    def layer_groups(self) -> dict[str, tuple[int, ...]]:
        """Name -> layers of each job's group, e.g. layers_00-03."""
        size, layers = self.layers_per_job, sorted(self.layers)
        chunks = [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
        return {f"layers_{chunk[0]:02d}-{chunk[-1]:02d}": chunk for chunk in chunks}

    @property
    def local_examples(self) -> LocalExamples | None:
        """How max-activating examples are computed here; None where they are Neuronpedia's."""
        section = self.max_activating_examples
        return section if isinstance(section, LocalExamples) else None

    @property
    def sampling(self) -> SamplingSettings | MethodSettings:
        """How texts are sampled: where an experiment says nothing of it, as in a sweep by default."""
        return SamplingSettings()

    @property
    def intervals(self) -> IntervalSettings:
        """How the intervals of what is measured on single features and vectors are computed."""
        return IntervalSettings()

    @property
    def rates_blank_texts(self) -> bool:
        """Whether blank texts are put to the judge."""
        return False


class SteeringSections(ScoringSections):
    """What experiments that generate texts have besides."""

    gen_success: GenSuccessSettings = GenSuccessSettings()
    """GenSuccess@k: top logit-lens tokens in the generated text. A comparison reads it where methods.factor_rule is gen_success."""
    perplexity: PerplexitySettings
    """How plausible the generated text is to a second model."""
    best_factor: BestFactorSettings = BestFactorSettings()
    """The choice of a feature's factor. A comparison reads perplexity and gen_success_limit, where methods.factor_rule is gen_success."""
    judge: JudgeSettings
    """Ratings of concept, instruction (where there is one) and fluency. A comparison needs one that is not of kind none."""
    explanations: ExplanationSettings | None = None
    """Names of features by the judge, with which `saesteer recommend` and the report find them; null: none (`saesteer explain`)."""

    @property
    def is_rated(self) -> bool:
        """Whether a judge rates the texts."""
        return not isinstance(self.judge, NoJudge)

    @model_validator(mode="after")
    def _somebody_names(self) -> "SteeringSections":
        if self.explanations and not self.is_rated:
            raise ValueError("explanations: the judge names the features, and its kind is none: give one of kind endpoint or model")
        return self

    @model_validator(mode="after")
    def _judge_fits_concepts(self) -> "SteeringSections":
        if isinstance(self.judge, OracleJudge) and getattr(self.concepts, "topics", None) is None:
            raise ValueError("judge: kind oracle knows the topics of a shipped world only; concepts of kind topics are needed")
        if isinstance(self.concepts, ExampleConcepts) and self.is_rated and not isinstance(self.judge, EmbeddingJudge):
            raise ValueError("concepts: kind examples is for a judge of kind embedding; others rate texts for a concept that words name")
        if isinstance(self.concepts, NearestConcepts) and not isinstance(self.judge, EmbeddingJudge):
            raise ValueError("concepts: kind nearest goes by the embeddings of a judge of kind embedding")
        return self


class Scores(ScoringSections):
    """Input and output score of every feature; nothing is generated."""

    kind: Literal["scores"] = "scores"

    @model_validator(mode="after")
    def _nothing_embeds(self) -> "Scores":
        if isinstance(self.concepts, NearestConcepts):
            raise ValueError("concepts: kind nearest goes by the embeddings of a judge, and an experiment of kind scores has none")
        return self


class Sweep(SteeringSections):
    """Texts steered with each feature at each factor, their ratings, the choice of factors and the filter by output score: P1."""

    kind: Literal["sweep"] = "sweep"
    sweep: SweepSettings
    """Generation with each feature at each factor."""
    selection: SelectionSettings
    """Filtering features by output score, with controls."""
    pmi: PmiSettings = PmiSettings()
    """The corpus of the figure of pointwise mutual information."""
    recommendation: RecommendationSettings = RecommendationSettings()
    """What `saesteer recommend` asks of a feature."""

    @model_validator(mode="after")
    def _pilot_has_texts(self) -> "Sweep":
        if self.sweep.pilot and not self.local_examples:
            raise ValueError("sweep.pilot reads the texts of max-activating examples of kind local: take these, or set it to null")
        return self

    @model_validator(mode="after")
    def _recommended_factors_are_apart(self) -> "Sweep":
        if self.sweep.pilot and self.recommendation.factors:
            check_apart("recommendation.factors", self.recommendation.factors)
        return self

    @property
    def sampling(self) -> SweepSettings:
        return self.sweep

    @property
    def intervals(self) -> SelectionSettings:
        return self.selection


class Comparison(SteeringSections):
    """The comparison of steering methods on the same concepts: P4."""

    kind: Literal["comparison"] = "comparison"
    judge: RatingJudge
    """Ratings of concept, instruction (where there is one) and fluency."""
    methods: MethodSettings
    """Which methods, on which concepts, under which protocol."""

    @model_validator(mode="after")
    def _methods_fit(self) -> "Comparison":
        effects = any("effects" in method(name).needs for name in self.methods.methods)
        if effects and self.methods.effects.n_vectors > (most := most_effect_vectors(self.saes.n_features)):
            raise ValueError(
                f"methods: effects.n_vectors is {self.methods.effects.n_vectors}, but an SAE of {self.saes.n_features} features has {most}"
                " single decoder rows and pairs of them: lower it"
            )
        if self.methods.prompt_writer and self.model.prompt_format != "chat":
            raise ValueError(
                "methods.prompt_writer writes instructions, which a model with prompt_format plain does not follow: set it to null"
            )
        if "unsteered" not in self.methods.methods:
            raise ValueError("methods.methods: add unsteered, whose score a method counts with that has nothing to steer with")
        if getattr(self.judge, "n_prefixes", None) is not None:
            raise ValueError("judge.n_prefixes: a comparison rates the texts of all its prompts: remove it, or lower methods.n_prompts")
        if self.methods.pilot and not (self.methods.ordinary_texts or self.local_examples):
            raise ValueError("methods.pilot: it reads ordinary texts: give methods.ordinary_texts, or set methods.pilot to null")
        if self.methods.pilot and self.methods.sae_features != "everywhere":
            raise ValueError("methods.pilot: with sae_features last_position a strength is a multiple of a_max: set methods.pilot to null")
        if "sft" in self.methods.methods and self.model.dtype in ("int8", "nf4"):
            raise ValueError(
                f"methods: sft trains all weights, which {self.model.dtype} does not allow: leave sft out, or set model.dtype to"
                " bfloat16 (on a GPU) or float32"
            )
        return self

    @property
    def sampling(self) -> MethodSettings:
        return self.methods

    @property
    def intervals(self) -> IntervalSettings:
        return IntervalSettings(confidence=self.methods.confidence)

    @property
    def rates_blank_texts(self) -> bool:
        return self.methods.blank_texts == "rated"


Steering = Sweep | Comparison
"""The kinds of experiment that generate texts."""
Experiment = Scores | Sweep | Comparison


class Addresses(Settings):
    neuronpedia: str = "https://www.neuronpedia.org"
    """Neuronpedia's API."""
    neuronpedia_exports: str = "https://neuronpedia-datasets.s3.us-east-1.amazonaws.com"
    """Its bulk exports."""
    github: str = "https://raw.githubusercontent.com"
    """Where the papers' published files are, by repository, commit and path. (The Hugging Face hub's address is HF_ENDPOINT's.)"""


class Workflow(Settings):
    experiments: Annotated[tuple[ExperimentName, ...], Field(min_length=1), AfterValidator(unique)]
    """Names of the experiments to run; NAME stands for the file NAME.yaml in experiments_dirs."""
    methods: Annotated[tuple[ExperimentName, ...], AfterValidator(unique)] = ()
    """Names of the experiments of the target `methods`, comparisons of steering methods; no part of the default target."""
    experiments_dirs: Annotated[tuple[Path, ...], Field(min_length=1)] = (Path("config/experiments"),)
    """Folders of the experiment files, searched in this order; new ones are written into the first."""
    data_dir: Path = Path("data")
    """Where data artifacts are written, one folder an experiment."""
    figures_dir: Path = Path("figures")
    """Where figures are written, one folder an experiment."""
    cache_dir: Path | None = None
    """Where downloads are kept, e.g. on a scratch file system; null: Hugging Face's own cache, and data_dir/downloads for the rest."""
    addresses: Addresses = Addresses()
    """Where things are downloaded from; to be changed for mirrors."""
    published_digests: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(default={})
    """SHA-256 of the published files whose digest this project does not know, by key, e.g. nltk/webtext: none is taken without."""
    part_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Finished rows are written to disk at least this often: what a kill can lose, in seconds of work."""
    job_variables: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z_0-9]*$")], ...] = ()
    """Environment variables that jobs on a cluster get beside those that they need anyway; all others stay on the submitting host."""

    @property
    def downloads_dir(self) -> Path:
        """Where packages, converted models, SAEs of the hub and Neuronpedia's files are kept: `cache_dir`, which workflows may share, or
        this workflow's folder of downloads (Run.downloads)."""
        return self.cache_dir or self.data_dir / DOWNLOADS

    @property
    def derived_dir(self) -> Path:
        """Where `saesteer recommend` writes the experiments that it derives from others."""
        return self.data_dir / DERIVED

    @property
    def all_experiments_dirs(self) -> tuple[Path, ...]:
        """Folders of the experiment files, in the order in which they are searched: those that come with the package last."""
        return (*self.experiments_dirs, self.derived_dir, SHIPPED_EXPERIMENTS)
