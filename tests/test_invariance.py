"""No row depends on how many rows are computed together, in which order, on its neighbours, or on the threads: bit for bit, for every step
with a model."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import WORDS, model_and_sae, narrow, narrow_sae, prompt_of, sweep_rows, threads, tiny_model, tiny_sae
from polars.testing import assert_frame_equal
from small_adapters import a_change, a_lora, a_loreft, model_of, rows_of
from test_damage import ordinary
from test_effects import prompts_of, settings
from test_generate import KEYS, prefixes_of, recorded_steps
from test_judge_local import TEXTS, answers, asks, judge_model
from test_judge_local import settings as judge_settings
from test_steered_texts import LAYER, _interventions, _prompts, _rows
from torch import Tensor

from saesteer.engine import generate, logit_lens, loss_rise, models, output_score, perplexity, pilot
from saesteer.engine.activations import sparse_activations
from saesteer.engine.continuation import Sampling
from saesteer.engine.damage import N_CONTEXT
from saesteer.engine.divergence import text_damage
from saesteer.engine.generate import steered_texts
from saesteer.engine.generations import feature_texts
from saesteer.engine.interventions import PromptText, packed
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import MIN_ROWS
from saesteer.engine.output_score import output_scores
from saesteer.engine.perplexity import continuation_nll
from saesteer.judge import local_model
from saesteer.judge.local_model import local_asker
from saesteer.methods.fit import effects
from saesteer.steps.damage import DAMAGE
from saesteer.steps.fits import FITS

FIT_COLUMNS = {name: FITS.schema[name] for name in ("layer", "method", "concept_id", "kind", "tensors", "values")}


class Step(NamedTuple):
    """A computation of `n` rows; `run` takes the places of some of them and how many to compute together (None: as many as fit)."""

    n: int
    run: Callable[[list[int], int | None], pl.DataFrame]


def trials(n: int, *given: tuple[int | None, Sequence[int]]) -> list[tuple[int | None, list[int]]]:
    """Rows at a time and places of rows: by default few and many of them, in order, shuffled, a slice, one alone."""
    shuffled = np.random.default_rng(n).permutation(n).tolist()
    usual = [(32, range(min(n, 42))), (64, range(n)), (256, shuffled), (256, [5]), (None, range(9, 16))]
    return [(batch, list(places)) for batch, places in given or usual]


def at_a_time(module: ModuleType, batch: int | None) -> Any:
    """A context within which a module takes up to so many rows together; None: as many as it does."""
    return mock.patch.object(module, "MOST_ROWS", (batch, batch) if batch else module.MOST_ROWS)


def in_order(rows: pl.DataFrame, table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The computed rows in the order in which they were given."""
    assert table.height == rows.height
    return rows.select(keys).join(table, on=keys, how="left", maintain_order="left")


def as_rows(tensor: Tensor) -> pl.DataFrame:
    """A row of bytes for each row of a tensor."""
    return pl.DataFrame({"bytes": [row.numpy().tobytes() for row in tensor.detach().cpu()]})


def output_score_step(family: str, layer: int = 1, hook_point: str = "resid_post") -> Step:
    lm, sae = model_and_sae(family, layer, hook_point)
    n = min(256, sae.meta.n_features)
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[:n], 20)

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        with at_a_time(output_score, batch):
            return output_scores(lm, sae, layer, places, lens[places], prompt_of(family), 10.0)

    return Step(n, run)


def sweep_step(family: str, layer: int = 1, hook_point: str = "resid_post", half: bool = False, n: int = 256) -> Step:
    lm, sae = model_and_sae(family, layer, hook_point)
    if half:
        lm, sae = narrow(lm), narrow_sae(sae)
    rows, sampling = sweep_rows(n, n_features=sae.meta.n_features), Sampling(max_new_tokens=6)

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        with at_a_time(generate, batch):
            parts = list(feature_texts(lm, sae, layer, rows[places], prefixes_of(family), sampling, 3))
        assert batch is None or all(0 < part.height <= batch for part in parts)
        return in_order(rows[places], pl.concat(parts).drop("seconds"), KEYS)

    return Step(n, run)


def texts_step() -> Step:
    """Every kind of intervention, sampled."""
    lm, sae = tiny_model("gemma2"), tiny_sae(LAYER)
    interventions = [*_interventions(sae), a_lora(lm), a_loreft(lm, n_first=2, n_last=1), a_change(lm)]
    prompts, sampling = _prompts(lm), Sampling(max_new_tokens=8, temperature=1.0, stop="o")
    rows = _rows(len(interventions), len(prompts))

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        with at_a_time(generate, batch):
            made = pl.concat(steered_texts(lm, sae, LAYER, rows[places], interventions, prompts, sampling))
        return in_order(rows[places], made.drop("seconds"), ["row"])

    return Step(rows.height, run)


def perplexity_step(family: str, half: bool = False) -> Step:
    """Texts of many lengths, some of them equal."""
    lm = narrow(tiny_model(family)) if half else model_of(family)
    words = sorted(piece[1:] for piece in lm.tokenizer.get_vocab() if piece.startswith("▁") and len(piece) > 4) or WORDS
    texts = [" " + " ".join(words[(i * 7 + j * (i % 5)) % len(words)] for j in range(1 + i % 17)) for i in range(200)]
    rows = pl.DataFrame({"row": range(200), "prefix": prompt_of(family), "text": texts}).cast({"row": pl.UInt32})

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        with at_a_time(perplexity, batch):
            return continuation_nll(lm, rows[places])

    return Step(200, run)


def damage_step() -> Step:
    """What every kind of intervention does to ordinary text, at three factors."""
    lm, sae = tiny_model("gemma2"), tiny_sae(LAYER)
    interventions = [one for one in _interventions(sae) if not isinstance(one, PromptText)]
    interventions += [PromptText(("the sea", "a b c", "by the")), a_lora(lm), a_loreft(lm), a_change(lm)]
    parts = [(one.kind, *packed(one)) for one in interventions]
    fits = pl.DataFrame([(LAYER, str(number), "c", *part) for number, part in enumerate(parts)], schema=FIT_COLUMNS, orient="row")
    rows = fits.select("layer", "method", "concept_id").join(pl.DataFrame({"factor": ["1", "2", "3"]}), how="cross")
    ids = torch.randint(5, lm.n_vocab, (MIN_ROWS, 20), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [[2, *row[: N_CONTEXT + number % 11]] for number, row in enumerate(ids)]

    def run(places: list[int], _batch: int | None) -> pl.DataFrame:
        return in_order(rows[places], pl.concat(text_damage(lm, sae, LAYER, rows[places], fits, texts, "everywhere")), DAMAGE.keys)

    return Step(rows.height, run)


def activations_step() -> Step:
    """As many as fit: beside another layer's codes."""
    lm, sae = model_and_sae("shipped", 2)
    other = model_and_sae("shipped", 4)[1]
    ids = torch.randint(40, 200, (72, 64), generator=torch.Generator().manual_seed(0)).tolist()
    lengths = [30, 9, 40, 12, 33, 64] * 12
    texts = pl.DataFrame({"text_id": [f"text {i}" for i in range(72)], "token_ids": [[2, *ids[i][: lengths[i] - 1]] for i in range(72)]})

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        codes = pl.concat(sparse_activations(lm, {2: sae} if batch else {2: sae, 4: other}, texts[places]))
        return in_order(texts[places], codes.filter(layer=2), ["text_id"])

    return Step(72, run)


def effects_step() -> Step:
    """Where texts end at different lengths, and among fewer or more vectors."""
    lm, sae = model_and_sae("gemma2", 1)

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        rows = pl.DataFrame({"vector": places}, schema={"vector": pl.UInt32})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lm.model.generation_config, "eos_token_id", list(range(2, lm.n_vocab, 4)))
            if batch:
                for name, value in (("VECTORS_AT_A_TIME", batch), ("ACTIVATIONS_AT_A_TIME", (1, 1))):
                    patch.setattr(effects, name, value)
                patch.setattr(loss_rise, "VECTORS_AT_A_TIME", 2)
            options = settings().model_copy(update={"n_vectors": 9 if batch else 8})
            frames = list(effects.measured_effects(effects.EffectRun(lm, sae, 1, prompts_of(lm, "gemma2"), options, 3), rows))
        assert batch is None or max(frame.height for frame in frames) == min(batch, len(places))
        return in_order(rows, pl.concat(frames), ["vector"])

    return Step(8, run)


def pilot_step() -> Step:
    """Texts that end at different lengths, so few that one vector's forward has hardly `MIN_ROWS` tokens."""
    lm, sae = model_and_sae("shipped", 3)
    texts = ordinary(3)

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        rows = pl.DataFrame({"feature": places}, schema={"feature": pl.UInt32})
        with pytest.MonkeyPatch.context() as patch:
            if batch:
                patch.setattr(pilot, "VECTORS_AT_A_TIME", batch)
                patch.setattr(loss_rise, "VECTORS_AT_A_TIME", 3)
            return in_order(rows, pl.concat(pilot.pilot_factors(lm, sae, places, texts, 1.0)), ["feature"])

    return Step(24, run)


def lens_step() -> Step:
    lm, sae = model_and_sae("shipped", 1)

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        with at_a_time(logit_lens, batch):
            ids, values = top_logit_lens_tokens(lm, sae.W_dec[places], 20)
        return as_rows(ids).with_columns(values=pl.Series(values.cpu().numpy().tolist(), dtype=pl.List(pl.Float32)))

    return Step(300, run)


def judge_step() -> Step:
    """A language model as the judge: its answers."""
    queries = asks([f"{text} {number}" for number in range(12) for text in TEXTS])

    def run(places: list[int], batch: int | None) -> pl.DataFrame:
        asker = local_asker(judge_model(), judge_settings(), "w")
        with at_a_time(local_model, batch), tempfile.TemporaryDirectory() as folder:
            raw = answers(asker, [queries[place] for place in places], Path(folder))
        return pl.DataFrame([raw[queries[place].question.request_id] for place in places], schema=["raw", "finish_reason"], orient="row")

    return Step(len(queries), run)


SLOW, TILES = pytest.mark.slow, "sweep in bfloat16"
OF_A_TILE = ((64, range(90)), (128, range(255, 90, -1)), (None, range(30)))
"""Trials whose forwards have 64 rows."""
STEPS = [
    *(pytest.param(partial(output_score_step, family), (), id=f"output score, {family}") for family in ("gemma2", "shipped")),
    *(
        pytest.param(partial(step, family, layer, "resid_pre"), (), id=f"{name} before layer {layer}, {family}", marks=SLOW)
        for name, step in (("output score", output_score_step), ("sweep", partial(sweep_step, n=120)))
        for family, layer in (("gemma2", 0), ("gpt2", 2))
    ),
    *(
        pytest.param(partial(sweep_step, family, n=n), (), id=f"sweep, {family}", marks=SLOW)
        for family, n in (("gemma2", 256), ("shipped", 120))
    ),
    *(
        pytest.param(partial(sweep_step, family, n=120), (), id=f"sweep, {family}", marks=pytest.mark.exhaustive)
        for family in ("gemma2_short_window", "llama", "gpt_neox", "gpt2")
    ),
    *(pytest.param(partial(sweep_step, family, half=True), OF_A_TILE, id=f"{TILES}, {family}") for family in ("gemma2", "gpt2")),
    *(
        pytest.param(partial(output_score_step, "gemma2", hook_point=hook_point), (), id=f"output score, {hook_point}")
        for hook_point in ("resid_mid", "hook_z")
    ),
    pytest.param(
        partial(output_score_step, "llama", hook_point="transcoder"), (), id="output score, transcoder", marks=pytest.mark.exhaustive
    ),
    *(
        pytest.param(
            partial(sweep_step, "gemma2", hook_point=hook_point, half=half), given, id=f"{name}, {hook_point}", marks=pytest.mark.exhaustive
        )
        for hook_point in ("resid_mid", "hook_z", "mlp_out", "transcoder_normalized")
        for name, half, given in (("sweep", False, ()), (TILES, True, OF_A_TILE))
    ),
    pytest.param(texts_step, (), id="texts under every kind of intervention"),
    *(
        pytest.param(partial(perplexity_step, family), (), id=f"perplexity, {family}", marks=SLOW)
        for family in ("gemma2", "gpt2", "shipped")
    ),
    pytest.param(partial(perplexity_step, "llama", half=True), ((None, [7]),), id="perplexity in bfloat16"),
    pytest.param(damage_step, ((None, range(44, -1, -1)), (None, [16])), id="damage to ordinary text"),
    pytest.param(activations_step, ((1, [3]), (1, range(71, -1, -1))), id="activations"),
    pytest.param(effects_step, ((3, [7, 2, 3, 0]),), id="effects of steering"),
    pytest.param(pilot_step, ((5, [20, 2, 3, 0, 11, 7, 9]), (1, [2])), id="pilot factors"),
    pytest.param(lens_step, ((32, range(299, -1, -1)), (64, range(300)), (256, range(5, 38)), (128, [9])), id="top logit-lens tokens"),
    pytest.param(judge_step, ((1, range(5, 8)), (64, range(47, -1, -1)), (None, range(0, 48, 3))), id="local judge"),
]


@pytest.mark.parametrize(("make", "given"), STEPS)
def test_a_row_is_bit_equal_in_any_company(
    make: Callable[[], Step], given: tuple[tuple[int | None, Sequence[int]], ...], request: pytest.FixtureRequest
) -> None:
    """What comes out and, where tokens are sampled, the logits that they were drawn from."""
    step = make()
    with recorded_steps() as (logits, shapes):
        whole = step.run(list(range(step.n)), None)
    assert whole.n_unique() > 0.3 * step.n
    for batch, places in trials(step.n, *given):
        with recorded_steps() as (again, more_shapes):
            assert_frame_equal(step.run(places, batch), whole[places], check_exact=True)
        assert again <= logits
        assert "stopped" not in whole.columns or again.total() == whole[places]["n_tokens"].sum()
        shapes |= more_shapes
    # Products of bfloat16 numbers depend on the shape, so that all forwards have one.
    assert shapes == {64} or TILES not in request.node.name


@pytest.mark.exhaustive
@pytest.mark.parametrize("make", [case.values[0] for case in STEPS], ids=[case.id for case in STEPS])
def test_a_row_is_bit_equal_on_two_threads(make: Callable[[], Step]) -> None:
    step = make()
    with threads(2):
        on_two = step.run(list(range(step.n)), None)
    assert_frame_equal(on_two, step.run(list(range(step.n)), None), check_exact=True)


def test_bfloat16_output_scores_are_padded_to_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sae = model_and_sae("gemma2", 1)
    half, small = narrow(lm), narrow_sae(sae)
    lens, _ = top_logit_lens_tokens(half, sae.W_dec, 20)
    shapes: list[int] = []
    real = output_score.hidden_after_prompt
    monkeypatch.setattr(output_score, "hidden_after_prompt", lambda *args: (shapes.append(len(args[3])), real(*args))[1])

    def scores(features: Sequence[int]) -> pl.DataFrame:
        with at_a_time(output_score, 64):
            return output_scores(half, small, 1, features, lens[list(features)], prompt_of("gemma2"), 10.0)

    whole = scores(range(96))
    assert shapes == [1, 64, 64]  # the prompt alone, then the features' batches, the last one padded
    order = np.random.default_rng(0).permutation(96)[:50].tolist()
    assert_frame_equal(scores(order), whole[order], check_exact=True)
    monkeypatch.setattr(output_score, "READ_ROWS", 64)
    assert_frame_equal(scores(range(96)), whole, check_exact=True)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "shipped"])
def test_a_forward_has_no_more_texts_than_its_rows_need(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 tokens are 32 rows of every matrix: a text's residuals, keys and values are then those that it has among 40."""
    lm, shapes = model_of(family), list[tuple[int, ...]]()
    ids, real = rows_of(lm, 40, 13), models.hidden_states
    monkeypatch.setattr(models, "hidden_states", lambda lm, **given: (shapes.append(given["input_ids"].shape), real(lm, **given))[1])
    for text in (0, 7, 39):
        residuals = [models.residual_at(lm, ids[part], 3)[-1] for part in (slice(text + 1), slice(text, text + 1))]
        assert torch.equal(*residuals)
        prompts = [models.prefills(lm, ids[part].tolist())[-1] for part in (slice(text + 1), slice(text, text + 1))]
        for together, alone in zip(*((*prompt.keys, *prompt.values) for prompt in prompts), strict=True):
            assert torch.equal(together, alone)
    assert shapes[-5:] == [(40, 13), (3, 13), (32, 12), (8, 12), (3, 12)]
    models.residual_at(narrow(lm), ids[:1], 3)
    assert shapes[-1] == (MIN_ROWS, 13)


def test_products_over_many_terms_are_bit_equal_for_any_number_of_rows_and_threads() -> None:
    """Such as real models have, by default not even of 32 rows or more."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(512, 2048, generator=generator), torch.randn(640, 2048, generator=generator)
    columns, bias = weight.T.contiguous(), torch.zeros(640)
    seen: dict[str, list[Tensor]] = {"linear": [], "addmm": []}
    for n, n_rows in product((1, 2), (32, 48, 144, 320, 512)):
        with threads(n):
            seen["linear"].append(torch.nn.functional.linear(rows[:n_rows], weight)[:32])
            seen["addmm"].append(torch.addmm(bias, rows[:n_rows], columns)[:32])
    assert all(torch.equal(one, products[0]) for products in seen.values() for one in products)


def test_threads_that_wait_sleep_soon_in_what_a_command_imports() -> None:
    """The library of threads reads it as torch is imported, so that has to come after."""
    seen = """
import os, sys

def seen(event, args):
    if event == "import" and args[0] == "torch":
        print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
        os._exit(0)

sys.addaudithook(seen)
import saesteer.recommendations.answer, saesteer.engine.process
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", seen], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "1000\n"
