"""No number stands beside a row that it was not measured on: for every pair of steps, two machines' parts side by side, and what a reader,
`gc` and a regrouping make of leftovers."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_machines import ROOT, Machine, experiment, fake_rows

from saesteer.core.store import MEASURED_ON, StoreError, WantedRows, complete, read_manifest, read_rows
from saesteer.core.tables import row_digests
from saesteer.run import Run
from saesteer.settings import EmbeddingJudge, EndpointJudge, Experiment, LabelledTexts, SettingsError, load_experiment
from saesteer.sources.concept_tables import COMPARED_CONCEPTS, CONCEPT_TEXTS, STEERING_PROMPTS
from saesteer.steps.effects import EFFECTS
from saesteer.steps.fits import FITS
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.perplexity import PERPLEXITY
from saesteer.steps.step import steps_of
from saesteer.workflow import outputs, plan

EMBEDDING = EmbeddingJudge(kind="embedding", model={"path": "embedder"})
ENDPOINT = EndpointJudge(kind="endpoint", base_url="http://localhost/v1", model="judge")


def small_comparison() -> Experiment:
    """A comparison of a label's feature, a vector from effects and prompts that a language model writes, with texts of one's own."""
    chosen = experiment("micro-methods")
    own = LabelledTexts(kind="texts", texts=ROOT / "data/public/smollm2-135m/labelled.parquet", names=("the sea", "war"))
    changes = {"methods": ("unsteered", "prompting", "sae_ts"), "prompt_writer": ENDPOINT, "n_prompts": 2, "concepts": own}
    compared = chosen.methods.model_copy(update=changes)
    return chosen.model_copy(update={"methods": compared})


OTHER_JUDGE = "micro, judged by a language model"
EXPERIMENTS = {
    "micro": functools.partial(experiment, "micro"),
    OTHER_JUDGE: functools.partial(experiment, "micro", judge=ENDPOINT),
    "comparison": small_comparison,
}


WRITTEN = {table.name: table for table in (CONCEPT_TEXTS, STEERING_PROMPTS)}


def pairs() -> list[Any]:
    """Every step with each earlier one whose rows it reads; of the second judge, what it reads."""
    return [
        pytest.param(name, earlier, later, id=f"{name}: {earlier} -> {later}")
        for name, steps in {name: steps_of(made()) for name, made in EXPERIMENTS.items()}.items()
        for later, planned in steps.items()
        if later == "judge" or name != OTHER_JUDGE
        for earlier in (*planned.inputs, *(table.name for table in planned.written))
        if earlier in steps or earlier in WRITTEN
    ]


def test_fits_are_measured_on_training_texts_that_other_concepts_decide() -> None:
    """Of texts of one's own the other named concepts' are negative ones; a topic's texts do not depend on the others asked for."""
    assert CONCEPT_TEXTS in steps_of(small_comparison())["fits"].written
    assert steps_of(experiment("micro-methods"))["fits"].written == ()


def test_fits_are_measured_on_the_labels_of_published_concepts() -> None:
    """Which depend on the name of the SAE, as one and the same has several on the hub."""
    published = load_experiment("gemma-2-2b-it-methods", ROOT / "config/experiments")
    assert COMPARED_CONCEPTS in steps_of(published)["fits"].written


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def machine(folder: Path, name: str, of: str) -> Machine:
    return Machine(folder / name, EXPERIMENTS[of](), name)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives the data folder in which a machine has computed an experiment: tests change copies of it only."""

    @functools.cache
    def folder(of: str) -> Path:
        here = machine(tmp_path_factory.mktemp("computed"), "ours", of)
        here.run()
        return here.folder

    return folder


@pytest.mark.parametrize(("of", "earlier", "later"), pairs())
def test_other_rows_of_an_earlier_step_make_the_later_step_s_rows_missing(
    tmp_path: Path, computed: Callable[[str], Path], of: str, earlier: str, later: str
) -> None:
    shutil.copytree(computed(of), tmp_path / "ours")
    here = machine(tmp_path, "ours", of)
    assert here.n_missing(later) == 0
    rows = read_rows(here.steps[later].table, [here.manifest(later)], here.layers)
    n_rows = n_depending = rows.height
    if earlier in here.steps[later].reads:
        n_depending = rows.filter(pl.col("method").is_in(here.steps[later].reads[earlier])).height
    if earlier in WRITTEN:
        here.written(WRITTEN[earlier]).unlink()
        here.name = "theirs"
        here.written(WRITTEN[earlier])
    else:
        for part in (here.folder / earlier).glob("*/layer_*/*.parquet"):
            part.unlink()
        here.name = "theirs"
        here.run((earlier,))
        with pytest.raises(StoreError, match="was measured on other rows than"):
            read_rows(here.steps[later].table, [here.manifest(later)])
    assert here.n_missing(later) in (n_depending, None), "None: another step that it reads has to be computed again first"
    names = [*here.steps]
    first = names.index(earlier) if earlier in names else 0
    here.run(tuple(names[first : names.index(later) + 1]))
    assert here.n_missing(later) == 0
    assert read_rows(here.steps[later].table, [here.manifest(later)]).height == n_rows


def test_a_method_with_another_input_leaves_the_other_methods_rows_valid(tmp_path: Path, computed: Callable[[str], Path]) -> None:
    """SAE-TS reads effects of steering, which the others' fits do not depend on: without it, and with the effects of more vectors."""
    shutil.copytree(computed("comparison"), tmp_path / "ours")
    compared = small_comparison().methods
    more = compared.effects.model_copy(update={"n_vectors": 60})
    for changes, n_fits in (({"methods": compared.methods[:-1]}, 0), ({"effects": more}, len(compared.concepts.names))):
        here = Machine(tmp_path / "ours", small_comparison().model_copy(update={"methods": compared.model_copy(update=changes)}), "ours")
        here.run()
        assert (here.computed["fits"], here.computed["generations"]) == (n_fits, 0)


@pytest.mark.parametrize("of", EXPERIMENTS)
def test_two_machines_parts_side_by_side(tmp_path: Path, of: str) -> None:
    ours, theirs = machine(tmp_path, "ours", of), machine(tmp_path, "theirs", of)
    for each in (ours, theirs):
        each.run()
    for here, other in ((ours, theirs), (theirs, ours)):
        here.take_parts(other, *here.steps)
        here.run()
        assert here.computed["generations"] == here.computed["perplexity"] == 0
        assert_measured_on_what_is_served(here)


def assert_measured_on_what_is_served(here: Machine) -> None:
    """Each served row of perplexity carries the digest of the text that is served."""
    texts = read_rows(GENERATIONS, [here.manifest("generations")])
    digests = row_digests(GENERATIONS, texts, GENERATIONS.keys)
    for layer, entry in read_manifest(here.manifest("perplexity"))["layers"].items():
        for part in entry["parts"]:
            held = pl.read_parquet(here.folder / "perplexity" / part["path"]).with_row_index()
            rows = pl.concat([held.slice(start, end - start) for start, end in part["rows"]])
            both = rows.join(digests.filter(layer=int(layer)), on=GENERATIONS.keys)
            assert both.height == rows.height
            assert (both[MEASURED_ON] == "generations:" + both["digest"]).all()


def test_only_rows_that_wanted_rows_are_measured_on_are_digested(tmp_path: Path) -> None:
    """Of examples of all of an SAE's features, which take long, those of the experiment's features."""
    micro = experiment("micro")
    every = micro.max_activating_examples.model_copy(update={"every_feature": True})
    here = Machine(tmp_path / "ours", micro.model_copy(update={"max_activating_examples": every}), "ours")
    here.run(("activations", "max_activating_examples"))
    here.write_inputs("concepts")
    (wanted,) = plan.wanted_rows(here.opened, "concepts", here.layers[:1])
    assert wanted.upstream is not None
    features = wanted.upstream.digests[0]["feature"]
    assert {*features} == {*micro.features.features[here.layers[0]]}
    assert here.opened.rows(MAX_ACTIVATING_EXAMPLES, here.layers[:1]).height > len(features)


def test_one_layer_s_texts_made_again_elsewhere(tmp_path: Path) -> None:
    here = machine(tmp_path, "ours", "micro")
    here.run()
    part = next((here.folder / "generations").glob("*/layer_06/*.parquet"))
    n_texts = pl.read_parquet(part).height
    part.write_bytes(part.read_bytes()[:-9])
    here.name = "theirs"
    assert here.run() == dict.fromkeys(("generations", "gen_success", "perplexity", "judge"), n_texts)
    assert_measured_on_what_is_served(here)


def test_wall_times_are_no_part_of_what_is_measured_on_a_row(tmp_path: Path) -> None:
    keys = pl.DataFrame({"layer": [1], "method": ["m"], "concept_id": ["c"]}, schema=FITS.key_schema)
    fit = fake_rows(FITS, keys, "ours")
    slower, other = fit.with_columns(fit_seconds=pl.lit(99.0)), fit.with_columns(tensors=pl.lit(b"other"))
    digest = row_digests(FITS, fit, FITS.keys)
    assert digest.equals(row_digests(FITS, slower, FITS.keys))
    assert not digest.equals(row_digests(FITS, other, FITS.keys))


@pytest.mark.parametrize(
    ("one", "other"),
    [([["ab", "c"]], [["a", "bc"]]), ([[]], [None]), ([[""]], [[]]), ([["a"], []], [[], ["a"]])],
)
def test_rows_that_differ_in_where_values_end_have_other_digests(one: list[Any], other: list[Any]) -> None:
    def digests(contexts: list[Any]) -> list[str]:
        keys = pl.DataFrame(
            {"layer": [0] * len(contexts), "feature": list(range(len(contexts)))}, schema=MAX_ACTIVATING_EXAMPLES.key_schema
        )
        rows = fake_rows(MAX_ACTIVATING_EXAMPLES, keys, "x").with_columns(explanations=pl.Series(contexts, dtype=pl.List(pl.String)))
        return row_digests(MAX_ACTIVATING_EXAMPLES, rows, MAX_ACTIVATING_EXAMPLES.keys)["digest"].to_list()

    assert digests(one) != digests(other)


def test_a_digest_does_not_depend_on_other_rows_or_their_order(tmp_path: Path) -> None:
    keys = pl.DataFrame({"layer": [0, 0, 0], "vector": [2, 0, 1]}, schema=EFFECTS.key_schema)
    rows = fake_rows(EFFECTS, keys, "x").with_columns(effect=pl.Series([[1.0, 2.0], [], [3.0]], dtype=pl.List(pl.Float32)))
    together = row_digests(EFFECTS, rows, EFFECTS.keys).sort("vector")
    apart = pl.concat([row_digests(EFFECTS, row, EFFECTS.keys) for row in rows.iter_slices(1)]).sort("vector")
    assert together.equals(apart)
    assert together["digest"].n_unique() == 3


def test_the_digest_of_a_row_is_the_same_in_every_version() -> None:
    """It stands in the parts of everybody's results: a change of it computes everything again."""
    keys = pl.DataFrame({"layer": [3], "method": ["feature"], "target": ["7"], "factor": ["2"], "prefix_id": ["p"], "sample": [0]})
    rows = fake_rows(GENERATIONS, keys.cast(GENERATIONS.key_schema), "x").with_columns(
        token_ids=pl.Series([[5, 258]], dtype=pl.List(pl.UInt32))
    )
    assert row_digests(GENERATIONS, rows, GENERATIONS.keys)["digest"].to_list() == ["6bc4f233fe280b451fad51a6f01ef360"]


@pytest.mark.parametrize(
    ("entry", "part", "message"),
    [
        pytest.param({"rows": 99}, {}, "layer 2 should have 99 rows", id="count"),
        pytest.param({}, {"rows": [[0, 2], [1, 3]]}, "layer 2 should have", id="key twice"),
        pytest.param({}, {"path": "../../secret.parquet"}, "not below its folder", id="above"),
        pytest.param({}, {"path": "/etc/secret.parquet"}, "not below its folder", id="absolute"),
        pytest.param({}, {"rows": None}, "written by an earlier version: run the workflow again", id="earlier version"),
    ],
)
def test_a_manifest_that_does_not_fit_its_parts_is_refused(
    tmp_path: Path, entry: dict[str, Any], part: dict[str, Any], message: str
) -> None:
    here = machine(tmp_path, "ours", "micro")
    here.run(("activations", "max_activating_examples"))
    here.write_inputs("concepts")
    manifest = read_manifest(here.manifest("max_activating_examples"))
    of_layer = manifest["layers"]["2"]
    of_layer |= entry
    of_layer["parts"][0] = {name: value for name, value in (of_layer["parts"][0] | part).items() if value is not None}
    here.manifest("max_activating_examples").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=message):
        read_rows(MAX_ACTIVATING_EXAMPLES, [here.manifest("max_activating_examples")])


def test_manifests_of_another_grouping_are_not_read(tmp_path: Path) -> None:
    here = machine(tmp_path, "ours", "micro")
    here.run(("activations", "max_activating_examples"))
    here.write_inputs("concepts")
    fewer = here.experiment.features.model_copy(update={"features": {2: (3, 141, 592), 6: (27, 182, 818, 284)}})
    regrouped = here.experiment.model_copy(update={"layers_per_job": 1, "features": fewer})
    run = Run(here.opened.workflow, here.opened.name, regrouped)
    entries = read_manifest(here.manifest("activations"))["layers"]
    for group, layers in regrouped.layer_groups.items():
        of_group = {str(layer): entries[str(layer)] for layer in layers}
        (here.folder / f"activations/{group}.json").write_text(json.dumps({"step": "activations", "layers": of_group}))
        complete(
            here.folder / "max_activating_examples",
            MAX_ACTIVATING_EXAMPLES,
            plan.wanted_rows(run, "max_activating_examples", layers),
            lambda missing: [],
            here.folder / f"max_activating_examples/{group}.json",
        )
    assert here.manifest("max_activating_examples").is_file()
    rows = run.rows(MAX_ACTIVATING_EXAMPLES)
    assert rows.select("layer", "feature").rows() == [(2, 3), (2, 141), (2, 592), (6, 27), (6, 182), (6, 284), (6, 818)]


def test_gc_lists_what_no_planned_manifest_names_and_refuses_while_one_is_missing(tmp_path: Path) -> None:
    here = machine(tmp_path, "ours", "micro")
    here.run()
    assert outputs.unneeded_files(here.opened) == []
    before = set(here.folder.glob("generations/*/layer_*/*.parquet"))
    tried = here.manifest("generations").read_bytes()
    here.experiment = here.experiment.model_copy(update={"sweep": here.experiment.sweep.model_copy(update={"temperature": 0.9})})
    here.run()
    unneeded = outputs.unneeded_files(here.opened)
    assert before < set(unneeded)
    assert {path.relative_to(here.folder).parts[0] for path in unneeded} == {"generations", "gen_success", "perplexity", "judge"}
    (here.folder / "generations/tried_layers_02-06.json").write_bytes(tried)
    assert not before & set(outputs.unneeded_files(here.opened)), "what was tried, and may have been paid for, stays"
    here.manifest("generations").unlink()
    with pytest.raises(SettingsError, match=r"generations/layers_02-06\.json is missing"):
        outputs.unneeded_files(here.opened)


def test_a_part_examples_what_it_was_made_with_and_the_manifest_says_so(tmp_path: Path) -> None:
    here = machine(tmp_path, "2.13.0", "micro")
    here.run(("activations",))
    next((here.folder / "activations").glob("*/layer_06/*.parquet")).unlink()
    here.name = "2.14.0"
    here.run(("activations",))
    layers: Mapping[str, Any] = read_manifest(here.manifest("activations"))["layers"]
    assert {layer: entry["made_with"] for layer, entry in layers.items()} == {"2": [{"torch": "2.13.0"}], "6": [{"torch": "2.14.0"}]}


def test_a_row_whose_earlier_row_is_missing_is_an_error(tmp_path: Path) -> None:
    here = machine(tmp_path, "ours", "micro")
    here.run()
    (want,) = plan.wanted_rows(here.opened, "perplexity", (2,))
    axes = [pl.concat([axis, axis[:1].with_columns(target=pl.lit("999"))]) if "target" in axis.columns else axis for axis in want.axes]
    more = WantedRows(2, axes, want.fingerprint, want.upstream)
    with pytest.raises(StoreError, match="of what an earlier step should have computed, a row is missing for .*999"):
        complete(here.folder / "perplexity", PERPLEXITY, [more], lambda missing: [], tmp_path / "m.json")


@pytest.mark.parametrize(("judge", "first_are_due"), [(EMBEDDING, True), (ENDPOINT, False)], ids=["embedding", "endpoint"])
def test_ratings_are_due_when_the_unsteered_texts_beside_them_change(tmp_path: Path, judge: Any, first_are_due: bool) -> None:
    """More prompts are more unsteered texts, with which a judge of kind embedding compares each text."""
    sweep = experiment("micro").sweep
    one = Machine(tmp_path / "a", experiment("micro", judge=judge, sweep=sweep.model_copy(update={"n_prefixes": 2})), "a")
    rated = one.run()["judge"]
    more = Machine(tmp_path / "a", experiment("micro", judge=judge), "a")
    assert more.run()["judge"] == (2 if first_are_due else 1) * rated
    assert more.run() == {}
