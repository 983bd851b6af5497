"""The batched sweep against Hugging Face's `generate` with a plain hook, one row at a time, and against itself in other batches."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from engine_models import FAMILIES, FURTHER_FAMILIES, LIKE_OTHERS, TINY, model_and_sae, sweep_rows, tiny_model, tiny_sae, without_bos
from oracles import plain_hooks, splitmix
from polars.testing import assert_frame_equal
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from saesteer.core.counter_rng import text_keys
from saesteer.core.texts import FEATURE_TEXT
from saesteer.engine import continuation, interventions
from saesteer.engine.attention import MIXING
from saesteer.engine.continuation import Sampling, continuation_texts, ending_tokens
from saesteer.engine.generations import feature_texts, feature_texts_by_token
from saesteer.engine.models import MIN_ROWS, LanguageModel, prompt_token_ids
from saesteer.engine.saes import Sae
from saesteer.engine.sampling import NOTHING, largest_ids, sample_tokens
from saesteer.steps.generations import GENERATIONS

KEYS = ["feature", "factor", "prefix_id", "sample"]
SHIPPED = {f"{number:016x}": text for number, text in enumerate(["From my experience,", "I believe that", "The", "Then the man said:"])}


def prefixes_of(family: str) -> dict[str, str]:
    return SHIPPED if family == "shipped" else TINY


def swept(lm: LanguageModel, sae: Sae, rows: pl.DataFrame, family: str, sampling: Sampling, seed: int = 3) -> pl.DataFrame:
    parts = list(feature_texts(lm, sae, sae.meta.layer, rows, prefixes_of(family), sampling, seed))
    table = pl.concat(parts)
    assert table.columns == [*FEATURE_TEXT, *(name for name in GENERATIONS.columns if name not in GENERATIONS.keys)]
    assert table.height == rows.height
    return table


PLACES = [*((family, "resid_post") for family in (*FAMILIES, "shipped")), *((family, "resid_pre") for family in FAMILIES)]


def marked(*values: Any, exhaustive: bool) -> Any:
    return pytest.param(*values, marks=pytest.mark.exhaustive if exhaustive else ())


AT = [marked(*at, exhaustive=at[0] in LIKE_OTHERS) for at in PLACES]
ALL_AT = [
    *(marked(*at, 2, exhaustive=at[0] in LIKE_OTHERS) for at in PLACES),
    *(marked(*at, 0, exhaustive=at[0] != "gemma2") for at in PLACES),
]


@pytest.mark.parametrize(("family", "hook_point", "layer"), ALL_AT)
def test_greedy_rows_equal_generate_with_a_hook(family: str, hook_point: str, layer: int) -> None:
    """Token for token, through prefixes of several lengths, compaction, stops and sliding windows shorter and longer than the text."""
    lm, sae = model_and_sae(family, layer, hook_point)
    rows = sweep_rows(12, n_features=sae.meta.n_features)
    stop = "." if family == "shipped" else "o"
    table = swept(lm, sae, rows, family, Sampling(max_new_tokens=12, temperature=0.0, stop=stop))
    ending = [token for token in range(len(lm.tokenizer)) if stop in plain_hooks.token_text(lm.tokenizer, token)]
    ending = sorted({*ending, lm.model.generation_config.eos_token_id} - {lm.tokenizer.bos_token_id})
    if family == "shipped":
        ending.append(lm.tokenizer.convert_tokens_to_ids("<0x2E>"))
    for row in table.to_dicts():
        ids = prompt_token_ids(lm, prefixes_of(family)[row["prefix_id"]])
        expected = plain_hooks.generated(lm.model, sae, layer, row["feature"], float(row["factor"]), ids, 12, ending)
        assert row["token_ids"] == expected
        assert row["n_tokens"] == len(expected)
        assert row["stopped"] == (expected[-1] in ending)
    assert table["n_tokens"].n_unique() > 1


MIX = [
    *FAMILIES,
    *FURTHER_FAMILIES,
    "gemma3_wide_window",
    "mistral_wide_window",
    *(marked(family, exhaustive=True) for family in MIXING if family not in FAMILIES),
    "shipped",
]


@pytest.mark.parametrize("family", MIX)
def test_prompts_of_many_lengths_share_forwards_and_have_the_logits_that_each_has_by_itself(family: str) -> None:
    lm, sae = model_and_sae(family, 1)
    rows = sweep_rows(44, n_features=sae.meta.n_features)
    sampling = Sampling(max_new_tokens=8, stop="." if family == "shipped" else "o")
    with recorded_steps() as (together, n_rows):
        swept(lm, sae, rows, family, sampling)
    alone: Counter[bytes] = Counter()
    for of_prompt in rows.partition_by("prefix_id"):
        with recorded_steps() as (logits, _):
            swept(lm, sae, of_prompt, family, sampling)
        alone += logits
    assert together == alone
    assert max(n_rows) == (rows.height if lm.model.config.model_type in MIXING else MIN_ROWS)


def test_texts_of_several_lengths_grow_in_the_order_of_their_rows() -> None:
    lm, sae = tiny_model("llama"), tiny_sae(1)
    rows, sampling = sweep_rows(40, n_features=sae.meta.n_features), Sampling(max_new_tokens=8, stop="o")
    *_, last = feature_texts_by_token(lm, sae, 1, rows, TINY, sampling, 3)
    whole = swept(lm, sae, rows, "llama", sampling)
    assert last == rows.join(whole, on=KEYS, how="left", maintain_order="left")["text"].to_list()


@pytest.mark.parametrize(("family", "hook_point"), AT)
def test_sampled_rows_equal_whole_forwards_and_an_inverse_cdf(family: str, hook_point: str) -> None:
    """Without a cache, with plain integers for the random numbers."""
    lm, sae = model_and_sae(family, 1, hook_point)
    rows = sweep_rows(20, n_features=sae.meta.n_features, seed=5)
    table = swept(lm, sae, rows, family, Sampling(max_new_tokens=5, stop="", top_k=30), seed=3)
    for row in table.to_dicts():
        keys = (3, 1, row["feature"], int(text_keys([row["factor"]])[0]), int(row["prefix_id"], 16), row["sample"])
        numbers = [splitmix.uniform(*keys, step) for step in range(row["n_tokens"])]
        ids = prompt_token_ids(lm, prefixes_of(family)[row["prefix_id"]])
        assert row["token_ids"] == plain_hooks.sampled(lm.model, sae, 1, row["feature"], float(row["factor"]), ids, numbers, 0.7, 30)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_a_prompt_of_one_token(family: str) -> None:
    """Nothing to cache, beside longer ones: possible where the tokenizer adds no beginning-of-sequence token."""
    lm, sae = without_bos(tiny_model(family)), tiny_sae(1)
    rows = sweep_rows(40)
    assert prompt_token_ids(lm, TINY["0000000000000001"]) == lm.tokenizer.convert_tokens_to_ids(["ba"])
    for row in swept(lm, sae, rows, family, Sampling(max_new_tokens=5, temperature=0.0, stop="")).to_dicts():
        ids = prompt_token_ids(lm, TINY[row["prefix_id"]])
        assert row["token_ids"] == plain_hooks.generated(lm.model, sae, 1, row["feature"], float(row["factor"]), ids, 5, [2])


@contextmanager
def recorded_steps() -> Iterator[tuple[Counter[bytes], set[int]]]:
    """Of every step of a continuation that is computed within: the logits of its running rows, and how many rows its forward had."""
    seen: Counter[bytes] = Counter()
    shapes: set[int] = set()
    real = continuation.step_logits

    def stepping(lm: LanguageModel, slots: Any, *rest: Any) -> torch.Tensor:
        logits = real(lm, slots, *rest)
        shapes.add(len(slots.row))
        seen.update(logits[slot].float().cpu().numpy().tobytes() for slot in np.flatnonzero(slots.running))
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuation, "step_logits", stepping)
        yield seen, shapes


@pytest.mark.parametrize("family", [marked(family, exhaustive=family in LIKE_OTHERS) for family in (*FAMILIES, "shipped")])
def test_factor_0_equals_no_hook(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sae = model_and_sae(family, 1)
    rows = sweep_rows(120).filter(pl.col("factor") == "0")
    with recorded_steps() as (logits, _):
        steered = swept(lm, sae, rows, family, Sampling(max_new_tokens=6))
    monkeypatch.setattr(interventions, "amplify", lambda residual, *_args: residual)
    with recorded_steps() as (expected, _):
        unsteered = swept(lm, sae, rows, family, Sampling(max_new_tokens=6))
    assert_frame_equal(steered, unsteered, check_exact=True)
    assert logits == expected


def test_stop_end_of_sequence_and_texts() -> None:
    lm, sae = model_and_sae("shipped", 5)
    rows = sweep_rows(120).filter(pl.col("factor").is_in(["0", "0.8"]))
    table = swept(lm, sae, rows, "shipped", Sampling())
    ended = pl.col("token_ids").list.last() == lm.model.generation_config.eos_token_id
    assert table.filter(pl.col("stopped") != (pl.col("text").str.contains(".", literal=True) | ended)).is_empty()
    assert table.filter(~pl.col("stopped"), pl.col("n_tokens") != 20).is_empty()
    assert table.filter(pl.col("text").str.head(-1).str.contains(".", literal=True)).is_empty()
    assert table["stopped"].mean() > 0.1
    for row in table.to_dicts():
        assert row["text"] == "" or row["text"][0] in " ,.:" or not row["text"][0].isascii() or row["text"][0].isalnum()
    unstopped = swept(lm, sae, rows[:40], "shipped", Sampling(stop="", max_new_tokens=8))
    assert unstopped.filter(~pl.col("stopped"))["n_tokens"].unique().to_list() == [8]


def test_text_is_the_continuation_as_it_runs_on() -> None:
    lm = model_and_sae("shipped", 1)[0]
    prompt = prompt_token_ids(lm, "From my experience,")
    ids = lm.tokenizer(" the sea is calm.", add_special_tokens=False)["input_ids"]
    assert continuation_texts(lm, [prompt, prompt], [[*ids, lm.model.generation_config.eos_token_id], []]) == [" the sea is calm.", ""]


def test_top_p_by_hand() -> None:
    """Probabilities .1 .2 .3 .4. top_p .65: .4 and .3 reach it, so tokens 2 and 3, 3/7 and 4/7; .75 takes token 1 besides: 2/9, 3/9, 4/9;
    .3: the likeliest alone. After top_k 2 what is left counts anew: 4/7 is more than .5."""
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]])).expand(5, -1)
    numbers = torch.tensor([0.0, 0.3, 0.43, 0.56, 0.9999], dtype=torch.double)
    assert sample_tokens(logits, numbers, 1.0, 0, 0.65).tolist() == [2, 2, 3, 3, 3]
    assert sample_tokens(logits, numbers, 1.0, 0, 0.75).tolist() == [1, 2, 2, 3, 3]
    assert sample_tokens(logits, numbers, 1.0, 0, 0.3).tolist() == [3] * 5
    assert sample_tokens(logits, numbers, 1.0, 2, 0.5).tolist() == [3] * 5
    assert sample_tokens(logits, numbers, 1.0, 2, 0.6).tolist() == [2, 2, 3, 3, 3]
    equal = torch.zeros(5, 4)
    assert sample_tokens(equal, numbers, 1.0, 0, 0.5).tolist() == [0, 0, 0, 1, 1]  # of equals the first


@pytest.mark.parametrize("top_k", [0, 2])
def test_the_lowest_temperatures_are_greedy(top_k: int) -> None:
    """At 1e-320 the quotient of a logit is no number any more, but its limit is: the likeliest token, of equals by the drawn number."""
    numbers = torch.tensor([0.2, 0.7], dtype=torch.double)
    for temperature in (1e-3, 1e-200, 1e-300, 1e-320, 5e-324):
        assert sample_tokens(torch.tensor([[-5.0, 9.0, 8.9, 1.0]] * 2), numbers, temperature, top_k).tolist() == [1, 1]
        assert sample_tokens(torch.tensor([[9.0, -5.0, 9.0, -torch.inf]] * 2), numbers, temperature, top_k).tolist() == [0, 2]
        assert sample_tokens(torch.tensor([[torch.nan, 9.0, 1.0, 1.0]] * 2), numbers, temperature, 0).tolist() == [NOTHING] * 2


@pytest.mark.parametrize("top_k", [0, 50])
@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_tokens_that_transformers_keeps(top_k: int, top_p: float) -> None:
    """Temperature, then top_k, then top_p, as `generate` applies them; every kept token can be drawn, and at its own probability."""
    logits = 3 * torch.randn(20, 300, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    warped = TemperatureLogitsWarper(0.7)(None, logits)
    warped = TopKLogitsWarper(top_k)(None, warped) if top_k else warped
    expected = torch.softmax(TopPLogitsWarper(top_p)(None, warped), dim=1)
    assert 20 <= int((expected > 0).sum()) < 20 * 300
    for row, probabilities in zip(logits, expected, strict=True):
        edges = probabilities.cumsum(dim=0)
        kept = probabilities.nonzero()[:, 0]
        middles = (edges - probabilities / 2)[kept]
        drawn = sample_tokens(row.float().expand(len(kept), -1), middles, 0.7, top_k, top_p)
        assert drawn.tolist() == kept.tolist()


def test_a_top_p_of_1_changes_no_token() -> None:
    logits = 3 * torch.randn(2000, 300, generator=torch.Generator().manual_seed(2))
    numbers = torch.from_numpy(np.random.default_rng(3).random(2000))
    numbers[:2] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.double)
    for top_k in (0, 50):
        plain = sample_tokens(logits, numbers, 0.7, top_k)
        assert torch.equal(sample_tokens(logits, numbers, 0.7, top_k, 1.0), plain)
        assert torch.equal(plain, slow_tokens(logits, numbers, 0.7, top_k))


def slow_tokens(logits: torch.Tensor, numbers: torch.Tensor, temperature: float, top_k: int) -> torch.Tensor:
    """The token whose stretch of the running sum, in token id order, the number falls on: row by row."""
    tokens = []
    for row, number in zip(logits, numbers.tolist(), strict=True):
        kept = row.topk(top_k or len(row)).indices.sort().values
        running = torch.softmax(row[kept].double() / temperature, dim=0).cumsum(dim=0)
        tokens.append(int(kept[int(torch.searchsorted(running, number * running[-1], right=True))]))
    return torch.tensor(tokens)


@pytest.mark.parametrize(("n_vocab", "k"), [(300, 50), (1951, 50), (64, 50), (50, 50), (1000, 1), (997, 33)])
def test_largest_ids_are_topks(n_vocab: int, k: int) -> None:
    logits = torch.randn(40, n_vocab, generator=torch.Generator().manual_seed(n_vocab))
    assert torch.equal(largest_ids(logits, k).sort(dim=1).values, logits.topk(k, dim=1).indices.sort(dim=1).values)


def test_ending_tokens() -> None:
    lm = tiny_model("gpt2")
    texts = [lm.tokenizer.decode([token]) for token in range(len(lm.tokenizer))]
    ending = ending_tokens(lm, ".")
    assert np.flatnonzero(ending).tolist() == sorted({2, *(token for token, text in enumerate(texts) if "." in text)})
    assert np.flatnonzero(ending_tokens(lm, "")).tolist() == [2]
    shipped = model_and_sae("shipped", 1)[0]
    assert {".", "<0x2E>", "<eos>"} <= set(shipped.tokenizer.convert_ids_to_tokens(np.flatnonzero(ending_tokens(shipped, ".")).tolist()))


def test_hooks_are_gone_when_the_consumer_stops_or_the_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sae = model_and_sae("gemma2", 1)
    next(feature_texts(lm, sae, 1, sweep_rows(100), TINY, Sampling(), 0))

    def failing(*_args: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("saesteer.engine.interventions.largest_activation", failing)
    with pytest.raises(RuntimeError, match="broken"):
        next(feature_texts(lm, sae, 1, sweep_rows(100), TINY, Sampling(), 0))
    assert not any(block._forward_hooks for block in lm.blocks)


def test_nothing_to_do_and_refusals() -> None:
    lm, sae = tiny_model("llama"), tiny_sae(1)
    rows = sweep_rows(4)
    assert list(feature_texts(lm, sae, 1, rows[:0], TINY, Sampling(), 0)) == []
    with pytest.raises(ValueError, match="layer 7 does not exist"):
        next(feature_texts(lm, sae, 7, rows, TINY, Sampling(), 0))
    with pytest.raises(ValueError, match="the model takes at most 64"):
        next(feature_texts(lm, sae, 1, rows, TINY, Sampling(max_new_tokens=64), 0))
    with pytest.raises(ValueError, match="prefix_id 0000000000000002 has no text"):
        next(feature_texts(lm, sae, 1, sweep_rows(40), dict(list(TINY.items())[:2]), Sampling(), 0))
    with pytest.raises(ValueError, match="must be one character or empty"):
        Sampling(stop="..")
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1"):
        Sampling(max_new_tokens=0)
