"""The pilot of a sweep: each feature's pilot factor against plain forwards with a hook, the keys that its rows decide, and a whole run."""

import json
import math
import shutil
import signal
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import model_and_sae, prompt_of
from fake_machines import Machine, experiment
from job_inputs import summaries_from_their_inputs
from oracles import inner_hook_points
from oracles.plain_hooks import code_of, greedy, residuals, token_losses
from test_damage import ordinary
from workflow_folder import ROOT, Folder, new_rows

from saesteer.analysis.pilot_grid import by_multiple, grid
from saesteer.core.store import StoreError
from saesteer.core.tables import validate
from saesteer.core.texts import SINGLE_FEATURE
from saesteer.engine.damage import N_CONTEXT
from saesteer.engine.loss_rise import loss_rises
from saesteer.engine.models import prompt_token_ids
from saesteer.engine.pilot import _layer, pilot_factors
from saesteer.recommendations.candidates import candidates_sweep, usual_factors
from saesteer.settings import Experiment, SettingsError, experiment_of
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.pilot import PILOT
from saesteer.summaries.features import described_features
from saesteer.workflow import plan

FACTORS = ("0", "0.25", "0.5", "1")


@torch.no_grad()
def slow_rise(lm: Any, sae: Any, feature: int, factor: float, texts: list[list[int]]) -> tuple[float, float]:
    """(mean loss under steering, mean norm of what is added over that of the residual), one text at a time: factor * a_max of each position
    * decoder row, from the last of the first `N_CONTEXT` tokens on."""
    layer, hook_point = sae.meta.layer, sae.meta.hook_point
    losses, shares = [], []
    for ids in texts:
        read = residuals(lm.model, ids, layer, hook_point) if hook_point.startswith("resid_p") else None

        def added(seen: torch.Tensor) -> torch.Tensor:
            rows = torch.zeros_like(seen[0])
            for place in range(N_CONTEXT - 1, len(rows)):
                rows[place] = factor * float(code_of(sae, seen[0, place]).max()) * sae.W_dec[feature]
            return rows[None]

        with inner_hook_points.hooked(lm.model, layer, hook_point, added):
            losses += token_losses(lm.model, ids, N_CONTEXT).tolist()
        if read is not None:
            norms = (added(read[None])[0].norm(dim=1) / read.norm(dim=1))[N_CONTEXT - 1 : -1]
            shares += norms.tolist()
    return float(np.mean(losses)), float(np.mean(shares)) if shares else math.nan


def texts_for(family: str, lm: Any) -> list[list[int]]:
    """Of a random model, which knows no other, texts that it writes itself: their loss rises when it is steered."""
    if family == "shipped":
        return ordinary(3)
    whole = prompt_token_ids(lm, prompt_of(family))
    texts = [whole, whole[:3], whole[:5]]
    for number, ids in enumerate(texts):
        ids += greedy(lm.model, ids, 14 - 2 * number)
    return texts


@pytest.mark.parametrize(
    ("family", "layer", "hook_point", "target"),
    [("shipped", 3, "resid_post", 1.0), ("shipped", 6, "resid_post", 0.4), ("gpt2", 1, "resid_pre", 1.0), ("gemma2", 1, "mlp_out", 1.0)],
)
def test_the_loss_has_risen_by_the_target_where_the_range_was_halved_by_hand(
    family: str, layer: int, hook_point: str, target: float
) -> None:
    lm, sae = model_and_sae(family, layer, hook_point)
    sae = replace(sae, W_dec=sae.W_dec * torch.linspace(1, 3, sae.meta.n_features)[:, None])
    texts, features = texts_for(family, lm), [7, 40]
    made = validate(PILOT, PILOT.of(pl.concat(pilot_factors(lm, sae, features, texts, target))), "pilot")
    unsteered, _ = slow_rise(lm, sae, 0, 0.0, texts)
    of_layer = _layer(lm, sae, texts, target)
    rises = loss_rises(lm, of_layer.hook_point, 0.5 * sae.W_dec[features], of_layer.texts)
    slow = [slow_rise(lm, sae, feature, 0.5, texts)[0] - unsteered for feature in features]
    assert rises.tolist() == pytest.approx(slow, abs=1e-5)
    for feature, factor, share, beyond in made.select("feature", "factor", "norm_share", "beyond").iter_rows():
        assert beyond is None
        low, high = math.log(float(factor) / 2), math.log(float(factor) * 2)
        for _ in range(8):
            middle = (low + high) / 2
            less = slow_rise(lm, sae, feature, math.exp(middle), texts)[0] - unsteered < target
            low, high = (middle, high) if less else (low, middle)
        assert float(factor) == pytest.approx(math.exp(low), rel=0.07)
        assert len(Decimal(factor).normalize().as_tuple().digits) <= 3
        if not math.isnan(expected := slow_rise(lm, sae, feature, float(factor), texts)[1]):
            assert share == pytest.approx(expected, rel=1e-4)
    assert made["factor"].n_unique() == 2


def test_beyond_the_range_its_end_is_the_factor_and_that_is_said() -> None:
    lm, sae = model_and_sae("shipped", 3)
    low, high = (pl.concat(pilot_factors(lm, sae, [7], ordinary(3), target)).row(0, named=True) for target in (-1e6, 1e6))
    assert (low["beyond"], high["beyond"]) == ("smallest", "largest")
    assert low["norm_share"] == pytest.approx(2**-9 / 8, rel=0.5)  # of a layer whose rows all lie beyond its own range
    assert high["norm_share"] == pytest.approx(2**3 * 8, rel=0.5)


def test_what_adds_nothing_is_refused_by_name() -> None:
    lm, sae = model_and_sae("shipped", 3)
    without_row = replace(sae, W_dec=sae.W_dec * (torch.arange(sae.meta.n_features) != 9)[:, None])
    with pytest.raises(ValueError, match="feature 3/9 has a decoder row of zeros"):
        list(pilot_factors(lm, without_row, [7, 9], ordinary(3), 1.0))
    with pytest.raises(ValueError, match="no feature of the SAE of layer 3 is active in the ordinary texts"):
        list(pilot_factors(lm, replace(sae, threshold=sae.threshold + 1e9), [7], ordinary(3), 1.0))


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"edit": "projection"}, "pilot: it finds the factors of the edit addition, not of projection: set pilot to null"),
        ({"factors": [0, 1, 1.01]}, r"factors: 1 and 1.01 can be one once each is multiplied by a pilot factor and rounded"),
        ({"factors": [0, 1, -1, -1.01]}, r"factors: -1 and -1.01 can be one"),
        ({"pilot": {"loss_rise": 0}}, "sweep.pilot.loss_rise"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sweep: dict[str, Any], message: str) -> None:
    values = experiment("micro").model_dump(mode="json") | {"extends": None}
    with pytest.raises(SettingsError, match=message):
        experiment_of(values | {"sweep": values["sweep"] | {"pilot": {}} | sweep})


def test_factors_of_a_recommendation_are_apart_too() -> None:
    values = experiment("micro").model_dump(mode="json") | {"extends": None, "recommendation": {"factors": [0, 1, 1.01]}}
    with pytest.raises(SettingsError, match=r"recommendation\.factors: 1 and 1\.01 can be one"):
        experiment_of(values | {"sweep": values["sweep"] | {"pilot": {}}})
    assert experiment_of(values).recommendation.factors == ("0", "1", "1.01")


def test_a_pilot_needs_texts_and_without_one_an_experiment_says_nothing_of_it() -> None:
    values = experiment("micro").model_dump(mode="json") | {"extends": None, "concepts": {"kind": "none"}, "judge": {"kind": "none"}}
    values |= {"max_activating_examples": {"kind": "neuronpedia", "source": "{layer}-s"}}
    assert "pilot" not in values["sweep"]
    with pytest.raises(SettingsError, match=r"sweep\.pilot reads the texts of max-activating examples of kind local"):
        experiment_of(values | {"sweep": values["sweep"] | {"pilot": {}}})


def with_pilot(features: dict[int, tuple[int, ...]], **changes: Any) -> Experiment:
    micro = experiment("micro", **changes)
    values = micro.model_dump(mode="json")["sweep"] | {"pilot": {}, "factors": FACTORS}
    of_features = micro.features.model_copy(update={"features": features})
    return micro.model_copy(update={"sweep": type(micro.sweep).model_validate(values), "features": of_features})


def pilot_rows(**factors: str) -> pl.DataFrame:
    rows = [(2, int(feature.removeprefix("f")), factor, 0.5, None) for feature, factor in factors.items()]
    return pl.DataFrame(rows, schema=PILOT.schema, orient="row")


def test_a_grid_by_hand() -> None:
    of_grid = grid(pilot_rows(f3="1.37", f4="0.0333"), ("0", "-0.5", "1.25"))
    assert of_grid.rows() == [
        (2, 3, "0", "0", 0.0),
        (2, 3, "-0.5", "-0.685", pytest.approx(0.25)),
        (2, 3, "1.25", "1.71", pytest.approx(0.5 * 1.71 / 1.37)),
        (2, 4, "0", "0", 0.0),
        (2, 4, "-0.5", "-0.0166", pytest.approx(0.5 * 0.0166 / 0.0333)),
        (2, 4, "1.25", "0.0416", pytest.approx(0.5 * 0.0416 / 0.0333)),
    ]
    rows = pl.DataFrame({"layer": [2, 2], "feature": [4, 3], "factor": ["0.0416", "0"]}, schema_overrides=PILOT.key_schema)
    assert by_multiple(rows, of_grid)["factor"].to_list() == ["1.25", "0"]


def test_each_features_factors_are_wanted_by_one_job_and_a_feature_more_adds_its_rows(tmp_path: Path) -> None:
    """Also in jobs of three features of a layer; `Machine` gives every feature the same pilot factor."""
    few, more = {2: (3, 141, 592, 653), 6: (27,)}, {2: (3, 100, 141, 592, 653), 6: (27,)}
    here = Machine(tmp_path / "micro", with_pilot(few, features_per_job=3), "ours")
    assert plan.n_missing(here.opened.of_job("layers_02-06_features_00000")[0], "generations", (2, 6)) is None
    assert here.run()["pilot"] == 5
    (factor,) = here.opened.rows(PILOT)["factor"].unique()
    written = here.opened.rows(GENERATIONS)
    assert set(written["factor"].cast(pl.Float64)) == {float(multiple) * float(factor) for multiple in FACTORS}
    assert (written.height, set(written["method"])) == (5 * 4 * 4, {SINGLE_FEATURE})
    grown = Machine(tmp_path / "micro", with_pilot(more, features_per_job=3), "ours")
    steps = {step: 16 if "prefix_id" in planned.table.keys else 1 for step, planned in grown.steps.items() if step != "activations"}
    assert plan.n_missing(grown.opened.of_job("layers_02-06_features_00000")[0], "generations", (2, 6)) is None, (
        "no pilot factor is there yet"
    )
    assert grown.run() == steps
    assert Machine(tmp_path / "micro", with_pilot(few, features_per_job=None), "ours").run() == {}


def test_the_table_of_features_does_not_wait_for_the_pilot(tmp_path: Path) -> None:
    here = Machine(tmp_path / "micro", with_pilot({2: (3, 141)}), "ours")
    here.run()
    made = described_features(here.opened, here.opened.layers)
    shutil.rmtree(here.folder / "pilot")
    assert made["features"].height == 2
    assert described_features(here.opened, here.opened.layers)["features"].equals(made["features"])


def test_texts_at_other_pilot_factors_are_refused(tmp_path: Path) -> None:
    """After a pull of a colleague's pilot, whose factors are other ones."""
    of = with_pilot({2: (3,), 6: (27,)})
    ours, theirs = Machine(tmp_path / "a/micro", of, "ours"), Machine(tmp_path / "b/micro", of, "theirs")
    ours.run()
    theirs.run(tuple(step for step in theirs.steps if step in ("activations", "pilot")))
    assert ours.opened.rows(PILOT)["factor"].to_list() != theirs.opened.rows(PILOT)["factor"].to_list()
    for path in (theirs.folder / "pilot").rglob("*.*"):
        target = ours.folder / path.relative_to(theirs.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with pytest.raises(StoreError, match="was measured on other rows than .*pilot/layers_02-06.json names now: run the workflow again"):
        ours.opened.rows(GENERATIONS)


def test_where_features_have_no_factors_of_their_own_the_median_pilot_factor_counts(tmp_path: Path) -> None:
    here = Machine(tmp_path / "micro", with_pilot({2: (3, 141), 6: (27,)}), "ours")
    here.run(("activations", "pilot"))
    (factor,) = here.opened.rows(PILOT)["factor"].unique()
    assert usual_factors(here.opened, ["0", "-0.5"]) == ["0", f"-{float(factor) / 2:g}"]
    assert usual_factors(Machine(tmp_path / "micro", experiment("micro"), "ours").opened, ["0", "-0.5"]) == ["0", "-0.5"]
    assert candidates_sweep(here.opened) == {}
    settings = here.opened.sweep.recommendation.model_copy(update={"factors": ("0", "0.5")})
    of_few = replace(here.opened, experiment=here.opened.sweep.model_copy(update={"recommendation": settings}))
    assert candidates_sweep(of_few) == {"pilot": None, "factors": ["0", f"{float(factor) / 2:g}"]}
    # One that is no sweep has no pilot: each candidate has its own.
    for name in ("tiny-all", "tiny-methods"):
        assert candidates_sweep(replace(of_few, name=name)) == {"factors": ["0", "0.5"]}


@pytest.fixture(scope="module")
def run_with_pilot(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A sweep of three features of one layer, whose job of the pilot was killed after its first row, and which then ran to its end."""
    folder = Folder(tmp_path_factory.mktemp("pilot") / "run")
    few = pl.read_parquet(ROOT / "data/world/texts.parquet").head(160)
    few.write_parquet(folder.path / "few.parquet")
    folder.edit(
        "piloted",
        extends="micro",
        description="Of few features and texts",
        layers=[2],
        features={"kind": "explicit", "features": {2: [3, 141, 592]}},
        max_activating_examples={"kind": "local", "texts": "few.parquet"},
        sweep={"factors": [0, 0.2, 0.4, 0.8], "pilot": {"n_texts": 4}},
        selection={"late_layers_from": 2},
    )
    first = (f"data/piloted/{file}.json" for file in ("saes/layers_02-02", "pins/model", "pins/texts"))
    code, output = folder.run(*first, experiment="piloted")
    assert code == 0, output
    killed = folder.call("python", "-c", KILLED)
    assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), killed.stderr
    code, output = folder.run(experiment="piloted")
    assert code == 0, output
    return folder


KILLED = """
import os, signal
from pathlib import Path
from saesteer.engine import pilot
from saesteer.run import open_run
from saesteer.settings.load import load_workflow, read_yaml
from saesteer.steps.pilot import compute
from saesteer.workflow.plan import complete_manifest
pilot.VECTORS_AT_A_TIME = 1
values = read_yaml(Path("config/config.yaml")) | {"experiments": ["piloted"], "part_seconds": 0}
run = open_run("piloted", load_workflow(values))
def killed(missing):
    for number, frame in enumerate(compute(run, missing)):
        if number:
            os.kill(os.getpid(), signal.SIGKILL)
        yield frame
complete_manifest(run, run.manifests("pilot")[0], [2], killed)
"""
"""A job of the pilot that is killed while its second row is computed."""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_feature_has_its_own_factors_and_a_killed_job_lost_nothing(run_with_pilot: Folder) -> None:
    parts = sorted((run_with_pilot.path / "data/piloted/pilot").glob("*/layer_02/*.parquet"), key=lambda path: path.stat().st_mtime)
    assert [pl.read_parquet(part).height for part in parts] == [1, 2], "the row before the kill was computed again, or lost"
    pilot, texts = run_with_pilot.table("pilot", "piloted"), run_with_pilot.table("generations", "piloted")
    expected = {(feature, factor) for _, feature, _, factor, _ in grid(pilot, ("0", "0.2", "0.4", "0.8")).iter_rows()}
    assert set(texts.select("feature", "factor").iter_rows()) == expected
    assert pilot["factor"].n_unique() == 3


@pytest.mark.slow
@pytest.mark.exhaustive
def test_what_compares_features_goes_by_multiples_and_says_so(run_with_pilot: Folder) -> None:
    folder = run_with_pilot.path
    drawn = pl.read_csv(folder / "figures/piloted/by_factor.csv")
    assert set(drawn["multiple"]) == {0, 0.2, 0.4, 0.8}
    assert drawn.group_by("output_score_low").len()["len"].to_list() == [4] * drawn["output_score_low"].n_unique()
    assert (folder / "figures/piloted/overview.png").is_file()
    metrics = json.loads((folder / "data/piloted/metrics.json").read_text())["choices"]
    best, strengths = (pl.read_parquet(folder / f"data/piloted/tables/{name}.parquet") for name in ("best_factors", "chosen_strengths"))
    pilot = run_with_pilot.table("pilot", "piloted").select("feature", pilot_factor="factor", pilot_share="norm_share")
    for rule, choices in metrics.items():
        of_rule, chosen = best.filter(rule=rule), strengths.filter(rule=rule).drop_nulls("factor").join(pilot, on="feature")
        made = of_rule.drop_nulls("factor")
        assert (choices["n"], choices["n_failed"]) == (6, 6 - made.height)
        assert choices["n_at_grid_end"] == chosen["multiple"].is_in(["0.2", "0.8"]).sum()
        shares = chosen["factor"].cast(float) / chosen["pilot_factor"].cast(float) * chosen["pilot_share"]
        assert chosen["norm_share"].to_list() == pytest.approx(shares.to_list())
        assert choices["norm_share"]["median"] == pytest.approx(shares.median())
    (row,) = [line for line in (folder / "figures/piloted/headline.md").read_text().splitlines() if "end of the grid" in line]
    assert f"{metrics['p1']['n_failed']} more failed, norm share {metrics['p1']['norm_share']['median']:.2f} (quartiles" in row


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_summary_reads_what_its_job_names(run_with_pilot: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "chosen_strengths" in summaries_from_their_inputs(run_with_pilot, "piloted", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_finished_run_is_idle_and_another_feature_adds_its_rows_only(run_with_pilot: Folder) -> None:
    code, output = run_with_pilot.run(experiment="piloted")
    assert (code, "Nothing to be done" in output) == (0, True), output
    steps = ("pilot", "generations", "gen_success", "perplexity", "judge")
    before = run_with_pilot.parts("piloted", steps)
    run_with_pilot.edit("piloted", features={"kind": "explicit", "features": {2: [3, 141, 592, 653]}})
    targets = [f"data/piloted/{step}/layers_02-02.json" for step in steps]
    code, output = run_with_pilot.run(*targets, experiment="piloted")
    assert code == 0, output
    added = new_rows(before, run_with_pilot.parts("piloted", steps))
    assert {step: rows.height for step, rows in added.items()} == {"pilot": 1} | dict.fromkeys(steps[1:], 16)
    assert {feature for rows in added.values() for feature in rows["feature"]} == {653}
