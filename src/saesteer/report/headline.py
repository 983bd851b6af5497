"""The README's table of results, written from the headline numbers, so that nobody types one."""

from collections.abc import Mapping
from typing import Any

from saesteer.analysis.metrics import MAX_P, MAX_SHARE_BOTH_HIGH, MIN_RATIO
from saesteer.core.markdown import number, table

_Numbers = Mapping[str, Any]

HEADLINE_COLUMNS = ("what", "measured", "holds")


def headline_markdown(numbers: _Numbers) -> str:
    """HEADLINE_COLUMNS as a Markdown table."""
    rows = ((what, measured, "**no**" if holds == "no" else holds) for what, measured, holds in headline_rows(numbers))
    return table(HEADLINE_COLUMNS, rows) + "\n"


def headline_rows(numbers: _Numbers) -> list[tuple[str, str, str]]:
    """What was found: finding, number, and whether it holds by the rule fixed beforehand."""
    held = {name: "yes" if holds else "no" for name, holds in numbers["findings"].items()}
    return [
        (
            f"Scores change with depth (Spearman over {numbers['depth']['n_layers']} layers)",
            _depth(numbers),
            held["roles_change_with_depth"],
        ),
        (f"Both scores above .5 in under {MAX_SHARE_BOTH_HIGH:.0%} of features", _both(numbers), held["both_scores_high_is_rare"]),
        (_filter_claim(numbers), _gain(numbers["filter"]["all"]), held["filter_helps"]),
        ("The same, late layers only", _gain(numbers["filter"]["late"]), ""),
        ("Output score against held-out GenSuccess@20, feature by feature", _correlation(numbers, "gen_success_20"), ""),
        ("Output score against judge score, feature by feature", _correlation(numbers, "judge_score"), ""),
        ("Judge score, kept minus removed", _judge(numbers), ""),
        ("Factor at an end of the grid", _choices(numbers), ""),
        ("Held-out GenSuccess@20, by the perplexity that factors are chosen by", _other_perplexities(numbers), ""),
    ]


def _interval(numbers: _Numbers, digits: int = 2) -> str:
    return "" if numbers["low"] is None else f" [{number(numbers['low'], digits)}, {number(numbers['high'], digits)}]"


def percent(share: float | None) -> str:
    """A share with one digit, or a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"


def _depth(numbers: _Numbers) -> str:
    depth = numbers["depth"]
    return f"input score {number(depth['rho_input_score'])}, output score {number(depth['rho_output_score'])}"


def _both(numbers: _Numbers) -> str:
    both = numbers["both_above_half"]
    n_without = numbers["features"]["n_without_input_score"]
    return f"{percent(both['share'])} ({both['n']} of {both['n_scored']} scored; {n_without} without input score)"


def _filter_claim(numbers: _Numbers) -> str:
    return (
        f"Keeping features with output score ≥ {numbers['threshold']:g} raises held-out GenSuccess@20 at least {MIN_RATIO:g}×, "
        f"above random removal, p < {MAX_P:g} within layers"
    )


def _gain(result: _Numbers) -> str:
    before, after, random = result["unfiltered"], result["kept"], result["random"]
    before_text, after_text = (f"{number(one['mean'])}{_interval(one)} (n = {one['n']})" for one in (before, after))
    return (
        f"{before_text} → {after_text}: {number(result['ratio'])}×; "
        f"random {number(random['low'])} to {number(random['high'])}; p {p_value(result['p_within_layers'])}"
    )


def p_value(value: float | None) -> str:
    """A p value, from .001 on with three digits; a dash where there is none."""
    return "–" if value is None else "< .001" if value < 0.001 else f"= {value:.3f}"


def _correlation(numbers: _Numbers, measure: str) -> str:
    overall, within = (numbers["correlations"][measure][name] for name in ("overall", "within_layers"))
    overall_text, within_text = (f"{number(one['rho'])}{_interval(one)}" for one in (overall, within))
    return f"Spearman {overall_text}; within layers {within_text} (n = {overall['n']})"


def _judge(numbers: _Numbers) -> str:
    judged = numbers["kept_against_removed"]["judge_score"]
    sizes = f"n = {judged['kept']['n']} and {judged['removed']['n']}; {judged['n_missing']} features have no judge score"
    return f"{number(judged['difference'])}{_interval(judged)} ({sizes})"


def _choices(numbers: _Numbers) -> str:
    choices = numbers["choices"]
    return f"{percent(choices['share_at_grid_end'])} of choices; {choices['n_failed']} of {choices['n']} choices failed"


_PERPLEXITIES = {
    "continuation": "the geometric mean over continuations",
    "continuation_arithmetic": "the arithmetic mean over continuations",
    "whole_text": "the arithmetic mean over prefixes and continuations together",
}


def _other_perplexities(numbers: _Numbers) -> str:
    by_each, used = numbers["perplexity"][numbers["rule"]], numbers["perplexity"]["used"]
    others = [
        f"{number(by_each[name]['gen_success_20'])} by {words} ({percent(by_each[name]['share_that_differs'])} of choices differ)"
        for name, words in _PERPLEXITIES.items()
        if name != used
    ]
    return "; ".join([f"{number(by_each[used]['gen_success_20'])} by {_PERPLEXITIES[used]}", *others])
