"""The README's table of results, and what ends a run, written from the headline numbers, so that nobody types one."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.metrics import MAX_P, MAX_SHARE_BOTH_HIGH, MIN_RATIO
from saesteer.core.markdown import number, table
from saesteer.run import Run
from saesteer.workflow.outputs import planned_outputs

_Numbers = Mapping[str, Any]

HEADLINE_COLUMNS = ("what", "measured", "holds")


def headline_markdown(numbers: _Numbers) -> str:
    """HEADLINE_COLUMNS as a Markdown table."""
    rows = ((what, measured, "**no**" if holds == "no" else holds) for what, measured, holds in headline_rows(numbers))
    return table(HEADLINE_COLUMNS, rows) + "\n"


def findings_markdown(numbers: _Numbers) -> str:
    """P1's three findings as a Markdown table: HEADLINE_COLUMNS."""
    return table(HEADLINE_COLUMNS, finding_rows(numbers)) + "\n"


def finding_rows(numbers: _Numbers) -> list[tuple[str, str, str]]:
    """P1's three findings: finding, number, and whether it holds by the rule fixed beforehand."""
    depth, both_high, holds = numbers["depth"], numbers["both_above_half"], numbers["findings"]
    gains = {RULES[rule]: numbers["filter"][rule]["all"] for rule in RULES}
    kept, n = (numbers["filter"]["p1"]["all"][name]["n"] for name in ("kept", "unfiltered"))
    n_without = numbers["features"]["n_without_input_score"]
    unscored = f" ({n_without} more have no input score)" if n_without else ""
    return [
        (
            "Early layers have high input scores, late layers high output scores",
            f"rank correlation with depth {depth_rho(depth, 'input_score')} and {depth_rho(depth, 'output_score')}",
            _yes_or_no(holds["roles_change_with_depth"]),
        ),
        (
            f"Under {MAX_SHARE_BOTH_HIGH:.0%} of features score above .5 on both",
            f"{share(both_high['n'], both_high['n_scored'])}, {both_high['n']} of {both_high['n_scored']}{unscored}",
            _yes_or_no(holds["both_scores_high_is_rare"]),
        ),
        (
            f"Features with output score ≥ {numbers['threshold']:g} ({kept} of {n}) steer at least {MIN_RATIO:g}× better than all, and"
            f" better than as many at random (p < {MAX_P:g} within layers)",
            "GenSuccess@20 "
            + "; ".join(
                f"{times(gain['ratio'])}, within layers {times(gain['within'])} (factor by {rule})" for rule, gain in gains.items()
            ),
            ", ".join(_yes_or_no(holds[f"filter_helps_by_{rule}"]) for rule in RULES),
        ),
    ]


def depth_rho(depth: _Numbers, score: str) -> str:
    """The rank correlation of a score's layer medians with depth, and its p."""
    return f"{number(depth[f'rho_{score}'])} (p {p_value(depth[f'p_{score}'])})"


def _yes_or_no(finding: bool) -> str:
    return "yes" if finding else "no"


def headline_rows(numbers: _Numbers) -> list[tuple[str, str, str]]:
    """P1's three findings, then what was measured besides, without a verdict."""
    choices = numbers["choices"]
    gains = [
        row
        for rule in RULES
        for row in (
            (
                f"Held-out GenSuccess@20, all features → those, factor by {RULES[rule]}",
                _gain(numbers["filter"][rule]["all"]),
                "",
            ),
            (f"The same, late layers only, {RULES[rule]}", _gain(numbers["filter"][rule]["late"]), ""),
        )
    ]
    judged = numbers["kept_against_removed"]["judge_score"]
    sizes = f"n = {judged['kept']['n']} and {judged['removed']['n']}; {judged['n_missing']} features have no judge score"
    return [
        *finding_rows(numbers),
        *gains,
        ("Output score against held-out GenSuccess@20, feature by feature", _correlation(numbers["correlations"]["gen_success_20"]), ""),
        ("Output score against judge score, feature by feature", _correlation(numbers["correlations"]["judge_score"]), ""),
        ("Judge score, kept minus removed", f"{_interval(judged, 'difference')} ({sizes})", ""),
        ("The same within concepts and layers", _interval(judged["within"], "difference"), ""),
        (
            "Factor at an end of the grid",
            f"{percent(choices['share_at_grid_end'])} of choices; {choices['n_failed']} of {choices['n']} choices failed",
            "",
        ),
        *(
            (f"Held-out GenSuccess@20, by the perplexity that factors are chosen by, {RULES[rule]}", _perplexities(numbers, rule), "")
            for rule in RULES
        ),
    ]


def finished_words(run: Run) -> Iterator[str]:
    """What ends a run: of a finished experiment its findings, and the next command; nothing of one that is not finished."""
    if not all(Path(file).exists() for file in planned_outputs(run)):
        return
    yield f"{run.name} is finished: its figures and tables are in {run.figures}."
    metrics = run.data / "metrics.json"
    if metrics.is_file():
        for what, measured, holds in finding_rows(json.loads(metrics.read_text(encoding="utf-8"))):
            yield f"  {holds}: {what}: {measured}"
    program = "saesteer" if shutil.which("saesteer") else os.path.relpath(Path(sys.executable).with_name("saesteer"))
    yield f"Next: {program} report {run.name}"


def _interval(numbers: _Numbers, name: str) -> str:
    """A number, with its interval where it has one."""
    interval = "" if numbers["low"] is None else f" [{number(numbers['low'])}, {number(numbers['high'])}]"
    return number(numbers[name]) + interval


def percent(value: float | None) -> str:
    """A share with one digit, or a dash where there is none."""
    return "–" if value is None else f"{value:.1%}"


def share(n: int, n_all: int) -> str:
    """A share of independent things with its exact 95 % interval (Clopper and Pearson), as 3.0% [1.2, 6.1]; a dash of nothing."""
    from scipy.stats import binomtest

    if not n_all:
        return "–"
    low, high = binomtest(n, n_all).proportion_ci()
    return f"{n / n_all:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def p_value(value: float | None) -> str:
    """A p value, from .001 on with three digits; a dash where there is none."""
    return "–" if value is None else "< .001" if value < 0.001 else f"= {value:.3f}"


def _gain(result: _Numbers) -> str:
    before, after = (f"{_interval(result[name], 'mean')} (n = {result[name]['n']})" for name in ("unfiltered", "kept"))
    ratio, mix, within = (times(result[name]) for name in ("ratio", "mix", "within"))
    random = f"random {number(result['random']['low'])} to {number(result['random']['high'])}"
    return f"{before} → {after}: {ratio}, of which layers {mix}, within layers {within}; {random}; p {p_value(result['p_within_layers'])}"


def times(ratio: _Numbers) -> str:
    """A ratio with its interval, as 1.60× [1.19, 2.04]."""
    return "–" if ratio["value"] is None else _interval(ratio, "value").replace(" ", "× ", 1) + ("×" if ratio["low"] is None else "")


def _correlation(of_measure: _Numbers) -> str:
    overall, within = of_measure["overall"], of_measure["within_layers"]
    return f"Spearman {_interval(overall, 'rho')}; within layers {_interval(within, 'rho')} (n = {overall['n']})"


_PERPLEXITIES = {
    "continuation": "the geometric mean over continuations",
    "continuation_arithmetic": "the arithmetic mean over continuations",
    "whole_text": "the arithmetic mean over prefixes and continuations together",
}


def _perplexities(numbers: _Numbers, rule: str) -> str:
    """The success by the perplexity in use, then by each other one."""
    by_perplexity, used = numbers["perplexity"][rule], numbers["perplexity"]["used"]
    parts = [f"{number(by_perplexity[used]['gen_success_20'])} by {_PERPLEXITIES[used]}"]
    for name in (name for name in _PERPLEXITIES if name != used):
        result = by_perplexity[name]
        differing = f"({percent(result['share_that_differs'])} of choices differ)"
        parts.append(f"{number(result['gen_success_20'])} by {_PERPLEXITIES[name]} {differing}")
    return "; ".join(parts)
