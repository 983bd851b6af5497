"""Feature sets, prefixes, wanted keys, fingerprints and checks before any job starts."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.analysis.halves import split_halves
from saesteer.core.files import text_id
from saesteer.methods.compare.protocol import at_every_layer
from saesteer.run import Run
from saesteer.settings import (
    AllFeatures,
    EndpointJudge,
    Experiment,
    SampledFeatures,
    SettingsError,
    Workflow,
    experiment_of,
    load_experiment,
)
from saesteer.settings.registry import method
from saesteer.sources.features import features_of, resolve
from saesteer.sources.pins import pin
from saesteer.sources.prefixes import read_prefixes
from saesteer.steps import keys
from saesteer.steps.step import steps_of
from saesteer.workflow import plan
from saesteer.workflow.checks import check_files

ROOT = Path(__file__).parents[1]


@pytest.fixture
def micro(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(ROOT)
    return load_experiment("micro", ROOT / "config/experiments")


def with_features(experiment: Experiment, features) -> Experiment:
    return experiment.model_copy(update={"features": features})


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(0, 3))
def test_sampled_sets_are_nested_and_distinct(n: int, seed: int) -> None:
    experiment = load_experiment("tiny", ROOT / "config/experiments")
    fewer = resolve(with_features(experiment, SampledFeatures(kind="sampled", n_per_layer=n, seed=seed)))
    more = features_of(with_features(experiment, SampledFeatures(kind="sampled", n_per_layer=n + 1, seed=seed)), 3)
    assert set(fewer[3]) < set(more)
    assert all(len(set(features)) == n and list(features) == sorted(features) for features in fewer.values())


def test_layers_and_seeds_draw_different_features(micro: Experiment) -> None:
    draws = [
        features_of(with_features(micro, SampledFeatures(kind="sampled", n_per_layer=30, seed=seed)), layer)
        for seed in (0, 1)
        for layer in (2, 6)
    ]
    assert len(set(draws)) == 4


def test_all_features(micro: Experiment) -> None:
    assert features_of(with_features(micro, AllFeatures(kind="all")), 2) == tuple(range(1024))


def test_shipped_prefixes_and_their_halves() -> None:
    prefixes = read_prefixes(ROOT / "config/prefixes.txt", 50)
    assert len(prefixes) == 50
    assert not any("." in prefix for prefix in prefixes.values())
    assert split_halves(read_prefixes(ROOT / "config/prefixes.txt", 20)).items() <= split_halves(prefixes).items()
    assert sum(split_halves(prefixes).values()) == 25


@pytest.mark.parametrize(
    ("text", "n", "message"),
    [
        ("a\nb\na\n", 3, "'a' stands twice"),
        ("a\n\nb\n", 2, "line 2 is empty"),
        ("a\nb\n", 3, "has 2 prefixes, but .* asks for 3"),
    ],
)
def test_bad_prefix_files_are_refused(tmp_path: Path, text: str, n: int, message: str) -> None:
    path = tmp_path / "prefixes.txt"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_prefixes(path, n)


def test_groups_cover_the_layers_once(micro: Experiment) -> None:
    experiment = micro.model_copy(update={"layers": (0, 1, 2, 3, 4, 5, 7), "layers_per_job": 3})
    assert experiment.layer_groups == {"layers_00-02": (0, 1, 2), "layers_03-05": (3, 4, 5), "layers_07-07": (7,)}


STEPS = steps_of(load_experiment("micro", ROOT / "config/experiments"))


def run_in(folder: Path, experiment: Experiment) -> Run:
    return Run(Workflow(experiments=("micro",), data_dir=folder), "micro", experiment)


def write_input(run: Run, step: str, name: str, value: str = "a") -> None:
    path = plan.input_files(run, step, (2, 6))[name]
    entry = {"fingerprint": value, "rows": 0, "parts": []}
    layers = {"step": name, "layers": {"2": entry, "6": entry}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(layers if name in {*STEPS, "saes"} else {"digest": value}))


def run_with_inputs(folder: Path, experiment: Experiment, step: str) -> Run:
    run = run_in(folder, experiment)
    for name in steps_of(experiment)[step].inputs:
        write_input(run, step, name)
    return run


def fingerprints(run: Run, step: str) -> list[str]:
    return [want.fingerprint_digest for want in plan.wanted_rows(run, step, (2, 6))]


@pytest.mark.parametrize("step", STEPS)
def test_fingerprint_depends_on_every_input_and_on_no_path(micro: Experiment, tmp_path: Path, step: str) -> None:
    run = run_with_inputs(tmp_path, micro, step)
    before = fingerprints(run, step)
    assert before == fingerprints(run_with_inputs(tmp_path / "elsewhere", micro, step), step)
    for name in STEPS[step].inputs:
        write_input(run, step, name, "b")
        assert not set(before) & set(fingerprints(run, step))
        write_input(run, step, name)


def test_only_settings_of_a_step_change_its_fingerprint(micro: Experiment) -> None:
    hotter = micro.model_copy(update={"sweep": micro.sweep.model_copy(update={"temperature": 0.9})})
    longer = micro.model_copy(update={"sweep": micro.sweep.model_copy(update={"n_prefixes": 6})})
    before, after = steps_of(micro), steps_of(hotter)
    assert {step for step, planned in before.items() if planned.settings != after[step].settings} == {"generations"}
    assert all(planned.settings == before[step].settings for step, planned in steps_of(longer).items())


def test_a_top_p_of_1_leaves_rows_valid_that_were_made_before_there_was_one(micro: Experiment) -> None:
    sampling = {"max_new_tokens", "temperature", "top_k", "stop", "seed"}
    assert set(steps_of(micro)["generations"].settings) == sampling | {"dtype", "bos", "prompt_format"}
    nucleus = micro.model_copy(update={"sweep": micro.sweep.model_copy(update={"top_p": 0.3})})
    assert steps_of(nucleus)["generations"].settings == steps_of(micro)["generations"].settings | {"top_p": 0.3}
    ablated = micro.model_copy(update={"sweep": micro.sweep.model_copy(update={"edit": "ablation", "factors": ("0", "1")})})
    assert steps_of(ablated)["generations"].settings == steps_of(micro)["generations"].settings | {"edit": "ablation"}
    plain, p2 = (steps_of(load_experiment(name, ROOT / "config/experiments")) for name in ("tiny-methods", "tiny-methods-p2"))
    for step in ("effects", "generations"):
        assert (plain[step].settings.get("top_p"), p2[step].settings["top_p"]) == (None, 0.3)


def test_keys_and_settings_make_a_job_due_and_say_so_in_words(micro: Experiment, tmp_path: Path) -> None:
    def wants(experiment: Experiment, step: str, layers: tuple[int, ...]) -> dict[str, str]:
        return plan.params_of_rows(run_in(tmp_path, experiment), step, layers)

    added = with_features(micro, micro.features.model_copy(update={"features": {2: (3, 141, 592, 653, 700), 6: (27, 182, 818, 284)}}))
    for step, planned in STEPS.items():
        before, after = wants(micro, step, (2,)), wants(added, step, (2,))
        assert {name for name in before if before[name] != after[name]} == ({"rows"} if step != "activations" else set())
        assert wants(micro, step, (6,)) == wants(added, step, (6,)), planned.modules
    assert "653, 700]" in wants(added, "logit_lens", (2,))["rows"]
    assert '"temperature": 0.7' in wants(micro, "generations", (2,))["settings"]
    every = with_features(micro, AllFeatures(kind="all"))
    assert len(wants(every, "generations", (2,))["rows"]) < 600
    assert wants(every, "generations", (2,)) != wants(micro, "generations", (2,))


def test_a_job_with_inputs_to_come_counts_as_missing(micro: Experiment, tmp_path: Path) -> None:
    assert plan.n_missing(run_in(tmp_path, micro), "generations", (2,)) is None
    assert plan.n_missing(run_with_inputs(tmp_path, micro, "generations"), "generations", (2,)) == 4 * 3 * 4


def test_a_dry_run_does_without_texts_that_are_not_here(micro: Experiment, tmp_path: Path) -> None:
    elsewhere = micro.max_activating_examples.model_copy(update={"texts": tmp_path / "texts.parquet"})
    run = run_with_inputs(tmp_path, micro.model_copy(update={"max_activating_examples": elsewhere}), "activations")
    assert plan.n_missing(run, "activations", (2,)) is None


STARTED = """
import importlib, sys
def start(heavy, *modules):
    for module in modules:
        importlib.import_module(f"saesteer.{module}")
    print(*(heavy | {"torch", "transformers", "sae_lens"}) & {*sys.modules})
start({"matplotlib", "scipy", "huggingface_hub"}, "workflow.plan", "workflow.checks", "figures.registry")
from saesteer.settings import SaeSettings
from saesteer.sources.sae_sources import sae_source
sae_source(SaeSettings(release="llama_scope_lxr_8x", id="l{layer}r_8x", d_model=16, n_features=64), 3)
start({"huggingface_hub"}, "sources.hub")
start(set(), *(f"analysis.{name}" for name in ("best_factor", "examples", "metrics", "pmi", "selection")))
start(set(), "world.oracle_judge", "world.concept_texts", "site.headline", "site.method_report", "exchange.comparison")
start(set(), "core.uncertainty", "methods.compare.summaries", "figures.save")
"""
"""Planning, sources of SAEs, statistics, a world's judge, reports and figures: what each has loaded that it does without."""


def test_what_runs_no_model_starts_without_torch() -> None:
    """A job that finds nothing to do decides that fast, and a judge's job asks for no GPU."""
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\n" * 5), done.stderr + done.stdout


def test_pin_names_bytes_not_places(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data/world/model", tmp_path / "copy")
    assert pin(tmp_path / "copy")["digest"] == pin(ROOT / "data/world/model")["digest"]
    config = tmp_path / "copy/config.json"
    config.write_text(config.read_text().replace("}", " }", 1))
    assert pin(tmp_path / "copy")["digest"] != pin(ROOT / "data/world/model")["digest"]


@pytest.fixture
def own_world(tmp_path: Path, micro: Experiment) -> Experiment:
    """The micro experiment on copies of the shipped files, which a test may damage."""
    shutil.copytree(ROOT / "data/world", tmp_path / "world")
    values = json.loads(micro.model_dump_json().replace("data/world", str(tmp_path / "world")))
    return experiment_of(values)


def widen(config: Path) -> None:
    config.write_text(config.read_text().replace('"d_in": 128', '"d_in": 256'))


DAMAGE: dict[str, Callable[[Path], object]] = {
    r"layer 6 has no SAE.*layer_06.*drop the layer": lambda world: shutil.rmtree(world / "saes/layer_06"),
    r"layer_06 is 256 x 1024 .*, but .* is 128 x 1024: correct these two keys": lambda world: widen(world / "saes/layer_06/cfg.json"),
    r"model.safetensors is damaged": lambda world: os.truncate(world / "model/model.safetensors", 100_000),
    r"layer_06/sae_weights.safetensors is damaged": lambda world: os.truncate(world / "saes/layer_06/sae_weights.safetensors", 100),
    r"model/config.json is not readable": lambda world: (world / "model/config.json").unlink(),
    r"max_activating_examples.texts: there is no file .*texts.parquet": lambda world: (world / "texts.parquet").unlink(),
}
"""Message -> the damage that it tells of."""


@pytest.mark.parametrize("message", DAMAGE)
def test_files_that_cannot_be_used_are_refused_before_any_job(own_world: Experiment, tmp_path: Path, message: str) -> None:
    DAMAGE[message](tmp_path / "world")
    with pytest.raises(SettingsError, match=message):
        check_files("own", own_world)


def test_prefix_ids_are_digests_of_the_text() -> None:
    assert text_id("I think that") == "d3cc3186b61c6fb3"  # printf 'I think that' | sha256sum


@pytest.mark.parametrize(("device", "key"), [("cpu", "model.dtype"), ("cpu", "perplexity.model.dtype"), ("cuda", None)])
def test_bfloat16_without_a_gpu_is_refused_before_any_job(
    micro: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, key: str | None
) -> None:
    """Also of the model that only scores the texts, which would be refused when all of them are written."""
    monkeypatch.setattr("saesteer.engine.weights.available_device", lambda: device)
    half = {"model": micro.model.model_copy(update={"dtype": "bfloat16"})}
    changes = {"perplexity": micro.perplexity.model_copy(update=half)} if key == "perplexity.model.dtype" else half
    run = Run(Workflow(experiments=["micro"], data_dir=tmp_path), "micro", micro.model_copy(update=changes))
    plan.check_bfloat16(Run(run.workflow, "micro", micro))
    if key is None:
        plan.check_bfloat16(run)
    else:
        with pytest.raises(SettingsError, match=f"experiment micro: {key} is bfloat16, which needs a GPU, and here is none: write float32"):
            plan.check_bfloat16(run)


def test_a_judge_whose_prefixes_are_still_to_be_fetched_has_work(micro: Experiment, tmp_path: Path) -> None:
    judge = EndpointJudge(kind="endpoint", base_url="http://localhost/v1", model="judge")
    sweep = micro.sweep.model_copy(update={"prefixes": None, "published_prefixes": "p1/prefixes"})
    experiment = micro.model_copy(update={"judge": judge, "sweep": sweep})
    run = run_with_inputs(tmp_path, experiment, "judge")
    assert plan.n_missing(run, "judge", (2,)) is None
    assert plan.endpoints_to_ask(run) == [judge]
    run.prompts_path.parent.mkdir(parents=True)
    run.prompts_path.write_text("prefixes = ['a', 'b', 'c', 'd']\n")
    assert plan.n_missing(run, "judge", (2,)) == 4 * 3 * 4


def test_methods_without_a_layer_are_fitted_at_the_first_layer_only() -> None:
    experiment = load_experiment("tiny-methods", ROOT / "config/experiments")
    at = {layer: {row.name for row in keys.methods_at(experiment.methods, experiment.layers, layer)} for layer in (3, 6)}
    assert at[3] == set(experiment.methods.methods)
    assert at[3] - at[6] == {"unsteered", "prompting", "prompt_search", "lora", "loreft", "sft", "reps_lora", "reps_loreft"}
    run = run_in(ROOT / "data", experiment)
    texts = {layer: [axis.values(run) for axis in keys.texts_of_fits(experiment)(layer)] for layer in (3, 6)}
    assert set(texts[6][0]["method"]) == {method(name).key for name in at[6]}
    n_texts = sum(prod(axis.height for axis in axes) for axes in texts.values())
    assert keys.n_fit_generations(experiment) == n_texts


def test_rows_of_methods_without_a_layer_stand_for_every_layer() -> None:
    rows = pl.DataFrame({"layer": [3, 3, 6], "method": ["lora", "diffmean", "diffmean"], "score": [1.0, 2.0, 3.0]})
    both = at_every_layer(rows, [6, 3])
    assert sorted(both.rows()) == [(3, "diffmean", 2.0), (3, "lora", 1.0), (6, "diffmean", 3.0), (6, "lora", 1.0)]
    assert at_every_layer(rows.filter(layer=3), [3]).rows() == rows.filter(layer=3).rows()
