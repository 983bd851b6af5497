"""Configuration: misspelt keys, bad values, files that extend each other, generated documents."""

import copy
import functools
import operator
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.yaml_1_2 import read_yaml
from saesteer.reference import config_docs
from saesteer.run import Run
from saesteer.settings import (
    Comparison,
    Experiment,
    Scores,
    SettingsError,
    Sweep,
    Workflow,
    canonical_factor,
    experiment_of,
    load_experiment,
    load_workflow,
)
from saesteer.settings.methods import EffectSettings, FactorGrids
from saesteer.settings.registry import method
from saesteer.sources.prefixes import prompt_source
from saesteer.workflow.checks import check_model_config, check_present_files

CONFIG = Path(__file__).parents[1] / "config"


def full_experiment(name: str = "tiny") -> dict[str, Any]:
    """A shipped experiment with every key written out."""
    return load_experiment(name, CONFIG / "experiments").model_dump(mode="json") | {"extends": None}


def key_paths(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from key_paths(value, (*path, key))


def load(tmp_path: Path, values: dict[str, Any], **others: dict[str, Any]) -> Experiment:
    for name, content in {"own": values, **others}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return load_experiment("own", tmp_path)


@pytest.mark.parametrize("name", ["tiny-all", "tiny", "gemma-2-2b-it-methods"])
def test_every_key_misspelt_is_refused_with_the_nearest(name: str) -> None:
    whole = full_experiment(name)
    for path in key_paths(whole):
        values = copy.deepcopy(whole)
        section = functools.reduce(dict.__getitem__, path[:-1], values)
        misspelt = path[-1][:-1] + "q" + path[-1][-1] if path[-1] != "kind" else "kinq"
        section[misspelt] = section.pop(path[-1])
        with pytest.raises(SettingsError) as refused:
            experiment_of(values, "own.yaml")
        assert "own.yaml cannot be used" in str(refused.value)
        if path != ("features", "kind"):
            assert f"unknown key {misspelt!r}. Did you mean {path[-1]!r}?" in str(refused.value), path


SCORES = ("description", "model", "saes", "layers", "features", "max_activating_examples", "concepts")
"""What an experiment of kind scores states."""


def test_each_kind_does_with_the_sections_that_it_reads() -> None:
    values = {key: value for key, value in full_experiment().items() if key in SCORES}
    assert isinstance(experiment_of(values | {"kind": "scores"}), Scores)
    with pytest.raises(SettingsError) as refused:
        experiment_of(values)
    assert [line.strip() for line in str(refused.value).splitlines()[1:]] == [
        f"{section}: this key is missing; add it" for section in ("perplexity", "judge", "sweep", "selection")
    ]
    steering = values | {key: full_experiment()[key] for key in ("perplexity", "judge")}
    sweep = {key: full_experiment()[key] for key in ("sweep", "selection")}
    assert isinstance(experiment_of(steering | sweep), Sweep)
    compared = {"kind": "comparison", "methods": full_experiment("tiny-methods")["methods"]}
    assert isinstance(experiment_of(steering | compared), Comparison)


def test_what_a_kind_does_not_read_is_left_out_of_what_it_extends(tmp_path: Path) -> None:
    """A base that stops at the scores hands on what it has from its own base."""
    chain = {"sweep": full_experiment(), "scored": {"extends": "sweep", "description": "x", "kind": "scores", "features": {"kind": "all"}}}
    own = load(tmp_path, {"extends": "scored", "kind": "comparison", "methods": full_experiment("tiny-methods")["methods"]}, **chain)
    scored, again = load_experiment("scored", tmp_path), load_experiment("scored", tmp_path, kind="sweep")
    assert [type(each) for each in (own, scored, again)] == [Comparison, Scores, Sweep]
    assert {"sweep", "selection", "pmi", "methods", "judge", "perplexity"}.isdisjoint(scored.model_dump())
    assert {"sweep", "selection", "pmi"}.isdisjoint(own.model_dump())
    assert own.judge.model_dump(mode="json") == again.judge.model_dump(mode="json") == full_experiment()["judge"]
    assert again.sweep.model_dump(mode="json") == full_experiment()["sweep"]
    assert load(tmp_path, {"extends": "scored", "description": "y"}, **chain).kind == "scores"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"methods": ["diffmean", "caa"]}}, "methods.methods: add unsteered, whose score a method counts with"),
        ({"judge": {"n_prefixes": 2}}, "judge.n_prefixes: a comparison rates the texts of all its prompts"),
    ],
)
def test_what_would_be_refused_or_ignored_after_everything_is_paid_for_is_refused_at_once(
    changes: dict[str, dict[str, object]], message: str
) -> None:
    compared = full_experiment("tiny-methods")
    compared["judge"] = {"kind": "endpoint", "base_url": "http://localhost/v1", "model": "m"}
    with pytest.raises(SettingsError, match=message):
        experiment_of(compared | {section: compared[section] | values for section, values in changes.items()})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "scores", "sweep": {}}, "an experiment of kind scores does not read sweep: remove it, or write kind: sweep"),
        ({"kind": "scores", "judge": {}}, "does not read judge: remove it, or write kind: sweep or comparison"),
        ({"methods": {}}, "an experiment of kind sweep does not read methods: remove it, or write kind: comparison"),
        ({"kind": "comparison", "pmi": {}, "sweep": {}}, "does not read pmi, sweep: remove them, or write kind: sweep"),
        ({"kind": "comparsion"}, "an experiment is of kind scores, sweep, comparison, not 'comparsion'. Did you mean 'comparison'?"),
        ({"preset": "p2"}, "preset p2 sets methods only, which kind sweep does not read: remove the preset, or write kind: comparison"),
    ],
)
def test_files_of_another_kind_are_refused_by_what_to_write(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, {"extends": "base", "description": "x"} | keys, base=full_experiment())
    assert str(refused.value).startswith(f"{tmp_path}/own.yaml")
    assert message in str(refused.value)


def test_what_needs_another_kind_says_which() -> None:
    scored, sweep = (load_experiment(name, CONFIG / "experiments") for name in ("tiny-all", "tiny"))
    workflow = Workflow(experiments=("own",))
    needs_texts, compares = (operator.attrgetter(needed) for needed in ("steering", "comparison"))
    for needed, experiment, message in [
        (needs_texts, scored, "own generates no texts, it is of kind scores: name an experiment of kind sweep or comparison"),
        (compares, scored, "own compares no methods, it is of kind scores: name an experiment of kind comparison"),
        (compares, sweep, "own compares no methods, it is of kind sweep: name an experiment of kind comparison"),
        (lambda run: prompt_source(run.experiment), scored, "kind scores has no prompts to generate texts from"),
    ]:
        with pytest.raises(SettingsError, match=message):
            needed(Run(workflow, "own", experiment))
    assert Run(workflow, "own", sweep).steering is sweep


def test_what_cannot_be_read_is_refused_by_what_was_meant() -> None:
    with pytest.raises(SettingsError, match="judge: kind 'none' cannot be used here; kinds that can: oracle, embedding, endpoint, model"):
        experiment_of(full_experiment("tiny-methods") | {"judge": {"kind": "none"}})
    with pytest.raises(SettingsError, match="unknown key 'figure_dir'. Did you mean 'figures_dir'"):
        load_workflow({"experiments": ["tiny"], "figure_dir": "x"})
    with pytest.raises(SettingsError, match=r"experiment 'tinny': there is no file .*tinny.yaml. Did you mean 'tiny'"):
        load_experiment("tinny", CONFIG / "experiments")
    with pytest.raises(SettingsError, match="layers: given more than once: 2"):
        experiment_of(full_experiment() | {"layers": [2, 2]})


def test_bad_values_are_refused_by_key() -> None:
    whole = full_experiment()
    for section, key, value, message in [
        ("sweep", "factors", [0], "no factor is positive"),
        ("sweep", "factors", [1, 2], "factor 0 is missing"),
        ("sweep", "factors", [0, 2, 2.0], "given more than once: 2"),
        ("sweep", "factors", [0, -1], "no factor is positive"),
        ("sweep", "edit", "ablation", "ablation has no strength: its factors are 0"),
        ("output_score", "factor", -1, "a factor here is at least 0, not -1"),
        ("sweep", "factors", [0, "two"], "'two' is no decimal number"),
        ("sweep", "factors", [0, float("inf")], "a number from -10000 to 10000"),
        ("features", "n_per_layer", 0, "greater than 0"),
        ("features", "n_per_layer", 2000, "more than the 1024 features"),
        ("model", "dtype", "float8", "float32"),
        ("saes", "hook_point", "late", "resid_pre"),
        *(
            ("saes", "path", f"saes/{name}", "the only placeholder is {layer}")
            for name in ("{Layer}", "{}", "{layer", "{layer:02x!}", "{layer.a}")
        ),
        ("selection", "confidence", 1.5, "less than 1"),
    ]:
        with pytest.raises(SettingsError, match=f"{section}.*{key}") as refused:
            experiment_of(whole | {section: whole[section] | {key: value}})
        assert message in str(refused.value), (section, key, value)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({0: []}, "the feature set is empty"),
        ({}, "the feature set is empty"),
        ({0: [5, 5]}, "features.explicit.features.0: given more than once: 5"),
        ({0: [5], "0": [6]}, "features.explicit.features: layer 0 stands there twice, once in quotes"),
        ({3: [1024]}, "layer 3: 1024 is out of range, its SAE has features 0 to 1023"),
        ({3: [-1]}, "layer 3: -1 is out of range"),
        ({9: [1]}, "layers [9] are not among `layers`"),
    ],
)
def test_bad_feature_sets_are_refused(features: dict[int, list[int]], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIG.parent)
    with pytest.raises(SettingsError, match=re.escape(message)):
        check_present_files("own", experiment_of(full_experiment() | {"features": {"kind": "explicit", "features": features}}))


def test_extending_states_only_what_differs(tmp_path: Path) -> None:
    base = full_experiment()
    own = load(tmp_path, {"extends": "base", "description": "x", "sweep": {"temperature": 0.0}}, base=base)
    expected = copy.deepcopy(base) | {"extends": "base", "description": "x"}
    expected["sweep"]["temperature"] = 0.0
    assert own.model_dump(mode="json") == expected


@pytest.mark.parametrize("quoted", [int, str])  # as JSON has keys
def test_listed_features_replace_those_of_the_experiment_that_is_extended(tmp_path: Path, quoted: type) -> None:
    """Also where they are of fewer layers."""
    listed = {"kind": "explicit", "features": {quoted(1): [7]}}
    base = full_experiment() | {"layers": [0, 1], "features": {"kind": "explicit", "features": {quoted(0): [1], quoted(1): [2]}}}
    own = load(tmp_path, {"extends": "base", "description": "x", "layers": [1], "features": listed}, base=base)
    assert own.model_dump(mode="json")["features"]["features"] in ({"1": [7]}, {1: [7]})


def test_extending_in_a_circle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="runs in a circle: own -> other"):
        load(tmp_path, {"extends": "other"}, other={"extends": "own"})


def test_preset_sets_the_papers_conventions_and_yields_to_explicit_keys(tmp_path: Path) -> None:
    base = full_experiment()
    base["best_factor"] = {}
    preset = load(tmp_path, {"extends": "base", "preset": "p1", "description": "x"}, base=base)
    assert (preset.best_factor.rule, preset.best_factor.factor_choice, preset.best_factor.perplexity) == ("p1", "same_texts", "whole_text")
    mixed = load(tmp_path, {"extends": "base", "preset": "p1", "description": "x", "best_factor": {"rule": "capped"}}, base=base)
    assert (mixed.best_factor.rule, mixed.best_factor.factor_choice) == ("capped", "same_texts")


def test_the_papers_own_protocols() -> None:
    """The experiments of docs/methods.md: P1 filters the labelled feature; P2 multiplies means and samples with top_p .3; P4, AxBench's,
    has its own grids whatever it extends."""
    names = ("tiny-methods", "tiny-methods-p1", "tiny-methods-p2", "tiny-methods-p4", "gemma-2-9b-it-methods")
    base, p1, p2, p4, gemma = (load_experiment(name, CONFIG / "experiments").methods for name in names)
    assert (p4.factors.adapter, p4.training_tokens, p4.blank_texts) == (("1",), "all", "rated")
    assert (base.factors.adapter[0], base.training_tokens, base.blank_texts) == ("0.02", "output", "unrated")
    published = FactorGrids()
    assert (p4.factors.addition, p4.factors.clamp) == (published.addition, published.clamp)
    assert gemma.training_tokens == "all"
    assert {"sae_label", "sae_label_output_score"} <= set(p1.methods)
    assert "sae_output_score" not in p1.methods
    assert (p1.score, p1.averaged, p1.factor_rule, p1.temperature) == ("harmonic_mean_of_means", "surviving", "gen_success", 0.7)
    assert (p2.score, p2.factor_choice, p2.top_p, p2.effects.top_p, p2.top_k) == ("product_of_means", "same_texts", 0.3, 0.3, 50)
    assert p2.stop is None
    assert (p4.score, p4.averaged, p4.top_p) == ("harmonic_mean", "all", 1.0)


def test_a_method_can_have_factors_of_its_own() -> None:
    """In place of its kind's; one more leaves the rows of all others as they are. What has no strength has none to choose."""
    grids = FactorGrids(of_method={"ssv": ("0.001", "0.01")})
    assert grids.factors(method("ssv")) == ("0.001", "0.01")
    assert grids.factors(method("diffmean")) == grids.addition
    for name, message in {"unsteered": "no strength to choose", "svv": "there is no method 'svv'"}.items():
        with pytest.raises(ValidationError, match=message):
            FactorGrids(of_method={name: ("1",)})
    for refused in ({"prompt": ("4",)}, {"prompt_search": ("0",)}, {"of_method": {"prompting": ("1.5",)}}):
        with pytest.raises(ValidationError, match="a factor is the number of one of the method's texts"):
            FactorGrids(**refused)


def test_every_kind_of_method_has_as_many_factors_to_choose_from() -> None:
    """And every wording of the prompt is tuned where others tune their strengths."""
    names = ("tiny-methods", "gemma-2-2b-it-methods", "gemma-2-9b-it-methods")
    compared = [load_experiment(name, CONFIG / "experiments").methods.factors for name in names]
    for grids in (FactorGrids(), *compared):
        of_kinds = (grids.addition, grids.clamp, grids.adapter, grids.prompt_search, *grids.of_method.values())
        assert {len(of_kind) for of_kind in of_kinds} == {14}
        assert grids.prompt == ("1", "2", "3")


def test_more_vectors_than_decoder_rows_make_and_fewer_than_are_fitted_are_refused() -> None:
    """5 features make 5 vectors and 10 pairs. Without a method that rests on effects the number is not looked at."""
    shipped = full_experiment("tiny-methods")
    values = shipped | {
        "saes": shipped["saes"] | {"n_features": 5},
        "methods": shipped["methods"] | {"methods": ["unsteered", "fgaa"]},
    }
    values["methods"]["effects"] |= {"n_vectors": 16, "n_held_out": 2}
    values["features"] = {"kind": "all"}
    with pytest.raises(SettingsError, match=r"effects.n_vectors is 16, but an SAE of 5 features has 15 single decoder rows and pairs"):
        experiment_of(values)
    values["methods"]["methods"] = ["unsteered", "diffmean"]
    assert experiment_of(values).methods.effects.n_vectors == 16
    with pytest.raises(ValidationError, match="effects.n_vectors is 9, but 8 vectors are held out and 2 at least fitted: set it to 10"):
        EffectSettings(n_vectors=9, n_held_out=8)
    EffectSettings(n_vectors=10, n_held_out=8)


@pytest.mark.parametrize("text", ["", "just words", "a: [1", "- a\n- b"])
def test_files_that_hold_no_keys_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"bad.yaml"):
        read_yaml(tmp_path / "bad.yaml")


@given(st.decimals(min_value=0, max_value=1000, places=3))
def test_canonical_factor_is_one_spelling_a_number(number) -> None:
    text = canonical_factor(number)
    assert canonical_factor(text) == text == canonical_factor(f"{number}00" if "." in str(number) else number)
    assert float(text) == float(number)
    assert "E" not in text


def test_every_shipped_experiment_loads() -> None:
    names = [path.stem for path in (CONFIG / "experiments").glob("*.yaml")]
    assert {"tiny", "micro"} <= set(names)
    for name in names:
        assert load_experiment(name, CONFIG / "experiments").description
    for file in ("config.yaml", "paper.yaml"):
        assert set(load_workflow(read_yaml(CONFIG / file)).experiments) <= set(names)


def test_generated_documents_are_in_step(tmp_path: Path) -> None:
    """What the command writes, it finds in step, and it is what is there. (What is not in step: test_cli_errors.py.)"""
    for arguments in ((), ("--check",)):
        assert CliRunner().invoke(app, ["config-docs", "--folder", str(tmp_path), *arguments]).exit_code == 0
    written = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    assert len(written) == 3
    assert {name: (CONFIG / name).read_text(encoding="utf-8") for name in written} == written, "run `saesteer config-docs`"


def test_every_key_is_described() -> None:
    undescribed = [row for row in config_docs.readme_text().splitlines() if row.startswith("| `") and row.endswith("|  |")]
    assert undescribed == []
    assert Workflow.model_json_schema()["additionalProperties"] is False


def test_the_documentations_examples_are_accepted(tmp_path: Path) -> None:
    """Sections; whole files are tried in test_docs.py."""
    pages = sorted((CONFIG.parent / "docs").glob("*.md"))
    blocks = [block for page in pages for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]
    sections = [values for values in map(yaml.safe_load, blocks) if {"saes", "judge"} & set(values) and "extends" not in values]
    assert len(sections) == 2
    shutil.copytree(CONFIG / "experiments", tmp_path, dirs_exist_ok=True)
    base = {"extends": "gemma-2-2b", "description": "of the docs"}
    for number, values in enumerate(sections):
        (tmp_path / f"docs-{number}.yaml").write_text(yaml.safe_dump(({} if "sweep" in values else base) | values))
        assert load_experiment(f"docs-{number}", tmp_path).max_activating_examples.kind in ("neuronpedia", "local")


def test_the_width_at_hook_z_is_that_of_the_heads() -> None:
    experiment = load_experiment("gemma-2-2b", CONFIG / "experiments")
    config = {"hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "head_dim": 256}
    check_model_config("own", experiment, config, "the model")
    heads = experiment.saes.model_copy(update={"hook_point": "hook_z", "d_model": 2048})
    check_model_config("own", experiment.model_copy(update={"saes": heads}), config, "the model")
    wide = experiment.model_copy(update={"saes": heads.model_copy(update={"d_model": 2304})})
    with pytest.raises(SettingsError, match="saes.d_model is 2304, but the model has 8 heads with together a width of 2048"):
        check_model_config("own", wide, config, "the model")
