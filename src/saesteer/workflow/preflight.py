"""`saesteer check EXPERIMENT`: in seconds, before any long job, whether an experiment can run here and what it will take.

What is known exactly (access, shapes, a missing key) and what is estimated (bytes, memory, money) are told apart in the text.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

from saesteer.core.errors import SaesteerError
from saesteer.core.markdown import counted, readable_size
from saesteer.settings import (
    Comparison,
    Experiment,
    NeuronpediaExamples,
    PublishedConcepts,
    Scores,
    SettingsError,
    Sweep,
    Workflow,
)
from saesteer.sources.hub import check_access, file_sizes, model_config, model_tokenizer, repo_size
from saesteer.sources.model_size import BYTES, QUANTISED, bytes_of_weights, check_library, n_gpus, total_bytes
from saesteer.sources.pins import MODEL_FILES, MODELS, SAE_FILES, model_settings
from saesteer.sources.prefixes import prompt_source
from saesteer.sources.published import published_file
from saesteer.sources.sae_sources import SaeSource, files_of, folder_of, sae_source, with_form
from saesteer.steps.judges import judge_of
from saesteer.steps.keys import n_concepts
from saesteer.steps.logit_lens import N_TOKENS
from saesteer.steps.pilot import tokens_read
from saesteer.workflow.checks import check_contents, check_files, check_model_config, check_times, check_tokens, read_config
from saesteer.workflow.families import text_config
from saesteer.workflow.model_files import present_folder
from saesteer.workflow.outputs import pins
from saesteer.workflow.project import input_paths
from saesteer.workflow.this_machine import (
    CHARACTERS_PER_TOKEN,
    Amounts,
    corpus_tokens,
    in_words,
    n_features,
    n_texts,
    operations,
    sae_bytes,
)

GPUS = (80, 48, 24)
"""GiB of common GPUs, to say how many of them a model needs."""

ACTIVATION_BYTES = 50  # on disk, a token and layer, with about ten active features (37 and 52 were measured); 4.5 each
SMALL = 2 * 2**30  # of weights: such models run without a GPU
WORKSPACE = 2 * 2**30  # activations, caches, the CUDA context
NEURONPEDIA_LAYER = 0.4 * 2**30  # batches of a 16k source, by their published sizes; in proportion to the number of features
_BATCHED_FEATURES = 16384
_HEADERS = 4096  # of a file of weights, in bytes


Level = Literal["ok", "estimate", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    about: str
    text: str


@dataclass(frozen=True)
class _Weights:
    """A model's bytes in the number format that it will run in, its config.json, and the bytes to download."""

    n_bytes: int
    config: Mapping[str, Any]
    download: int = 0


@dataclass(frozen=True)
class _Subject:
    """The experiment that is checked, and what the checks so far have read of its models."""

    name: str
    experiment: Experiment
    workflow: Workflow
    environ: Mapping[str, str]
    models: dict[str, _Weights]


def check_experiment(name: str, experiment: Experiment, workflow: Workflow, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that can be known or estimated about an experiment, line by line, each as soon as it is known; an empty line is left out.
    What is refused is a problem of the report, so that the other checks are made too."""
    checks: list[tuple[Level, str, Callable[[_Subject], str]]] = [("ok", "files", _files)]
    checks += [("ok", pin, partial(_model, pin=pin)) for pin in MODELS if pin in pins(experiment)]
    checks += [("ok", "tokens", _tokens), ("ok", "SAEs", _saes), ("ok", "max_activating_examples", _examples)]
    checks += [("estimate", "disk", _disk), ("estimate", "this machine", _machine), ("estimate", "on a GPU", _gpu)]
    if not isinstance(experiment, Scores):
        is_paid = (judge := judge_of(experiment)) is not None and judge.endpoint is not None
        checks.append(("estimate" if is_paid else "ok", "judge", _judge))
        if is_paid and experiment.explanations:
            checks.append(("estimate", "labels", _labels))
    if isinstance(experiment, Comparison) and experiment.methods.prompt_writer:
        checks.append(("estimate", "prompts", _prompts))
    subject = _Subject(name, experiment, workflow, environ, {})
    for level, about, check in checks:
        try:
            if text := check(subject):
                yield Finding(level, about, text)
        except (SaesteerError, ValueError, OSError) as error:
            yield Finding("problem", about, str(error))
    unknown = [key for key in _published(experiment) if published_file(key).sha256 is None and key not in workflow.published_digests]
    if unknown:
        places = [(workflow.addresses.github, file.repo, file.commit, file.path) for file in map(published_file, unknown)]
        printed_by = "; ".join(f"`curl -sL {'/'.join(place)} | sha256sum`" for place in places)
        text = f"the project knows no digest of {', '.join(unknown)}: state it under published_digests ({printed_by} prints it)"
        yield Finding("problem", "published files", text)


def _published(experiment: Experiment) -> list[str]:
    """Keys of the published files that an experiment downloads."""
    keys: list[str | None] = []
    if isinstance(experiment, Comparison):
        concepts = experiment.methods.concepts if isinstance(experiment.methods.concepts, PublishedConcepts) else None
        keys = [experiment.methods.published_prompts, *([concepts.concepts, concepts.texts] if concepts else [])]
    elif isinstance(experiment, Sweep):
        keys = [experiment.sweep.published_prefixes, experiment.pmi.published]
    return [key for key in keys if key]


def _files(subject: _Subject) -> str:
    check_files(subject.name, subject.experiment)
    check_contents(subject.experiment)
    paths = list(input_paths(subject.experiment))
    folders = [path.glob(pattern) for path in paths for pattern in (*MODEL_FILES, *SAE_FILES) if path.is_dir()]
    check_times([*paths, *chain.from_iterable(folders)], time.time())
    return f"{n_features(subject.experiment)} features in {counted(len(subject.experiment.layers), 'layer')}; what is on this machine fits"


def _model(subject: _Subject, pin: str) -> str:
    """Access, width and depth of a model of the hub; of one on this machine, that its weights are finite; its size."""
    from saesteer.engine.finite import check_files

    settings, cache = model_settings(subject.experiment, pin), subject.workflow.cache_dir
    if (folder := present_folder(settings, subject.workflow)) is not None:
        config = read_config(folder / "config.json")
        if settings.dtype in QUANTISED:
            _quantised_numbers(settings.dtype, config)
        check_files(sorted(folder.glob("*.safetensors")))
        n_bytes = bytes_of_weights(folder, settings.dtype)
        subject.models[pin] = _Weights(n_bytes, config)
        return f"{settings.name}, {readable_size(n_bytes)} of weights in {settings.dtype}, on this machine"
    if settings.repo is None:
        return f"{settings.name} is {'converted' if settings.gguf else 'fetched, and what it holds is checked,'} when the experiment runs"
    check_access(settings.repo)
    config = model_config(settings.repo, settings.revision, cache)
    if pin == "model":
        check_model_config(subject.name, subject.experiment, config, settings.repo)
    size = repo_size(settings.repo, settings.revision)
    text = text_config(config)
    stored = str(text.get("dtype", text.get("torch_dtype", "float32")))
    numbers = 0, size // BYTES.get(stored, BYTES["float32"])
    if settings.dtype in QUANTISED:
        numbers = _quantised_numbers(settings.dtype, config)
    subject.models[pin] = _Weights(total_bytes(*numbers, settings.dtype), config, size)
    return f"{settings.name} can be read; {readable_size(size)} to download, unless it is in the cache"


def _quantised_numbers(dtype: str, config: Mapping[str, Any]) -> tuple[int, int]:
    """How many numbers of a model's weights are quantised, and how many are not; refused where they cannot be."""
    check_library(dtype)
    from saesteer.engine.quantised import numbers_of

    return numbers_of(config)


def _tokens(subject: _Subject) -> str:
    """The share of the vocabulary that can be tokenised again."""
    model = subject.experiment.model
    folder = present_folder(model, subject.workflow)
    if folder is None and model.repo is None:
        return "not known before the model is there"
    folder = folder or model_tokenizer(str(model.repo), model.revision, subject.workflow.cache_dir)
    share = check_tokens(subject.experiment, folder)
    return "ids as they are" if share is None else f"{share:.2%} of the vocabulary come back as themselves when tokenised again"


def _saes(subject: _Subject) -> str:
    """Check that every layer has an SAE in a form that can be read, at its layer and hook point."""
    from saesteer.engine.sae_convert import check_sae

    experiment, saes, cache = subject.experiment, subject.experiment.saes, subject.workflow.cache_dir
    sources = [sae_source(saes, layer) for layer in experiment.layers] if saes.from_hub else []
    if sources:
        check_access(sources[0].repo)
        sources[0] = _check_sae_size(experiment, sources[0])
    for layer in experiment.layers[:1] if sources else experiment.layers:  # what conversion would refuse
        try:
            check_sae(saes, layer, cache if sources else None)
        except ValueError as error:
            raise SettingsError(f"{error}; choose another SAE for layer {layer}, or correct the section saes") from error
    if not sources:
        return f"{saes.path}: their configurations can be converted, and their files are sound"
    return (
        f"{len(sources)} of {sources[0].repo} in the form {sources[0].loader}, at {saes.hook_point}, of the size of {_shape(experiment)};"
        " their headers are read when they are fetched"
    )


def _check_sae_size(experiment: Experiment, source: SaeSource) -> SaeSource:
    """The first SAE with its form; refused when its weights cannot be of the shape asked for, by their size on the hub.

    Beside encoder and decoder a file holds a few numbers a feature (biases, thresholds, scales of eight-bit matrices) and headers.
    """
    saes, listing = experiment.saes, file_sizes(source.repo, experiment.saes.revision, folder_of(source))
    source = with_form(source, listing)
    weights = files_of(source).weights
    if weights not in listing:
        raise SettingsError(f"{source.repo} has no {weights}, which {source.name} consists of: correct saes.id or saes.revision")
    size, widths = listing[weights], sorted({1, *BYTES.values()})
    matrices = 2 * saes.d_model * saes.n_features
    shapes = {matrices, matrices + saes.d_model**2} if saes.hook_point.startswith("transcoder") else {matrices}  # with a skip connection
    if any(
        0 <= size - shape * width <= 8 * saes.n_features * (width if width > 1 else 4) + _HEADERS for width in widths for shape in shapes
    ):
        return source
    expected = " or ".join(f"{matrices * width:,}" for width in widths)
    raise SettingsError(
        f"{source.name} has {size:,} bytes of weights in {source.repo}/{weights}, but {_shape(experiment)} has {expected} or"
        " slightly more: correct saes.d_model and saes.n_features, or saes.id"
    )


def _shape(experiment: Experiment) -> str:
    return f"{experiment.saes.d_model} x {experiment.saes.n_features} (d_model x n_features)"


def _examples(subject: _Subject) -> str:
    from saesteer.sources.neuronpedia.sources import sources_of

    experiment = subject.experiment
    if not isinstance(experiment.max_activating_examples, NeuronpediaExamples):
        return f"from the activations on {experiment.max_activating_examples.texts}"
    sources = sources_of(experiment, experiment.layers)
    first = sources[experiment.layers[0]]
    return f"{counted(len(sources), 'source')} of Neuronpedia, the first {first.model}/{first.source}"


def _disk(subject: _Subject) -> str:
    """Downloads, converted SAEs, activations, generated texts; refused where they are more than what is free."""
    experiment, folder = subject.experiment, subject.workflow.cache_dir or subject.workflow.data_dir
    saes, copies = ("SAEs as published and converted", 2) if experiment.saes.from_hub else ("SAEs", 1)
    share = max(experiment.saes.n_features / _BATCHED_FEATURES, 1)
    examples = (
        len(experiment.layers) * NEURONPEDIA_LAYER * share if isinstance(experiment.max_activating_examples, NeuronpediaExamples) else 0
    )
    sizes = {
        "models that could be read" if _lacks_models(subject) else "models": sum(weights.download for weights in subject.models.values()),
        saes: copies * len(experiment.layers) * sae_bytes(experiment),
        "max-activating examples": examples,
        "activations": len(experiment.layers) * corpus_tokens(experiment) * ACTIVATION_BYTES,
        "texts": n_texts(experiment) * (40 + experiment.sampling.max_new_tokens * 3),
    }
    needed, listed = sum(sizes.values()), ", ".join(f"{what} {readable_size(size)}" for what, size in sizes.items())
    free = shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())).free
    text = f"about {readable_size(needed)}: {listed}; {readable_size(free)} are free at {folder}"
    if needed >= free:
        raise SettingsError(text)
    return text


def _lacks_models(subject: _Subject) -> bool:
    """Whether the files of some model could not be read."""
    return len(subject.models) < len(set(MODELS) & set(pins(subject.experiment)))


def _gpu(subject: _Subject) -> str:
    """What the largest jobs take of GPUs of common sizes: a sweep with one SAE, and the largest other model. Nothing where there is no
    GPU and none is needed."""
    from saesteer.engine.generate import sweep_bytes
    from saesteer.engine.models import model_without_weights
    from saesteer.engine.weights import available_device

    if available_device() == "cpu" and all(model.n_bytes <= SMALL for model in subject.models.values()):
        return ""
    experiment, models = subject.experiment, subject.models
    needed = {size: n_gpus(max((model.n_bytes for model in models.values()), default=0), size * 2**30) for size in GPUS}
    parts = []
    if "model" in models:
        settings, weights = experiment.model, models["model"]
        resident = weights.n_bytes + sae_bytes(experiment) * BYTES.get(settings.dtype, BYTES["bfloat16"]) // 4
        lm = model_without_weights(weights.config, settings.dtype)
        n_new = experiment.sampling.max_new_tokens
        taken = [(sweep_bytes(lm, resident, n * size * 2**30, settings.prompt_format, n_new), n * size) for size, n in needed.items()]
        of_sizes = ", ".join(f"{readable_size(n_bytes)} of {whole}" for n_bytes, whole in taken)
        parts.append(f"texts take about {of_sizes} GiB of memory, {readable_size(resident)} of it weights and SAE")
    losses = [model.n_bytes for pin, model in models.items() if pin != "model"]
    if losses:
        parts.append(f"the largest other model about {readable_size(max(losses) + WORKSPACE)}")
    if max(needed.values()) > 1:
        parts.append("a job takes " + ", ".join(f"{counted(number, 'GPU')} of {size} GiB" for size, number in needed.items()))
    if _lacks_models(subject):
        parts.append("not all models could be read")
    return "; ".join(parts)


def _machine(subject: _Subject) -> str:
    """Without a GPU: how long, how much memory, and what to make smaller."""
    from saesteer.engine.memory import free_host_bytes
    from saesteer.engine.process import n_cores, peak_flops
    from saesteer.engine.weights import available_device

    if available_device() != "cpu":
        return "jobs use its GPU"
    experiment, models = subject.experiment, subject.models
    if "model" not in models:
        return "not known, as the model could not be read"
    numbers = {pin: model.n_bytes / BYTES.get(model_settings(experiment, pin).dtype, BYTES["bfloat16"]) for pin, model in models.items()}
    sae, of_texts = sae_bytes(experiment), max(model.n_bytes for model in models.values())
    amounts = Amounts(
        model=numbers["model"],
        scorer=numbers.get("perplexity_model", 0.0),
        sae=sae / 4,
        n_layers=len(experiment.layers),
        n_features=n_features(experiment),
        n_texts=n_texts(experiment),
        n_new=experiment.sampling.max_new_tokens,
        corpus_tokens=corpus_tokens(experiment),
        pilot_tokens=tokens_read(experiment),
    )
    text = in_words(operations(amounts), peak_flops(), n_cores(), of_texts + sae + WORKSPACE, free_host_bytes())
    if any(model_settings(experiment, pin).dtype == "bfloat16" for pin in models):
        text = f"dtype bfloat16 needs a GPU, to compute here set it to float32; {text}"
    return text + ("; what methods learn is not counted" if isinstance(experiment, Comparison) else "")


def _judge(subject: _Subject) -> str:
    experiment, judge = subject.experiment, judge_of(subject.experiment)
    if judge is None:
        return "none: texts are not rated, and no figure shows ratings"
    if (endpoint := judge.endpoint) is None:
        return f"kind {judge.settings.kind}: costs nothing"
    from saesteer.judge.endpoint import check_key
    from saesteer.judge.spend import estimate_texts

    check_key(endpoint, subject.environ)
    share = 1.0 if isinstance(experiment, Comparison) else judge.n_prompts / prompt_source(experiment).n
    n_rated, characters = math.ceil(n_texts(experiment) * share), experiment.sampling.max_new_tokens * CHARACTERS_PER_TOKEN
    spend = estimate_texts(n_rated, characters, experiment.model.prompt_format == "chat", endpoint)
    limit = f"limit {endpoint.max_usd:g} USD for all jobs and runs" if endpoint.max_usd is not None else "no limit is set (judge.max_usd)"
    return f"{endpoint.model}: {spend.requests:,} requests, about {spend.typical}; {limit}"


def _labels(subject: _Subject) -> str:
    from saesteer.judge.naming import estimate_labels

    judge = judge_of(subject.experiment)
    assert judge is not None
    endpoint, section = judge.endpoint, judge.experiment.explanations
    assert endpoint is not None
    assert section is not None
    spend = estimate_labels(n_features(subject.experiment), N_TOKENS, section, endpoint)
    return f"{endpoint.model}: {spend.requests:,} requests, about {spend.typical}, within the same limit"


def _prompts(subject: _Subject) -> str:
    from saesteer.judge.answers import Ask
    from saesteer.judge.endpoint import check_key
    from saesteer.judge.prompt_writing import INSISTENCE, request
    from saesteer.judge.spend import estimate

    assert isinstance(subject.experiment, Comparison)
    compared = subject.experiment.methods
    writer = compared.prompt_writer
    assert writer is not None
    check_key(writer, subject.environ)
    asks = [Ask(request("x" * 80, insistence), 0) for insistence in INSISTENCE] * n_concepts(compared)
    spend = estimate(asks, writer)
    return f"{writer.model}: {spend.requests:,} requests, about {spend.typical}"
