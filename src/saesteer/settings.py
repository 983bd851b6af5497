"""The configuration: frozen pydantic models, and the only reader of YAML.

A workflow file (config/config.yaml) names experiments; an experiment file (config/experiments/NAME.yaml) holds one model,
its SAEs, a feature set and a protocol. Unknown keys are refused with the nearest valid key named. config/schema.json and
config/README.md are generated from here.
"""

import difflib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

T = TypeVar("T", bound="Settings")


# The conventions of each paper's own program, by the key that sets them (papers.md; where text and program differ, the program).
PRESETS: dict[str, dict[str, Any]] = {
    "p1": {
        "input_score": {"tokens": "retokenised", "min_records": 10},
        "output_score": {"prompt": "From my experience,", "factor": "10"},
        "gen_success": {"tokens": "retokenised"},
        "best_factor": {"rule": "p1", "factor_choice": "same_texts", "gen_success_limit": 3.0},
    }
}


class SettingsError(ValueError):
    """A configuration file that cannot be used; the message says which file and key, and what to do."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def canonical_factor(value: Any) -> str:
    """A factor as it is written in keys: the shortest plain decimal, so that 2, 2.0 and "2.00" are one key."""
    try:
        number = Decimal(str(value)).normalize()
    except InvalidOperation as error:
        raise ValueError(f"{value!r} is no decimal number") from error
    if not number.is_finite() or number < 0:
        raise ValueError(f"a factor is a finite number >= 0, not {value!r}")
    return format(number, "f")


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"given more than once: {', '.join(map(str, repeated))}")
    return values


Factor = Annotated[str, BeforeValidator(canonical_factor)]
Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_unique)]


class ModelSettings(Settings):
    path: Path
    """Folder of a Hugging Face causal language model (config.json, model.safetensors, tokenizer.json)."""
    revision: str | None = None
    """Hub revision (commit) the folder holds; null for a local model, which its weights' hash identifies."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of weights and activations."""


class SaeSettings(Settings):
    path: str
    """Folder of one SAE in sae-lens's on-disk form; `{layer}` stands for the layer, e.g. data/world/saes/layer_{layer:02d}."""
    site: Literal["post"] = "post"
    """Where the SAE sits in its decoder layer: post = the layer's output (resid_post)."""
    d_model: Annotated[int, Field(gt=0)]
    """Width of the residual stream that the SAEs read."""
    n_features: Annotated[int, Field(gt=0)]
    """Number of features of each SAE."""


class SampledFeatures(Settings):
    kind: Literal["sampled"]
    """Draw features at random."""
    n_per_layer: Annotated[int, Field(gt=0)]
    """Features drawn in each layer; the first n of a larger draw are the draw of n."""
    seed: int = 0
    """Seed of the draw."""


class ExplicitFeatures(Settings):
    kind: Literal["explicit"]
    """Take the features listed."""
    features: dict[int, tuple[int, ...]]
    """Layer -> feature indices."""

    @field_validator("features")
    @classmethod
    def _no_duplicates(cls, features: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        for layer, listed in features.items():
            try:
                _unique(listed)
            except ValueError as error:
                raise ValueError(f"layer {layer}: features {error}") from error
        return features


class AllFeatures(Settings):
    kind: Literal["all"]
    """Take every feature of every layer."""


FeatureSet = Annotated[SampledFeatures | ExplicitFeatures | AllFeatures, Field(discriminator="kind")]


class RecordSettings(Settings):
    texts: Path
    """Parquet of texts (text_id, text, token_ids) whose activations give the records."""
    n_records: Annotated[int, Field(gt=0)] = 100
    """Records kept per feature: the texts in which its maximum is largest."""


class ConceptSettings(Settings):
    topics: Path
    """JSON list of topic names; the texts file's token_topics are indices into it (255 = no topic)."""
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    """A feature has a concept when at least this share of its records' maxima lies on one topic."""


class LogitLensSettings(Settings):
    k: Annotated[int, Field(ge=20)] = 20
    """Lens tokens per feature; GenSuccess@20 needs at least 20."""


class InputScoreSettings(Settings):
    tokens: Literal["retokenised", "ids"] = "retokenised"
    """Which id a record's maximal token has: its string tokenised again (P1's program), or the id it was recorded with (P1's text)."""
    min_records: Annotated[int, Field(gt=0)] = 10
    """Features with fewer records have no input score (P1's program: 10; its text: 20)."""


class OutputScoreSettings(Settings):
    prompt: Annotated[str, Field(min_length=1)] = "From my experience,"
    """Neutral prompt (P1's program; its text says "In my experience,")."""
    factor: Factor = "10"
    """Steering factor, in multiples of a_max."""


class SweepSettings(Settings):
    factors: Annotated[tuple[Factor, ...], Field(min_length=1), AfterValidator(_unique)]
    """Steering factors in multiples of a_max; 0 (unsteered) is needed for perplexity limits."""
    prefixes: Path
    """Text file with one neutral prefix a line."""
    n_prefixes: Annotated[int, Field(ge=2)] = 20
    """How many of the prefixes are used, from the top; half choose the factor, half report."""
    n_samples: Annotated[int, Field(gt=0)] = 1
    """Generations per feature, factor and prefix."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 20
    """Longest continuation, in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature; 0 is greedy."""
    top_k: Annotated[int, Field(gt=0)] = 50
    """Sampling is among this many most likely tokens (transformers' own default, which P1's program inherits)."""
    stop: Annotated[str, Field(min_length=1, max_length=1)] = "."
    """A generation ends with the first token that contains this character."""
    seed: int = 0
    """Seed of the sampling; every row has its own random numbers, from this seed and its key."""

    @field_validator("factors")
    @classmethod
    def _some_positive(cls, factors: tuple[str, ...]) -> tuple[str, ...]:
        if not any(float(factor) > 0 for factor in factors):
            raise ValueError("no factor is positive: add at least one, e.g. 2")
        if "0" not in factors:
            raise ValueError("factor 0 is missing: the unsteered text is what perplexity is compared with; add 0")
        return factors


class GenSuccessSettings(Settings):
    tokens: Literal["retokenised", "ids"] = "retokenised"
    """Which tokens are counted: the continuation's text tokenised again (P1's program), or the ids as generated."""


class PerplexitySettings(Settings):
    model: ModelSettings
    """The second language model that scores the texts."""


class BestFactorSettings(Settings):
    rule: Literal["capped", "p1"] = "capped"
    """The rule whose factor the selection and the headline report; both are always computed."""
    factor_choice: Literal["held_out", "same_texts"] = "held_out"
    """held_out: choose on one half of the prefixes, report on the other, both directions averaged; same_texts: both on all (P1)."""
    gen_success_limit: Annotated[float, Field(gt=0)] = 3.0
    """p1: factors with GenSuccess@20 above this are dropped as repetition."""
    perplexity_cap: Annotated[float, Field(gt=1)] = 4.0
    """capped: factors whose perplexity is above this multiple of the unsteered text's are dropped."""


class SelectionSettings(Settings):
    thresholds: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), AfterValidator(_unique)]
    """Output-score thresholds: keep features that score at least this."""
    headline_threshold: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The threshold of the headline and of the test within layers."""
    late_layers_from: Annotated[int, Field(ge=0)]
    """First layer that counts as late."""
    random_draws: Annotated[int, Field(gt=0)] = 1000
    """Draws of the random-removal control."""
    permutations: Annotated[int, Field(gt=0)] = 10000
    """Permutations of the test within layers."""
    bootstrap_draws: Annotated[int, Field(gt=0)] = 2000
    """Bootstrap draws of the intervals."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level of intervals and bands."""
    seed: int = 0
    """Seed of control, permutations and bootstrap."""


class JudgeSettings(Settings):
    backend: Literal["oracle"] = "oracle"
    """Who rates: oracle = the shipped world's ground truth."""
    oracle: Path
    """Folder of the oracle (classifier.safetensors, oracle.json)."""


class FigureSettings(Settings):
    example_features: Annotated[int, Field(gt=0)] = 8
    """Rows of the table of example features."""
    output_score_bins: Annotated[tuple[float, ...], Field(min_length=3), AfterValidator(_unique)] = (0.0, 0.01, 0.1, 0.3, 1.0)
    """Edges of the output-score bins in the figure of factors."""

    @field_validator("output_score_bins")
    @classmethod
    def _ascending(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if list(edges) != sorted(edges) or edges[0] != 0 or edges[-1] != 1:
            raise ValueError("bin edges ascend from 0 to 1")
        return edges


class Experiment(Settings):
    extends: str | None = None
    """Name of an experiment whose file is read first; this file's keys are laid over it."""
    preset: Literal["p1"] | None = None
    """A paper whose program's conventions are set; keys given beside it are laid over them."""
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
    records: RecordSettings
    """Feature records: the texts in which a feature is most active."""
    concepts: ConceptSettings
    """The topic that a feature stands for."""
    logit_lens: LogitLensSettings = LogitLensSettings()
    """The tokens that a feature's decoder direction promotes."""
    input_score: InputScoreSettings = InputScoreSettings()
    """P1's input score."""
    output_score: OutputScoreSettings = OutputScoreSettings()
    """P1's output score."""
    sweep: SweepSettings
    """Generation with each feature at each factor."""
    gen_success: GenSuccessSettings = GenSuccessSettings()
    """GenSuccess@k: lens tokens in the generated text."""
    perplexity: PerplexitySettings
    """How plausible the generated text is to a second model."""
    best_factor: BestFactorSettings = BestFactorSettings()
    """The choice of a feature's factor."""
    selection: SelectionSettings
    """Filtering features by output score, with controls."""
    judge: JudgeSettings
    """Ratings of concept and fluency."""
    figures: FigureSettings = FigureSettings()
    """What the figures show."""
    layers_per_job: Annotated[int, Field(gt=0)] = 1
    """Layers that one job covers; each job costs a Python start."""
    seed_of_world: int | None = None
    """Which training seed of the shipped world this is; null for other models."""

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        if isinstance(self.features, ExplicitFeatures):
            if set(self.features.features) - set(self.layers):
                raise ValueError(f"features: layers {sorted(set(self.features.features) - set(self.layers))} are not among `layers`")
            for layer, listed in self.features.features.items():
                outside = [f for f in listed if not 0 <= f < self.saes.n_features]
                if outside:
                    raise ValueError(
                        f"features: layer {layer}: {outside[0]} is out of range, its SAE has features 0 to {self.saes.n_features - 1}"
                    )
            if not any(self.features.features.values()):
                raise ValueError("features: the feature set is empty: list at least one feature")
        if isinstance(self.features, SampledFeatures) and self.features.n_per_layer > self.saes.n_features:
            raise ValueError(
                f"features: n_per_layer {self.features.n_per_layer} is more than the {self.saes.n_features} features of an SAE"
            )
        return self


class Workflow(Settings):
    experiments: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)]
    """Names of the experiments to run; NAME stands for the file NAME.yaml in experiments_dir."""
    experiments_dir: Path = Path("config/experiments")
    """Folder of the experiment files."""
    data_dir: Path = Path("data")
    """Where data artifacts are written, one folder an experiment."""
    figures_dir: Path = Path("figures")
    """Where figures are written, one folder an experiment."""
    part_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Finished rows are written to disk at least this often: what a kill can lose, in seconds of work."""


def load_workflow(values: Mapping[str, Any], source: str = "the configuration") -> Workflow:
    """Validate a workflow configuration that was read already (Snakemake merges files and command line)."""
    return _validated(Workflow, values, source)


def load_experiment(name: str, folder: Path) -> Experiment:
    """Read NAME.yaml, lay it over the experiment it extends, validate."""
    return _validated(Experiment, _merged(name, folder, seen=()), str(folder / f"{name}.yaml"))


def _merged(name: str, folder: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise SettingsError(f"experiment {name!r}: there is no file {path}.{_nearest(name, known)} Known: {', '.join(known) or 'none'}")
    if name in seen:
        raise SettingsError(f"{path}: key 'extends' runs in a circle: {' -> '.join((*seen, name))}")
    values = read_yaml(path)
    values = _overlaid(PRESETS.get(str(values.get("preset")), {}), values)
    base = values.get("extends")
    return _overlaid(_merged(str(base), folder, (*seen, name)), values) if base else values


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file holding a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no keys: expected lines such as `model: ...`")
    return values


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, key by key; a feature set of another kind replaces the old one whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping) and old.get("kind") == value.get("kind")
        merged[key] = _overlaid(old, value) if nested and isinstance(old, Mapping) else value
    return merged


def _validated(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_problem(kind, item)}" for item in error.errors())
        raise SettingsError(f"{source} cannot be used:\n{problems}") from None


def _problem(kind: type[BaseModel], item: Any) -> str:
    path = tuple(str(part) for part in item["loc"])
    where = ".".join(path) or "(top level)"
    if item["type"] == "extra_forbidden":
        valid = _keys_at(kind, path[:-1])
        return f"{where}: unknown key {path[-1]!r}.{_nearest(path[-1], valid)} Valid here: {', '.join(valid)}"
    if item["type"] == "missing":
        return f"{where}: this key is missing; add it"
    return f"{where}: {item['msg'].removeprefix('Value error, ')} (given: {item['input']!r:.80})"


def _nearest(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.4)
    return f" Did you mean {close[0]!r}?" if close else ""


def _keys_at(kind: Any, path: tuple[str, ...]) -> list[str]:
    """Keys valid at a place in the settings tree; discriminated unions name their member (its `kind`) in the path."""
    if not path:
        members = [kind] if isinstance(kind, type) else [m for m in get_args(kind) if isinstance(m, type)]
        return sorted({name for member in members for name in getattr(member, "model_fields", {})})
    members = [kind] if isinstance(kind, type) else list(get_args(kind))
    for member in members:
        fields = getattr(member, "model_fields", {})
        if path[0] in fields:
            return _keys_at(fields[path[0]].annotation, path[1:])
        if "kind" in fields and path[0] in get_args(fields["kind"].annotation):
            return _keys_at(member, path[1:])
    return []
