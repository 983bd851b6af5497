"""What is sent to Neuronpedia: in its forms, nothing twice, and exactly what a dry run printed."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from neuronpedia_server import KEY, QUICK, SOURCE, Neuronpedia, an_example, cut, page, serving, status, table
from report_folders import write_step
from synthetic_tables import synthetic_features
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.files import text_id
from saesteer.core.tables import write_summary
from saesteer.engine.interventions import Addition, packed
from saesteer.exchange.neuronpedia import uploads_of
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import Experiment, SettingsError, load_experiment, load_workflow
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.sources.http import FetchError
from saesteer.sources.neuronpedia.upload import Upload, send_all
from saesteer.steps.activations import ACTIVATIONS
from saesteer.steps.features import FEATURES
from saesteer.steps.fits import FITS
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

ROOT = Path(__file__).parents[1]
LIST, BATCH, VECTOR = "/api/list/new-with-features", "/api/feature/upload-batch", "/api/vector/new"
LAYERS = (2, 6)
N = 130  # features a layer with max-activating examples
OWN = "world/{layer}-res"
CONTEXT = ["<s>", "▁b", "▁c", "▁d"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Neuronpedia]:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    with serving(tmp_path / "bucket") as server:
        yield server


def experiment(name: str = "micro") -> Experiment:
    return load_experiment(name, ROOT / "config/experiments")


def run_of(data: Path, changed: Experiment | None = None, name: str = "micro") -> Run:
    """An experiment, or micro, whose tables lie in a folder of data."""
    workflow = load_workflow({"experiments": [name]}).model_copy(update={"data_dir": data})
    return Run(workflow, name, changed or experiment())


def features() -> pl.DataFrame:
    """FEATURES rows of two layers; the last of each has no max-activating examples."""
    frame = synthetic_features(2, N + 1).sort("layer", "feature")
    numbers = pl.Series([*range(N + 1)] * 2, dtype=pl.UInt32)
    return frame.with_columns(layer=pl.col("layer").replace({0: 2, 1: 6}), feature=numbers, density=pl.lit(0.25))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Tables of a finished experiment, micro: each feature's example is of the text that its number names."""
    folder = tmp_path / "data/micro"
    write_summary(FEATURES, features(), folder / "tables/features.parquet")
    codes = [(layer, f"t{n}", 4, 3, [1, 3], [n, n], [0.5, 2.5]) for layer in LAYERS for n in range(N)]
    write_step(folder, ACTIVATIONS, pl.DataFrame(codes, schema=ACTIVATIONS.schema, orient="row"))
    texts = {n: [an_example(f"t{n}", 2.5, CONTEXT, 3)] if n < N else [] for n in range(N + 1)}
    write_step(folder, MAX_ACTIVATING_EXAMPLES, pl.concat(table(texts, layer) for layer in LAYERS))
    lens = [(layer, n, [7, 8], ["▁sea", "▁ship"], [3.5, 1.25], [9], ["▁chess"], [-2.5]) for layer in LAYERS for n in range(N + 1)]
    write_step(folder, LOGIT_LENS, pl.DataFrame(lens, schema=LOGIT_LENS.schema, orient="row"))
    return tmp_path / "data"


def sent(site: Neuronpedia, uploads: Sequence[Upload], folder: Path) -> list[bool]:
    """Whether each was sent by an earlier run."""
    return [one.before for one in send_all(site.address, uploads, folder / "sent", QUICK)]


def posts(site: Neuronpedia) -> int:
    return sum(site.requests.values())


def test_the_kept_features_are_a_list_with_their_scores(site: Neuronpedia, data: Path) -> None:
    uploads = uploads_of("list", run_of(data), OWN, None)
    assert sent(site, uploads, data) == [False]
    ((path, body),) = site.made
    values = json.loads(body)
    kept = features().filter(pl.col("output_score") >= 0.3).sort("output_score", descending=True)
    assert path == LIST
    assert [(one["modelId"], one["layer"], one["index"]) for one in values["features"]] == [
        ("world", f"{layer}-res", feature) for layer, feature in kept.select("layer", "feature").iter_rows()
    ]
    assert values["features"][0]["description"].startswith(f"output score {kept['output_score'][0]:.3f}, ")
    assert f"{kept.height} of {2 * (N + 1)} features" in values["description"]
    assert [headers["x-api-key"] for headers in site.headers] == [KEY]


def test_features_go_in_batches_with_examples_top_logit_lens_tokens_and_scores(site: Neuronpedia, data: Path) -> None:
    uploads = uploads_of("features", run_of(data), OWN, None)
    assert sent(site, uploads, data) == [False] * 4
    bodies = [json.loads(body) for path, body in site.made if path == BATCH]
    assert [(body["modelId"], body["source"], len(body["features"])) for body in bodies] == [
        ("world", f"{layer}-res", n) for layer in LAYERS for n in (128, N - 128)
    ]
    one = bodies[1]["features"][0]
    scores = features().row(by_predicate=(pl.col("layer") == 2) & (pl.col("feature") == 128), named=True)
    assert (one["index"], one["density"]) == (128, 0.25)
    assert one["activations"] == [{"tokens": CONTEXT, "values": [0.0, 0.5, 0.0, 2.5]}]
    assert one["topLogits"] == [{"token": "▁sea", "value": 3.5}, {"token": "▁ship", "value": 1.25}]
    assert f"output score {scores['output_score']:.3f}" in one["explanations"][0]["text"]
    assert [text["text"] for text in one["explanations"][1:]] == [scores["concept"]] * (scores["concept"] is not None)


def test_a_long_example_is_cut_around_its_maximum(site: Neuronpedia, data: Path) -> None:
    long = [f"w{n}" for n in range(3000)]
    rows = pl.concat(table({0: [an_example("t0", 2.5, long, 2000)]}, layer) for layer in LAYERS)
    shutil.rmtree(data / "micro/max_activating_examples")
    write_step(data / "micro", MAX_ACTIVATING_EXAMPLES, rows)
    uploads = uploads_of("features", run_of(data), OWN, None)
    (text,) = uploads[0].values["features"][0]["activations"]
    assert (len(text["tokens"]), text["tokens"][512], text["values"][512]) == (1024, "w2000", 2.5)
    assert sent(site, uploads, data) == [False, False]


def fits(scale: float | None) -> pl.DataFrame:
    rows = []
    for layer in LAYERS:
        tensors, values = packed(Addition(torch.tensor([0.6, 0.8]), scale))
        row = {"layer": layer, "method": "diffmean", "concept_id": text_id("sea"), "kind": "addition", "tensors": tensors}
        row |= {"values": values, "features": [], "n_texts": 4, "fit_seconds": 0.0, "residual_change": 1.0, "residual_norm": 1.0}
        rows.append(row)
    return pl.DataFrame(rows, schema=FITS.schema)


def compared(data: Path, scale: float | None = 5.0) -> Path:
    """The tables of a comparison of methods, micro-methods: diffmean at two layers, factors 1 and 3 chosen for one concept."""
    folder, scores = data / "micro-methods", METHOD_SUMMARIES["method_scores"]
    write_step(folder, FITS, fits(scale))
    asked = {"concept_id": text_id("sea"), "concept": "sea", "label_feature": None}
    write_summary(COMPARED_CONCEPTS, pl.DataFrame([asked], schema=COMPARED_CONCEPTS.schema), folder / "tables/compared_concepts.parquet")
    counts = dict.fromkeys(("n_halves", "n_choices", "n_at_smallest", "n_at_largest", "n", "n_missing"), 2)
    row = {"method": "diffmean", "concept_id": text_id("sea"), "concept": "sea", "abstains": False, "factors": ["1", "3"], **counts}
    rows = pl.DataFrame([row | {"layer": layer} for layer in LAYERS], schema=scores.schema)
    write_summary(scores, rows, folder / "tables/method_scores.parquet")
    return data


def vectors(data: Path, site: str = "resid_post") -> list[Upload]:
    """Uploads of the method's vectors, that are added at a hook point."""
    run = run_of(data, experiment("micro-methods"), "micro-methods")
    changes = {"layers": LAYERS, "layers_per_job": 5, "saes": run.experiment.saes.model_copy(update={"hook_point": site})}
    return uploads_of("vectors", replace(run, experiment=run.experiment.model_copy(update=changes)), "world", "diffmean")


def test_vectors_carry_the_strength_that_was_chosen(site: Neuronpedia, tmp_path: Path) -> None:
    assert sent(site, vectors(compared(tmp_path)), tmp_path) == [False, False]
    first = json.loads(site.made[0][1])
    assert first.pop("vector") == pytest.approx([3.0, 4.0])  # scale x unit vector: strength 1 is factor 1
    assert first == {
        "modelId": "world",
        "layerNumber": 2,
        "hookType": "hook_resid_post",
        "vectorDefaultSteerStrength": 2.0,  # median of the chosen factors
        "vectorLabel": "sea (diffmean, micro-methods)",
    }
    assert [path for path, _ in site.made] == [VECTOR] * 2


def test_vectors_that_neuronpedia_cannot_add_are_refused(tmp_path: Path) -> None:
    data = compared(tmp_path, scale=None)
    with pytest.raises(SettingsError, match="adds no constant vector"):
        vectors(data)
    with pytest.raises(SettingsError, match="added at hook_z, where Neuronpedia's cannot be"):
        vectors(data, "hook_z")


BODY = {"modelId": "m", "hookType": "hook_resid_pre", "vector": [0.5], "vectorDefaultSteerStrength": 1.0, "vectorLabel": "é"}
ONE, TWO = (Upload(f"vector {n}", VECTOR, BODY | {"layerNumber": n}) for n in (1, 2))


@pytest.mark.parametrize("fault", [429, 500, 503])
def test_what_was_not_done_is_asked_for_again(site: Neuronpedia, tmp_path: Path, fault: int) -> None:
    site.faults[VECTOR] = [status(fault)]
    assert sent(site, [ONE, TWO], tmp_path) == [False, False]
    assert [json.loads(body)["layerNumber"] for _, body in site.made] == [1, 2]
    assert posts(site) == 3
    assert sent(site, [ONE, TWO], tmp_path) == [True, True]
    assert posts(site) == 3


def test_an_interrupted_upload_goes_on_where_it_was(site: Neuronpedia, tmp_path: Path) -> None:
    site.faults[VECTOR] = [lambda request, body: request.reply(200, body), status(403)]
    with pytest.raises(FetchError, match="vector 2: 403 .*NEURONPEDIA_API_KEY.*it was not sent"):
        sent(site, [ONE, TWO], tmp_path)
    site.made.clear()
    assert sent(site, [ONE, TWO], tmp_path) == [True, False]
    assert len(site.made) == 1


@pytest.mark.parametrize("fault", [cut, page, status(502), status(504)])
def test_what_may_have_arrived_is_not_sent_again(site: Neuronpedia, tmp_path: Path, fault: Any) -> None:
    site.faults[VECTOR] = [fault]
    with pytest.raises(FetchError, match="vector 1: .* may have arrived"):
        sent(site, [ONE, TWO], tmp_path)
    with pytest.raises(SettingsError, match=r"vector 1: it was sent to .* and no answer came, .* delete .*\.json to send"):
        sent(site, [ONE, TWO], tmp_path)
    assert posts(site) == 1
    (kept,) = (tmp_path / "sent").iterdir()
    kept.unlink()
    assert sent(site, [ONE, TWO], tmp_path) == [False, False]


def test_nothing_is_sent_without_a_key_or_with_a_wrong_one(site: Neuronpedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "another")
    with pytest.raises(FetchError, match=r"401 .*requires authorization.*if NEURONPEDIA_API_KEY is set, check it"):
        sent(site, [ONE], tmp_path)
    monkeypatch.delenv("NEURONPEDIA_API_KEY")
    with pytest.raises(SettingsError, match="needs a key: set the environment variable NEURONPEDIA_API_KEY"):
        sent(site, [ONE], tmp_path)
    assert posts(site) == 1
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    assert sent(site, [ONE], tmp_path) == [False]


def test_the_servers_words_are_told(site: Neuronpedia, tmp_path: Path) -> None:
    wrong = Upload("a vector", VECTOR, dict(ONE.values) | {"vectorDefaultSteerStrength": 301.0})
    with pytest.raises(FetchError, match=r"a vector: 400 Bad Request \(301.0 is greater than the maximum of 300\); it was not sent"):
        sent(site, [wrong], tmp_path)
    assert site.made == []


def test_a_server_that_is_down_got_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    with serving(tmp_path / "bucket") as gone:
        address = gone.address
    with pytest.raises(FetchError, match="it was not sent"):
        list(send_all(address, [ONE], tmp_path / "sent", QUICK))
    assert list((tmp_path / "sent").iterdir()) == []


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(site: Neuronpedia, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    config = {"experiments": ["micro"], "experiments_dirs": [str(ROOT / "config/experiments")]}
    Path("c.yaml").write_text(yaml.safe_dump(config | {"addresses": {"neuronpedia": f"{site.address}/"}}))
    command = ["upload", "features", "micro", "--source", OWN, "--configfile", "c.yaml"]
    monkeypatch.delenv("NEURONPEDIA_API_KEY")
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert (dry.exit_code, posts(site)) == (0, 0), dry.output
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    lines = dry.stdout_bytes.splitlines()
    assert KEY not in dry.output
    assert CliRunner().invoke(app, command).exit_code == 0
    assert lines[::2] == [f"POST {site.address}{path}".encode() for path, _ in site.made]
    assert lines[1::2] == [body for _, body in site.made]
    again = CliRunner().invoke(app, [*command, "--dry-run"])
    assert again.output.count("sent before") == len(site.made) == 4
    assert CliRunner().invoke(app, command).output.count(": sent before: ") == 4
    assert posts(site) == 4


@pytest.mark.parametrize(
    ("name", "part", "source", "method", "message"),
    [
        ("micro", "list", None, None, "sae-lens names no Neuronpedia source"),
        ("micro", "features", None, None, "upload features: give --source MODEL/SOURCE of your own"),
        ("micro", "vectors", "m", None, "upload vectors: give --method"),
        ("micro", "vectors", "m", "diffmean", "holds no fits"),
        ("gemma-2-2b", "features", str(SOURCE), None, "its max-activating examples are Neuronpedia's own"),
    ],
)
def test_what_cannot_be_uploaded_is_named(data: Path, name: str, part: str, source: str | None, method: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        uploads_of(part, run_of(data, experiment(name)), source, method)
