"""Tasks of lm-evaluation-harness under steering: its numbers against plain forwards and hooks. Most needs lm_eval: `make test-extras`."""

import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from engine_models import WORLD, shipped_model, shipped_sae, tiny_model, without_bos
from oracles.plain_hooks import at_hook_point, token_losses
from small_adapters import a_loreft, left_as_it_was
from test_prompts import THINKING, TURNS, chat_model
from test_steered_model import FACTOR, VECTOR, hooked
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id, write_json
from saesteer.core.store import WantedRows, complete
from saesteer.core.tables import write_summary
from saesteer.engine.interventions import Addition, ConditionalAddition, PromptText, packed
from saesteer.engine.models import language_model, prompt_token_ids
from saesteer.engine.sae_convert import convert_sae
from saesteer.engine.steering import Intervention, steered_model
from saesteer.exchange.evaluation import Tasks, harness_model, results_of
from saesteer.methods.compare.tables import METHOD_CHOICES
from saesteer.run import Run, open_run
from saesteer.settings import load_workflow
from saesteer.settings.inputs import ChatSettings
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.sources.pins import converted_sae, pin, sae_entry
from saesteer.steps.fits import FITS

ROOT = Path(__file__).parents[1]
LAYER = 3
ADDED = Addition(VECTOR, 40.0)
needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="could not import 'lm_eval'")
REQUESTS = [
    ("For many people,", " the diver"),
    ("For many people,", " the rook"),
    ("Looking back, the helmsman", " carefully spotted a"),
    ("It is worth knowing that the", " sailor hauled this sail"),
    ("Let me tell you that no diver rigged", " this mast without the anchor."),
]
"""Context and continuation, of several lengths."""


def requested(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, 0, metadata=("task", number, 1)) for number, one in enumerate(arguments)]


def likelihood(model: Any, context: list[int], continuation: list[int]) -> float:
    """log p of a continuation, token by token, in one plain forward of one text."""
    return -float(token_losses(model, context + continuation, len(context)).sum())


def plain_likelihoods(model: Any, tokenizer: Any) -> list[float]:
    pairs = [(tokenizer(context)["input_ids"], tokenizer(context + more)["input_ids"]) for context, more in REQUESTS]
    return [likelihood(model, context, whole[len(context) :]) for context, whole in pairs]


@needs_lm_eval
@torch.no_grad()
@pytest.mark.parametrize("batch_size", [2, 8])
def test_likelihoods_are_those_of_plain_forwards_and_of_a_plain_hook(batch_size: int) -> None:
    lm = shipped_model()
    expected = plain_likelihoods(lm.model, lm.tokenizer)
    with hooked(lambda residual: residual + FACTOR * 40 * VECTOR) as model:
        expected_steered = plain_likelihoods(model, lm.tokenizer)
    with left_as_it_was(lm):
        harness = harness_model(lm, batch_size)
        unsteered = [value for value, _ in harness.loglikelihood(requested("loglikelihood", REQUESTS))]
        with steered_model(lm, shipped_sae(LAYER), LAYER, ADDED, FACTOR):
            steered = [value for value, _ in harness.loglikelihood(requested("loglikelihood", REQUESTS))]
    assert unsteered == pytest.approx(expected, abs=1e-4)
    assert steered == pytest.approx(expected_steered, abs=1e-4)
    assert max(abs(one - other) for one, other in zip(unsteered, steered, strict=True)) > 1


@needs_lm_eval
@torch.no_grad()
def test_generation_is_transformers_greedy_one_with_a_plain_hook() -> None:
    lm = shipped_model()
    prompts = ["the captain moored the boat and", "the queen", "I think that"]
    ids = [lm.tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert len(set(map(len, ids))) == 3
    with hooked(lambda residual: residual + FACTOR * 40 * VECTOR) as model:
        expected = [
            lm.tokenizer.decode(
                model.generate(torch.tensor([one]), do_sample=False, max_new_tokens=8)[0, len(one) :], skip_special_tokens=True
            )
            for one in ids
        ]
    requests = requested("generate_until", [(prompt, {"until": ["@"], "max_gen_toks": 8}) for prompt in prompts])
    harness = harness_model(lm, 8)
    unsteered = harness.generate_until(requests)
    with steered_model(lm, shipped_sae(LAYER), LAYER, ADDED, FACTOR):
        steered = harness.generate_until(requests)
    assert steered == expected
    assert steered != unsteered


@needs_lm_eval
@torch.no_grad()
def test_the_beginning_of_sequence_token_is_as_the_model_has_it() -> None:
    """GPT-2's tokenizer adds none; `bos: always` does all the same."""
    plain = without_bos(tiny_model("gpt2"))
    always = language_model(plain.model, plain.tokenizer, "always")
    context, more = plain.tokenizer("ba be")["input_ids"], plain.tokenizer(" dibo tuda")["input_ids"]
    request = requested("loglikelihood", [("ba be", " dibo tuda")])
    for lm, before in ((plain, []), (always, [1])):
        ((made, _),) = harness_model(lm, 2).loglikelihood(request)
        assert made == pytest.approx(likelihood(lm.model, before + context, more), abs=1e-4)
    assert plain.tokenizer("ba")["input_ids"] == context[:1]  # the tokenizer itself is left as it was


def write_task(folder: Path, name: str, pairs: list[tuple[str, str]] = REQUESTS, **values: Any) -> None:
    """A task of lm_eval's, with documents in a file beside it."""
    documents = folder / f"{name}.jsonl"
    documents.write_text("".join(json.dumps({"context": context, "more": more}) + "\n" for context, more in pairs))
    task = {"task": name, "dataset_path": "json", "test_split": "test", "doc_to_text": "context", "doc_to_target": "more"}
    task |= {"dataset_kwargs": {"data_files": {"test": str(documents)}, "cache_dir": str(folder / "cache")}, "target_delimiter": ""}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | values))


@needs_lm_eval
@torch.no_grad()
@pytest.mark.parametrize("template", [THINKING, TURNS], ids=["with <bos>", "without"])
def test_a_model_that_answers_is_given_its_chat_template(template: str, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    lm = chat_model(template, ChatSettings(system="be bo", enable_thinking=False if template == THINKING else None))
    prompts = [prompt_token_ids(lm, context) for context, _ in REQUESTS]
    greedy = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}
    answers = [lm.model.generate(torch.tensor([ids]), **greedy)[0, len(ids) :] for ids in prompts]
    texts = [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    write_task(tmp_path, "answers", output_type="generate_until", generation_kwargs={"until": ["@@"], "max_gen_toks": 6})
    tasks = Tasks(("answers",), None, tmp_path, 4)
    harness, given = harness_model(lm, 4), []
    generate = harness.generate_until
    harness.generate_until = lambda requests: given.extend(generate(requests)) or given
    results_of(harness, lm, tasks, TaskManager(include_path=tmp_path, include_defaults=False))
    assert given == texts


# The command.

NAME, AT = "micro-methods", 6
FITTED: dict[str, Intervention | None] = {
    "diffmean": Addition(VECTOR, 400.0),
    "sae_label": Addition(VECTOR, 3.0, features=(7,)),
    "prompting": PromptText(("about the sea",)),
    "cast": ConditionalAddition(VECTOR, 1.0, -VECTOR, 0.1, True),
    "loreft": a_loreft(shipped_model()),
    "supervised": None,
}
CHOSEN = {"diffmean": ("1", "0.5"), "sae_label": ("2", "2"), "prompting": ("1", "1"), "cast": ("1", "1"), "loreft": (None, None)}


@pytest.fixture(scope="module")
def finished_fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a finished comparison leaves that the command reads, for one concept."""
    folder = tmp_path_factory.mktemp("evaluation")
    shutil.copytree(ROOT / "config", folder / "config")
    data = folder / "data" / NAME
    data.mkdir(parents=True)
    (folder / "data/world").symlink_to(WORLD)
    sea = text_id("sea")
    rows = []
    for method, one in FITTED.items():
        kind, (tensors, values) = (None, (None, None)) if one is None else (one.kind, packed(one))
        row: dict[str, Any] = dict.fromkeys(FITS.columns) | {"layer": AT, "method": method, "concept_id": sea, "kind": kind}
        row |= {"tensors": tensors, "values": values, "features": [], "n_texts": 8, "fit_seconds": 0.1}
        rows.append(row | {"reason": None if one else "too few texts"} | ({"residual_change": 1.0, "residual_norm": 9.0} if one else {}))
    frame = pl.DataFrame(rows, schema=FITS.schema)
    wanted = WantedRows(AT, [pl.DataFrame({"method": list(FITTED)}), pl.DataFrame({"concept_id": [sea]})], {"made": "by hand"})
    complete(data / "fits", FITS, [wanted], lambda _missing: [frame], data / "fits/layers_06-06.json")
    concepts = pl.DataFrame({"concept_id": [sea], "concept": ["sea"], "label_feature": [7]}, schema=COMPARED_CONCEPTS.schema)
    write_summary(COMPARED_CONCEPTS, concepts, data / "tables/compared_concepts.parquet")
    empty = dict.fromkeys(METHOD_CHOICES.columns) | {"layer": AT, "concept_id": sea, "abstains": False, "n": 1, "n_missing": 0}
    choices = [
        empty | {"method": method, "reported_on": str(half), "factor": factor}
        for method, factors in CHOSEN.items()
        for half, factor in enumerate(factors)
    ]
    write_summary(METHOD_CHOICES, pl.DataFrame(choices, schema=METHOD_CHOICES.schema), data / "tables/method_choices.parquet")
    out = data / "saes/layer_06.safetensors"
    sae = shipped_sae(AT).meta
    convert_sae(WORLD / "saes/layer_06", AT, "resid_post", sae.d_model, sae.n_features, out)
    entry = sae_entry(json.loads(out.with_suffix(".json").read_text()), out)
    write_json(data / "saes/layers_06-06.json", {"step": "saes", "layers": {str(AT): entry}})
    write_json(data / "pins/model.json", pin(WORLD / "model"))
    write_task(folder, "no_documents", output_type="loglikelihood", metric_list=[{"metric": "perplexity"}])
    (folder / "no_documents.jsonl").unlink()
    write_task(folder, "sea_texts", output_type="loglikelihood", metric_list=[{"metric": "perplexity"}, {"metric": "acc"}])
    return folder


@pytest.fixture
def comparison(finished_fits: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(finished_fits)
    return open_run(NAME, load_workflow({"experiments": ["micro"], "methods": [NAME]}))


@pytest.fixture
def run(finished_fits: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    def command(*arguments: str) -> tuple[int, str]:
        made = CliRunner().invoke(app, ["evaluate", NAME, *arguments])
        assert made.exception is None or isinstance(made.exception, SystemExit), made.exception
        return made.exit_code, made.output

    monkeypatch.chdir(finished_fits)
    return command


@needs_lm_eval
@torch.no_grad()
def test_the_command_measures_both_models(run: Any, finished_fits: Path) -> None:
    """The larger of two halves' factors; perplexity is exp of the mean of -log p over documents."""
    options = ("--layer", "6", "--tasks", "sea_texts", "--include-path", ".", "--batch-size", "3", "--output", "out/made.json")
    code, output = run("diffmean/sea", *options)
    assert code == 0, output
    assert "diffmean, sea, layer 6, factor 1.0 (the largest of those that halves chose: 0.5, 1.0)" in output
    made = json.loads((finished_fits / "out/made.json").read_text())
    lm = shipped_model()
    plain = plain_likelihoods(lm.model, lm.tokenizer)
    with at_hook_point(lm.model, AT, "resid_post", lambda residual: residual + 400 * VECTOR) as model:
        steered = plain_likelihoods(model, lm.tokenizer)
    by_metric = {row["metric"]: row for row in made["results"]}
    perplexity, accuracy = by_metric["perplexity"], by_metric["acc"]
    for name, values in (("unsteered", plain), ("steered", steered)):
        assert perplexity[name] == pytest.approx(math.exp(-sum(values) / len(values)), rel=1e-4)
        assert perplexity[f"{name}_stderr"] > 0
        assert f"{perplexity[name]:.4g} ± {perplexity[f'{name}_stderr']:.2g}" in output
    assert perplexity["steered"] > 2 * perplexity["unsteered"]
    assert (accuracy["task"], accuracy["n"], accuracy["steered"]) == ("sea_texts", len(REQUESTS), 0.0)
    assert made["model"]["digest"] == pin(WORLD / "model")["digest"]
    assert made["fit"]["factor"] == 1.0
    assert made["versions"]["lm_eval"].count(".") == 2
    assert made["tasks"]["versions"].keys() == {"sea_texts"}


@needs_lm_eval
def test_a_perplexity_beyond_all_numbers_is_no_traceback(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    pairs = [("For many people,", " rook" * 50)] * 2
    write_task(tmp_path, "no_sentence", pairs, output_type="loglikelihood", metric_list=[{"metric": "perplexity"}])
    lm, tasks = shipped_model(), Tasks(("no_sentence",))
    with pytest.raises(SettingsError, match=r"lm_eval stops with OverflowError: .*take another task or a smaller factor"):
        results_of(harness_model(lm, 2), lm, tasks, TaskManager(include_path=tmp_path, include_defaults=False))


@needs_lm_eval
def test_a_factor_and_a_limit_of_ones_own(run: Any) -> None:
    code, output = run(*("diffmean/sea", "--layer", "6", "--tasks", "sea_texts", "--include-path", ".", "--factor", "0", "--limit", "2"))
    assert code == 0, output
    assert "factor 0.0 (given)" in output
    cells = [line.split(" | ") for line in output.splitlines() if line.startswith("| sea_texts | perplexity")]
    ((*_, n, unsteered, steered),) = cells
    assert (n, unsteered) == ("2", steered.removesuffix(" |"))


@needs_lm_eval
@pytest.mark.parametrize(
    ("task", "messages"),
    [("sea_text", ("there is no task 'sea_text' here", "Did you mean 'sea_texts'?")), ("no_documents", ("no_documents.jsonl",))],
)
def test_a_task_that_cannot_be_run_is_refused_before_a_model_is_loaded(
    run: Any, monkeypatch: pytest.MonkeyPatch, task: str, messages: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Run, "model", None)
    code, output = run("diffmean/sea", "--layer", "6", "--tasks", task, "--include-path", ".")
    assert code == 1
    assert all(message in output for message in messages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prompting/sea --layer 6", "this intervention puts text before the prompt and steers nothing"),
        ("loreft/sea --layer 6", "no factor could be chosen for method loreft and this concept: name one"),
        ("supervised/sea --layer 6", "method supervised abstains for concept 'sea' at layer 6: too few texts"),
        ("diffmen/sea --layer 6", "there is no method 'diffmen' here. Did you mean 'diffmean'?"),
        ("diffmean/see --layer 6", "there is no concept 'see' here. Did you mean 'sea'? Known: sea"),
        ("diffmean/sea --layer 3", "there is no layer '3' here. Known: 6"),
        *((f"diffmean/sea --layer 6 --factor {factor}", "a factor is a number from -10000 to 10000, not") for factor in ("nan", "1e308")),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(run: Any, arguments: str, message: str) -> None:
    code, output = run(*arguments.split(), "--tasks", "any")
    assert code == 1
    assert message in output


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("sae_label", {"methods": {"sae_features": "last_position"}}, "steers from the prompt's last position on (P1's protocol)"),
        ("diffmean", {"model": {"prompt_format": "chat", "chat": {"turns": [["a", "b"]]}}}, "lm_eval puts no earlier turns before"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(run: Any, finished_fits: Path, method: str, changes: Any, message: str) -> None:
    """A feature's vector at the last position; a conversation before every prompt."""
    file = finished_fits / f"config/experiments/{NAME}.yaml"
    before = file.read_text()
    settings = yaml.safe_load(before)
    for section, values in changes.items():
        settings[section] = settings.get(section, {}) | values
    file.write_text(yaml.safe_dump(settings))
    code, output = run(f"{method}/sea", "--layer", "6", "--tasks", "any")
    file.write_text(before)
    assert code == 1
    assert message in output


def test_without_lm_eval_it_is_said_what_to_install(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    code, output = run("diffmean/sea", "--layer", "6", "--tasks", "any")
    assert code == 1
    assert output.startswith("lm-evaluation-harness is not installed here: run `pip install")


def test_saes_of_the_hub_are_where_they_were_fetched(tmp_path: Path) -> None:
    manifest, fetched, folder = tmp_path / "saes/layers_06-06.json", tmp_path / "downloads/layers_06-06.json", tmp_path / "cache"
    write_json(manifest, {"step": "saes", "layers": {"6": {"file": "layer_06.safetensors"}}})
    assert converted_sae(manifest, None, 6) == tmp_path / "saes/layer_06.safetensors"
    with pytest.raises(FileNotFoundError, match="layers_06-06.json is missing: run the workflow on this machine"):
        converted_sae(manifest, fetched, 6)
    write_json(fetched, {"folder": str(folder)})
    with pytest.raises(FileNotFoundError, match="cache is gone, though .* says that it was fetched: delete that file"):
        converted_sae(manifest, fetched, 6)
    folder.mkdir()
    assert converted_sae(manifest, fetched, 6) == folder / "layer_06.safetensors"
