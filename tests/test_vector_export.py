"""Vectors for other programs: frozen, measured, written; against plain hooks, the readers' own rules and numbers worked out by hand."""

# ruff: noqa: F811 (fixtures of another file)

import json
import runpy
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import polars as pl
import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, WORLD, shipped_model, shipped_sae, tiny_model, tiny_sae
from oracles.plain_hooks import at_hook_point
from safetensors import safe_open
from test_evaluation import NAME, comparison, finished_fits  # noqa: F401
from test_steered_model import VECTOR, texts
from typer.testing import CliRunner

from saesteer import cli
from saesteer.cli import app
from saesteer.core.errors import SettingsError
from saesteer.engine.interventions import Addition, Nothing
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import encode
from saesteer.engine.steering import steered_model
from saesteer.engine.vector_formats import FORMATS, BlockVector, block_vector, check_format, check_suffix, median_a_max, neuronpedia_body
from saesteer.exchange import measured as measuring
from saesteer.exchange.measured import MeasuredSteering, measured
from saesteer.exchange.vector import _licence
from saesteer.methods.fit.vectors_file import read_vectors
from saesteer.run import Run
from saesteer.steps.logit_lens import LOGIT_LENS

NO_FACTOR = "a factor is a number from -10000 to 10000, not "
LAYER, FACTOR, SCALE = 6, -1.5, 40.0  # below 0: a file that drops the sign steers the other way
_SENTENCE = [2, 1894, 1089, 1857, 1117, 1710, 1711, 1493, 1022]  # of the grammar, in the shipped model's tokens
IDS = torch.tensor([_SENTENCE, _SENTENCE[::-1]])
HOSTILE = "sea'''\"\"\"\nraise SystemExit('no')\n%(about)s {BLOCK}"
ABOUT = {"label": HOSTILE, "factor": FACTOR, "neuronpedia_model": "world"}


def vector_of(lm: LanguageModel, layer: int = LAYER, vector: torch.Tensor = VECTOR) -> BlockVector:
    return block_vector(lm, layer, "resid_post", Addition(vector, SCALE), FACTOR)


def plainly_steered(layer: int = LAYER) -> torch.Tensor:
    """The shipped model's logits with the vector added by a plain hook."""
    with (
        torch.no_grad(),
        at_hook_point(shipped_model().model, layer, "resid_post", lambda residual: residual + FACTOR * SCALE * VECTOR) as model,
    ):
        return model(IDS).logits


def imported(path: Path) -> Any:
    """A module's names."""
    return SimpleNamespace(**runpy.run_path(str(path)))


def test_the_commands_formats_are_those_that_can_be_written() -> None:
    assert get_args(cli.steering.VectorForm) == tuple(FORMATS)


# Frozen.


@torch.no_grad()
def test_a_max_is_the_median_over_prompts_of_the_largest_activation_at_the_last_token() -> None:
    lm, sae = shipped_model(), shipped_sae(LAYER)
    largest: list[float] = []

    def seen(residual: torch.Tensor) -> torch.Tensor:
        largest.append(float(encode(sae, residual[0, -1:]).max()))
        return residual

    with at_hook_point(lm.model, LAYER, "resid_post", seen):
        for text in texts()[:5]:
            lm.model(torch.tensor([text]))
    assert median_a_max(lm, sae, LAYER, texts()[:5]) == pytest.approx(sorted(largest)[2], rel=1e-5)


def test_no_active_feature_is_refused() -> None:
    sae = shipped_sae(LAYER)
    dead = replace(sae, threshold=torch.full_like(sae.threshold, 1e9))
    with pytest.raises(SettingsError, match="no feature is active at the last token"):
        median_a_max(shipped_model(), dead, LAYER, texts()[:3])


@torch.no_grad()
@pytest.mark.parametrize("hook_point", ["resid_pre", "resid_post", "mlp_out"])
def test_every_hook_point_between_blocks_is_a_blocks_output(hook_point: str) -> None:
    """resid_pre of layer 3 is what block 2 puts out."""
    lm = shipped_model()
    sae = replace(shipped_sae(3), meta=replace(shipped_sae(3).meta, hook_point=hook_point))
    one = block_vector(lm, 3, hook_point, Addition(VECTOR, SCALE), FACTOR)
    assert (one.block, one.module, one.base_module) == (
        (2, "model.layers.2", "layers.2") if hook_point == "resid_pre" else (3, "model.layers.3", "layers.3")
    )
    with steered_model(lm, sae, 3, Addition(VECTOR, SCALE), FACTOR):
        ours = lm.model(IDS).logits
    torch.testing.assert_close(plainly_steered(one.block), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook_point", ["resid_mid", "attn_out", "hook_z"])
def test_hook_points_inside_a_block_are_refused(hook_point: str) -> None:
    with pytest.raises(SettingsError, match=f"hook point {hook_point} lies inside decoder block 3"):
        block_vector(shipped_model(), 3, hook_point, Addition(VECTOR, SCALE), 1.0)


@pytest.mark.parametrize(
    ("to", "change", "message"),
    [
        ("gguf", {"block": 0}, "gguf cannot add a vector to what block 0 puts out: llama.cpp takes directions from 1 on"),
        ("gguf", {"block": -1}, "this vector is added before block 0"),
        ("python", {"block": -1}, "this vector is added before block 0"),
    ],
)
def test_what_a_format_cannot_express_is_refused(to: str, change: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_format(to, replace(vector_of(shipped_model()), **change))


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 3e38], ids=["nan", "inf", "infinite times the factor"])
def test_no_format_holds_what_is_not_finite(to: str, number: float) -> None:
    vector = VECTOR.clone()
    vector[3] = number / (SCALE if number == 3e38 else 1)
    with pytest.raises(SettingsError, match=r"the vector at factor -1\.5 is not finite in float32: lower the factor"):
        check_format(to, vector_of(shipped_model(), vector=vector))


def test_what_they_can_express_is_not() -> None:
    one = vector_of(shipped_model())
    for to, form in FORMATS.items():
        for block in (form.first, one.n_blocks - 1):
            check_format(to, replace(one, block=block))
    check_format("neuronpedia", replace(one, block=-1))


# Files.


@torch.no_grad()
@pytest.mark.parametrize("family", ["shipped", *FAMILIES, *FURTHER_FAMILIES])
def test_the_module_steers_as_we_do(family: str, tmp_path: Path) -> None:
    """Among them blocks that put out tuples, and blocks further inside."""
    lm, layer = (shipped_model(), LAYER) if family == "shipped" else (tiny_model(family), 2)
    sae = shipped_sae(layer) if family == "shipped" else tiny_sae(layer)
    vector = VECTOR[: lm.d_model]
    one = vector_of(lm, layer, vector)
    FORMATS["python"].write(tmp_path / "steering.py", one, ABOUT)
    module = imported(tmp_path / "steering.py")
    ids = IDS if family == "shipped" else torch.tensor([[1, 99, 101, 120, 103, 110]])
    before = lm.model(ids).logits
    with steered_model(lm, sae, layer, Addition(vector, SCALE), FACTOR):
        ours = lm.model(ids).logits
    with module.steered(lm.model) as model:
        theirs = model(ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert (theirs - before).abs().max() > 0.1
    assert torch.equal(lm.model(ids).logits, before)
    assert layer == module.BLOCK
    assert module.ABOUT == ABOUT


def test_the_module_is_a_hook_factory_of_sglang(tmp_path: Path) -> None:
    FORMATS["python"].write(tmp_path / "steering.py", vector_of(shipped_model()), ABOUT)
    module = imported(tmp_path / "steering.py")
    hook, residual = module.sglang_hook({}), torch.ones(3, 128, dtype=torch.bfloat16)
    assert hook(None, None, residual).dtype == torch.bfloat16
    (first, second) = hook(None, None, (torch.zeros(3, 128), "rest"))
    torch.testing.assert_close(first, (FACTOR * SCALE * VECTOR).expand(3, -1))
    assert second == "rest"


def test_safetensors_say_what_they_hold_and_come_in_again_as_a_method(tmp_path: Path) -> None:
    FORMATS["safetensors"].write(tmp_path / "a.safetensors", vector_of(shipped_model()), ABOUT)
    assert torch.equal(read_vectors(tmp_path / "a.safetensors", 128)[HOSTILE], FACTOR * (SCALE * VECTOR))
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"label": HOSTILE, "factor": "-1.5", "neuronpedia_model": "world"}


@pytest.mark.parametrize(("block", "place"), [(6, (6, "hook_resid_post")), (-1, (0, "hook_resid_pre"))])
def test_neuronpedias_request(tmp_path: Path, block: int, place: tuple[int, str]) -> None:
    one = replace(vector_of(shipped_model()), block=block)
    FORMATS["neuronpedia"].write(tmp_path / "a.json", one, ABOUT)
    body = json.loads((tmp_path / "a.json").read_text())
    assert (body["layerNumber"], body["hookType"]) == place
    assert (body["modelId"], body["vectorLabel"]) == ("world", HOSTILE)
    added = body["vectorDefaultSteerStrength"] * torch.tensor(body["vector"])
    torch.testing.assert_close(added, FACTOR * SCALE * VECTOR)


@pytest.mark.parametrize(
    ("width", "strength", "message"), [(24_577, 1.0, "at most 24576 numbers"), (4, 301.0, "strengths from -300 to 300")]
)
def test_neuronpedias_limits(width: int, strength: float, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        neuronpedia_body("world", 3, "hook_resid_post", torch.ones(width), strength, "a")


@pytest.mark.parametrize(("positions", "prompt"), [("last", {"prompt_positions": [-1]}), ("all", {"prompt": "all"})])
def test_easysteers_request_starts_where_the_measured_form_does(positions: Any, prompt: dict[str, Any]) -> None:
    one = replace(vector_of(shipped_model()), positions=positions)
    (vector,) = json.loads(FORMATS["easysteer"].usage(Path("a.gguf"), one))["vectors"]
    assert vector["apply"] == {**prompt, "generation": "all"}
    assert (vector["source"], vector["layers"], vector["scale"]) == ("a.gguf", [6], 1.0)


@pytest.mark.slow
@torch.no_grad()
def test_transformer_lens_takes_the_modules_hook(tmp_path: Path) -> None:
    from test_transformer_lens import lens_model

    lm, layer = tiny_model("llama"), 2
    FORMATS["python"].write(tmp_path / "steering.py", vector_of(lm, layer, VECTOR[: lm.d_model]), ABOUT)
    module = imported(tmp_path / "steering.py")
    ids = torch.tensor([[1, 99, 101, 120, 103, 110]])
    hooks = [(f"blocks.{module.BLOCK}.hook_resid_post", module.add)]
    theirs = lens_model("llama").run_with_hooks(ids, fwd_hooks=hooks)
    with steered_model(lm, tiny_sae(layer), layer, Addition(VECTOR[: lm.d_model], SCALE), FACTOR):
        ours = lm.model(ids).logits
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


# Measured.


def test_forms_are_compared_on_the_same_draws_and_rated_by_the_judge(comparison: Run) -> None:
    """Factor 0 writes the unsteered texts; a vector that writes the sea's words is rated higher than nothing; means by hand."""
    lm, sae = shipped_model(), shipped_sae(6)
    forms = [
        MeasuredSteering("none of it", Addition(VECTOR, 40.0), 0.0),
        MeasuredSteering("feature", Addition(sae.W_dec[7], 30.0, features=(7,)), 2.0),
    ]
    lens = pl.DataFrame([{"layer": 6, "feature": 7, "token_ids": [5, 9]}], schema=LOGIT_LENS.schema)
    unsteered, nothing, steered = measured(comparison, lm, sae, forms, "sea", lens, 8)
    texts = measuring._texts(comparison.experiment, lm, sae, [MeasuredSteering("unsteered", Nothing(), 0.0)], comparison.prompts(), 8)[
        "text"
    ]
    assert (unsteered["form"], unsteered["n_texts"], unsteered["n_prompts"]) == ("unsteered", 8, 2)
    assert nothing == unsteered | {"form": "none of it", "factor": 0.0}
    assert unsteered["perplexity_ratio"]["mean"] == 1.0
    assert steered["perplexity_ratio"]["low"] <= steered["perplexity_ratio"]["mean"] <= steered["perplexity_ratio"]["high"]
    hits = [sum(token in (5, 9) for token in lm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert unsteered["gen_success_20"]["mean"] == pytest.approx(sum(hits) / 8)
    assert all(0 <= steered[score]["mean"] <= 2 for score in ("judge_score", "concept_rating", "fluency_rating"))
    without, _ = measured(comparison, lm, sae, forms[:1], None, None, 2)
    assert [without[score] for score in measuring.SCORES] == [None] * 4


def run(*arguments: str) -> tuple[int, str]:
    made = CliRunner().invoke(app, ["export-vector", NAME, *arguments])
    assert made.exception is None or isinstance(made.exception, SystemExit), made.exception
    return made.exit_code, made.output


def test_a_features_vector_is_frozen_measured_and_written(comparison: Run, tmp_path: Path) -> None:
    path = tmp_path / "feature.py"
    code, output = run("6/7", "--to", "python", "--output", str(path), "--factor", "1.5", "--concept", "sea", "--texts", "4")
    assert code == 0, output
    module, sae = imported(path), shipped_sae(6)
    about = module.ABOUT
    assert about["a_max_from"] == "median over 2 neutral prompts of the largest feature activation at the last token"
    torch.testing.assert_close(module.VECTOR, 1.5 * about["a_max"] * sae.W_dec[7])
    assert [row["form"] for row in about["expected_effect"]["texts"]] == ["unsteered", "original", "frozen"]
    assert f"| frozen | 4 | {about['expected_effect']['texts'][2]['judge_score']['mean']:.2f} [" in output
    assert about["model"]["digest"] == comparison.pin()["digest"]
    assert (about["sae"]["layer"], about["sae"]["hook_point"], about["steered_by"]) == (6, "resid_post", {"feature": 7})
    assert (about["factor"], about["factor_from"], about["label"]) == (1.5, "given", "feature 6/7 (sea)")
    assert about["added_to"] == {"output_of_block": 6, "module": "model.layers.6", "positions": "all"}


def test_a_fits_vector_is_what_it_was_and_what_has_no_place_in_a_file_lies_beside_it(comparison: Run, tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    code, output = run("diffmean/sea", "--to", "lm-eval", "--output", str(path), "--texts", "2")
    assert code == 0, output
    assert (
        "sea (diffmean, layer 6): factor 1 (the largest of those that halves chose: 0.5, 1.0), scale 400 (fitted by the method)" in output
    )
    assert "| frozen | the same: what it adds is constant already |" in output
    ((module, entry),) = torch.load(path, weights_only=True).items()
    assert (module, entry["action"], entry["bias"], entry["head_index"]) == ("layers.6", "add", None, None)
    torch.testing.assert_close(entry["steering_coefficient"] * entry["steering_vector"], 400 * VECTOR)
    about = json.loads((tmp_path / "fit.pt.json").read_text())
    assert about["steered_by"] == {"method": "diffmean", "concept": "sea", "features": []}
    assert about["model"]["licence"] is None


def test_a_module_has_a_name_that_python_imports() -> None:
    check_suffix("python", Path("my_vector.py"))
    with pytest.raises(SettingsError, match=r"my-vector\.py: Python imports no module of such a name"):
        check_suffix("python", Path("my-vector.py"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prompting/sea", "this fit puts text before the prompt: it is no constant added vector"),
        ("supervised/sea", "method supervised abstains for concept 'sea'"),
        ("diffmen/sea", "there is no method 'diffmen' here"),
        ("6/7", f"{NAME} has not steered with feature 6/7, so no factor is recommended: name one (--factor)"),
        ("6/1024 --factor 1", "feature 6/1024 does not exist: the SAE has features 0 to 1023"),
        ("5/7 --factor 1", "there is no layer '5' here. Known: 6"),
        ("6-7", "'6-7' is not LAYER/FEATURE, e.g. 6/548, nor METHOD/CONCEPT, e.g. 'diffmean/the sea'. Did you mean 6/7?"),
        ("6/7 --to lm-eval --factor 1", "a.gguf: readers of lm-eval take files that end in .pt"),
        ("6/7 --factor 1 --concept seas", f"the judge of {NAME} knows its topics only, and 'seas' is none of them. Did you mean 'sea'?"),
        ("seven", "'seven' is not LAYER/FEATURE, e.g. 6/548, nor METHOD/CONCEPT"),
        ("6/7 --to neuronpedia --factor 1", "it is not known what Neuronpedia calls this model: give --model-id"),
        *(
            (f"{which} --factor {factor}", NO_FACTOR)
            for which, factor in product(("6/7", "diffmean/sea"), ("nan", "-inf", "1e308", "1e-320"))
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_before_a_model_is_loaded(
    comparison: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.setattr(Run, "model", None)
    code, output = run("--to", "gguf", *arguments.split(), "--output", str(tmp_path / "a.gguf"))
    assert code == 1
    assert message in output
    assert list(tmp_path.iterdir()) == []


def test_the_licence_is_the_model_cards(tmp_path: Path) -> None:
    assert _licence(WORLD / "model") is None
    (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n# A model\n")
    assert _licence(tmp_path) == "gemma"
    (tmp_path / "README.md").write_text("# A model\n")
    assert _licence(tmp_path) is None
