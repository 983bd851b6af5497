"""The public functions of `import saesteer`: a model, an SAE, the scores of features, and texts steered with them.

They call what the workflow calls, so numbers are the same; tables have the columns of the workflow's (docs/reference/tables.md).
Classes that are imported `as` themselves are public as well.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Number
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.input_score import input_scores as _input_scores
from saesteer.analysis.max_activating_examples import max_activating_examples as _max_activating_examples
from saesteer.core.errors import SettingsError, check_known
from saesteer.core.files import text_id
from saesteer.core.tokens import TextTokens
from saesteer.engine.activations import sparse_activations
from saesteer.engine.continuation import Sampling as Sampling
from saesteer.engine.generations import feature_texts, set_name
from saesteer.engine.gguf_convert import converted_gguf
from saesteer.engine.hook_points import to_residual, width_at
from saesteer.engine.interventions import features_steered
from saesteer.engine.logit_lens import logit_lens_tokens as _logit_lens_tokens
from saesteer.engine.models import LanguageModel as LanguageModel
from saesteer.engine.models import language_model, load_language_model
from saesteer.engine.output_score import output_scores as _output_scores
from saesteer.engine.sae_convert import published_sae, sae_from_folder, sae_from_object
from saesteer.engine.saes import Sae as Sae
from saesteer.engine.saes import SaeMeta as SaeMeta
from saesteer.engine.saes import check_features
from saesteer.engine.structure import structure_of
from saesteer.engine.weights import available_device, number_type
from saesteer.recommendations.answer import Answer as Answer
from saesteer.recommendations.answer import answer as _answer
from saesteer.recommendations.question import RecommendRequest
from saesteer.settings.base import canonical_factor
from saesteer.settings.inputs import GGUF
from saesteer.settings.load import read_workflow
from saesteer.sources.corpus import tokenised
from saesteer.sources.hub import fetch_model, hugging_face_folder
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.logit_lens import lens_columns as _lens_columns
from saesteer.steps.output_score import OUTPUT_SCORE


def load_model(
    source: Any,
    revision: str | None = None,
    *,
    tokenizer: Any = None,
    dtype: str = "float32",
    device: str | None = None,
    bos: str = "tokenizer",
    prompt_format: str = "plain",
    cache_dir: Path | None = None,
) -> LanguageModel:
    """Load a causal language model from a folder in Hugging Face's form, from a GGUF file, or from the hub by its id (owner/name); or take
    one that transformers has loaded, with its `tokenizer`, as it is, in evaluation mode and without gradients.

    Only safetensors weights are read. `revision` is a commit, branch or tag of the hub; `dtype` is float32, tf32, float16, on a GPU
    bfloat16 or, with torchao, int8 or nf4; `device` None is the GPU where there is one. `bos` "always" puts a beginning-of-sequence token
    before every text, also where the tokenizer adds none (GPT-2, Pythia); `prompt_format` "chat" takes prompts as a user's turn in the
    tokenizer's chat template. `cache_dir` None is Hugging Face's own cache, where a GGUF file's
    model is kept as well, in float32.
    """
    if not isinstance(source, str | Path):
        if tokenizer is None:
            raise ValueError(f"a loaded model ({type(source).__name__}) needs its tokenizer: load_model(model, tokenizer=tokenizer)")
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise ValueError(
                f"the tokenizer given is a {type(tokenizer).__name__}: give a fast tokenizer, of AutoTokenizer.from_pretrained"
            )
        return language_model(source, tokenizer, bos, prompt_format)
    folder = Path(source)
    if folder.suffix == GGUF:
        folder, _ = converted_gguf(folder, cache_dir or hugging_face_folder())
    elif not folder.is_dir():
        if (
            isinstance(source, Path)
            or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source)
            or (folder.parent != Path() and folder.parent.is_dir())
        ):
            raise SettingsError(f"there is no folder {source}: correct the path, or name a model of the hub as owner/name")
        folder = fetch_model(source, revision, cache_dir).folder
    return load_language_model(folder, dtype, device or available_device(), bos, prompt_format)


def load_sae(
    source: Any,
    sae_id: str | None = None,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    cache_dir: Path | None = None,
) -> Sae:
    """Load a sparse autoencoder.

    `source` is a release that sae-lens lists, with the SAE's id in it as `sae_id`, e.g. `load_sae("gpt2-small-res-jb",
    "blocks.6.hook_resid_pre")`; or a folder in the form of sae-lens, sparsify or dictionary_learning; or an `sae_lens.SAE`. Its layer and
    hook point are in `meta`. Arithmetic and hook points that are not supported are refused by name; of pickled weights nothing but
    tensors is read.
    """
    target = number_type(dtype), device or available_device()
    if sae_id is not None:
        return published_sae(str(source), sae_id, revision, cache_dir, *target)
    return sae_from_folder(Path(source), *target) if isinstance(source, str | Path) else sae_from_object(source, *target)


def top_logit_lens_tokens(lm: LanguageModel, sae: Sae, features: Sequence[int], k: int = 20) -> pl.DataFrame:
    """The k tokens that each feature's decoder direction promotes most through the final norm and the head (logit lens), and the k that it
    suppresses most, with their logits: one row per feature, columns of the table `logit_lens`."""
    keys = {"layer": [sae.meta.layer] * len(features), "feature": list(features)}
    promoted, suppressed = _lens(lm, sae, features, k)
    columns = _lens_columns(promoted, suppressed, _tokens(lm))
    return pl.DataFrame(keys | columns, schema=LOGIT_LENS.schema)


def output_scores(
    lm: LanguageModel, sae: Sae, features: Sequence[int], *, prompt: str = "From my experience,", factor: float = 10.0, k: int = 20
) -> pl.DataFrame:
    """P1's output score of each feature, in [0, 1]: how far up steering the prompt's last position with `factor` * a_max brings one of the
    feature's k top logit-lens tokens. A row a feature, columns of the table `output_score`."""
    (ids, _), _ = _lens(lm, sae, features, k)
    scores: pl.DataFrame = _output_scores(lm, sae, sae.meta.layer, features, ids, prompt, float(canonical_factor(factor)))
    return scores.with_columns(layer=pl.lit(sae.meta.layer, pl.UInt16)).select(*OUTPUT_SCORE.columns)


def max_activating_examples(
    lm: LanguageModel, sae: Sae, features: Sequence[int], texts: Sequence[str], *, n_examples: int = 100, max_tokens: int = 256
) -> pl.DataFrame:
    """The texts on which each feature is most active, at most `n_examples` of a feature, from texts of one's own cut after `max_tokens`:
    one row per feature, columns of the table `max_activating_examples`."""
    _check_fit(lm, sae)
    _check_lists(features=features, texts=texts)
    check_features(features, sae.meta.n_features, "the SAE")
    _check_texts("texts", texts)
    corpus = tokenised(texts, _tokens(lm), lm.bos, max_tokens)
    activations = pl.concat(sparse_activations(lm, {sae.meta.layer: sae}, corpus))
    return _max_activating_examples(activations, corpus, features, n_examples, _tokens(lm))


def input_scores(
    lm: LanguageModel, sae: Sae, examples: pl.DataFrame, *, k: int = 20, min_examples: int = 10, tokens: str = "retokenised"
) -> pl.DataFrame:
    """P1's input score of the features in `examples`, in [0, 1]: the share of a feature's max-activating examples whose most active token
    is one of its k top logit-lens tokens; null, with a reason, where there are fewer than `min_examples`. A row a feature, columns of the
    table `input_score`.

    `examples` is what `max_activating_examples` gives, or the table of that name of an experiment for this SAE's layer. `tokens` "ids"
    takes tokens by the ids recorded, "retokenised" tokenises their strings again, as P1's program does.
    """
    check_known("way to take tokens", tokens, ["ids", "retokenised"])
    features = examples["feature"].to_list()
    return _input_scores(examples, top_logit_lens_tokens(lm, sae, features, k), _tokens(lm), tokens, min_examples)


def steer(
    lm: LanguageModel,
    sae: Sae,
    features: Sequence[int] | Mapping[int, str | int | float],
    factors: Sequence[str | int | float],
    prompts: Sequence[str],
    *,
    n_samples: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Continue each prompt while steering with each feature at each factor; factor 0 is the unsteered model, one below 0 steers away.

    At the last position of every forward, factor * a_max * decoder direction is added where the SAE writes, a_max being the largest
    activation of any feature there (P1, section 3). `sampling` None is P1's: at most 20 tokens, temperature 0.7 among the 50 likeliest, up
    to the first full stop. A text depends on the model, the SAE, `seed` and its own row alone, not on what else is asked for. A feature,
    factor or prompt that is given twice counts once. Columns: feature, factor, prompt, sample, text, token_ids, n_tokens, stopped.

    Several features at once are given with their strengths, {548: 1.6, 12: 0.8}: the sum of what each adds is added, `factors` times
    ([1]: once). The column feature is then text, `548*1.6,12*0.8`.
    """
    _check_fit(lm, sae)
    _check_lists(features=features, factors=factors, prompts=prompts)
    check_features([*features], sae.meta.n_features, "the SAE")
    _check_texts("prompts", prompts)
    named = {text_id(prompt): prompt for prompt in prompts}
    if not all(map(len, (features, factors, named, range(n_samples)))):
        raise ValueError("nothing to steer: give a feature, a factor, a prompt and a sample at least")
    steering, kind = ([set_name(features)], pl.String) if isinstance(features, Mapping) else (dict.fromkeys(features), pl.UInt32)
    keys = itertools.product(steering, dict.fromkeys(map(canonical_factor, factors)), named, range(n_samples))
    schema = {"feature": kind, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32}
    rows = pl.DataFrame(list(keys), schema=schema, orient="row")
    texts = pl.concat(feature_texts(lm, sae, sae.meta.layer, rows, named, sampling or Sampling(), seed))
    ordered = rows.join(texts, on=list(schema), maintain_order="left")
    return ordered.select(
        "feature",
        pl.col("factor").cast(pl.Float64),
        pl.col("prefix_id").replace_strict(named, return_dtype=pl.String).alias("prompt"),
        *("sample", "text", "token_ids", "n_tokens", "stopped"),
    )


@contextmanager
def steered(model: Any, sae: Sae, features: Mapping[int, str | int | float], *, positions: str = "last") -> Iterator[Any]:
    """Steer a causal language model of transformers within a context, whatever code runs it there: `with steered(model, sae, {548: 1.6}) as
    model: model.generate(...)`.

    `model` is the model itself or what `load_model` gives; the context gives the model itself. `features` maps features to factors. Every
    forward adds the sum of factor * a_max * decoder direction where the SAE writes, as `steer` does: a_max is the largest activation of any
    feature at that position. `positions` "last" is each forward's last position (P1, section 3), for `generate` on prompts that are padded
    on the left; "all" is every position, for losses of whole texts. For SAEs of several layers nest contexts; one on the same layer reads
    what the outer one has changed. The model's weights, its mode and gradients stay as they are, and its hooks go when the context ends,
    also by an exception. Hooks belong to the model: forwards in other threads are steered as well.
    """
    if positions not in ("last", "all"):
        raise ValueError(f"positions is {positions!r}, but must be last or all")
    if not features:
        raise ValueError("nothing to steer with: give features and their factors, e.g. {548: 1.6}")
    lm = model if isinstance(model, LanguageModel) else LanguageModel(model, None, structure_of(model))
    _check_fit(lm, sae)
    check_features(list(features), sae.meta.n_features, "the SAE")
    factors = {feature: float(canonical_factor(factor)) for feature, factor in features.items()}
    with features_steered(lm, sae, factors, everywhere=positions == "all"):
        yield lm.model


def recommend(
    experiment: str,
    concept: str,
    *,
    n_per_layer: int | None = None,
    comparison: str | None = None,
    max_damage: float | None = None,
    words: Sequence[str] = (),
    cores: int = 2,
    configfile: Path = Path("config/config.yaml"),
) -> Answer:
    """Which feature of an experiment to steer with towards a concept, how hard, and whether a prompt or a supervised vector does better.

    The current folder is the project's; what is missing is computed there, as by `saesteer recommend`. `n_per_layer` is the largest
    number of candidates of a layer; None: N_PER_LAYER, of which `recommendation.n_candidates` of the experiment may leave fewer.
    `comparison` names a comparison of methods on the same model, by whose settings and labelled texts prompting and DiffMean are tried
    beside the features. With `max_damage` no strength is chosen at which the perplexity of its texts, or of ordinary text, is more than
    so many times the unsteered one. With `words`, texts are rated by how many of these they have, not by the experiment's judge. What is
    measured of the answer is of prompts that took no part.
    """
    _check_lists(words=words)
    question = RecommendRequest(experiment, concept, n_per_layer, cores, configfile, comparison, max_damage=max_damage, words=tuple(words))
    return _answer(read_workflow(configfile), question)


def recommend_less(
    experiment: str,
    concept: str,
    *,
    prompts: Path | None = None,
    n_per_layer: int | None = None,
    max_damage: float | None = None,
    words: Sequence[str] = (),
    cores: int = 2,
    configfile: Path = Path("config/config.yaml"),
) -> Answer:
    """Which feature of an experiment to steer away from a concept with, and how hard, as by `saesteer recommend --less`.

    `prompts` is a file of prompts that evoke the concept, one a line; None takes first sentences of the experiment's labelled texts.
    `n_per_layer`, `max_damage` and `words` are those of `recommend`.
    """
    _check_lists(words=words)
    question = RecommendRequest(
        experiment, concept, n_per_layer, cores, configfile, None, prompts, max_damage, less=True, words=tuple(words)
    )
    return _answer(read_workflow(configfile), question)


def _lens(lm: LanguageModel, sae: Sae, features: Sequence[int], k: int) -> Any:
    """Top and most suppressed logit-lens tokens' ids and logits, as tensors."""
    _check_fit(lm, sae)
    check_features(features, sae.meta.n_features, "the SAE")
    in_residual = to_residual(lm, sae.meta.layer, sae.meta.hook_point)
    return _logit_lens_tokens(lm, sae.W_dec[list(features)].float(), k, to_residual=in_residual)


def _tokens(lm: LanguageModel) -> TextTokens:
    return TextTokens(lm.tokenizer.backend_tokenizer, lm.tokenizer.bos_token_id, lm.name)


def _check_lists(**values: Any) -> None:
    """Refuse one value where a list is asked for: each letter of a string would be taken for one."""
    for name, value in values.items():
        if isinstance(value, str | Number):
            raise TypeError(f"{name} is one {'string' if isinstance(value, str) else 'number'}: give a list, {name}=[{value!r}]")


def _check_texts(name: str, values: Sequence[Any]) -> None:
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise TypeError(f"{name}: number {number} is {value!r}, not a text")


def _check_fit(lm: LanguageModel, sae: Sae) -> None:
    if sae.meta.layer >= lm.n_layers or sae.meta.d_model != width_at(lm, sae.meta.layer, sae.meta.hook_point):
        raise ValueError(
            f"{sae.meta.source} reads layer {sae.meta.layer} of a model of width {sae.meta.d_model} at {sae.meta.hook_point}, but {lm.name}"
            f" has {lm.n_layers} layers of width {lm.d_model}: give the SAE's own model"
        )
