"""The README's table of results, and what ends a run, written from the headline numbers, so that nobody types one."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.metrics import MAX_P, MIN_KEPT, MIN_LAYERS, MIN_RATIO
from saesteer.analysis.selection import CONTROLS
from saesteer.core.markdown import number, table, with_interval
from saesteer.run import Run
from saesteer.workflow.outputs import planned_outputs

_Numbers = Mapping[str, Any]

MOST_TIMES = 1000
"""Larger ends of a ratio's interval are not written out."""
HEADLINE_COLUMNS = ("what", "measured", "holds")
_NONE_KEPT = "no feature is kept"
_CHOICES = {"held_out": "held-out", "same_texts": "in-sample"}


def headline_markdown(numbers: _Numbers, factor_choice: str = "held_out") -> str:
    """HEADLINE_COLUMNS as a Markdown table."""
    return table(HEADLINE_COLUMNS, headline_rows(numbers, factor_choice)) + "\n"


def finding_rows(numbers: _Numbers) -> list[tuple[str, str, str]]:
    """P1's three findings, and the third by a success without lens tokens where there is one: finding, number, and whether it holds by
    the rule fixed beforehand, which says nothing of too few layers or features."""
    both_high, holds, variants = (numbers[name] for name in ("both_above_half", "findings", "variants"))
    to_independence = both_high["to_independence"]
    as_many = "none expected" if to_independence["value"] is None else f"{times(to_independence)} as many as"
    n_layers = numbers["depth"]["n_layers"]
    kept, n = (numbers["filter"]["p1"]["all"][name]["n"] for name in ("kept", "unfiltered"))
    if n_layers < MIN_LAYERS:
        holds = holds | {"roles_change_with_depth": f"not testable: {n_layers} {'layer' if n_layers == 1 else 'layers'} with both scores"}
    if kept < MIN_KEPT:
        holds = holds | dict.fromkeys(("filter_helps", "filter_helps_without_lens_tokens"), f"not testable: only {kept} kept")
    n_without = numbers["features"]["n_without_input_score"]
    unscored = f" ({n_without} more {'has' if n_without == 1 else 'have'} no input score)" if n_without else ""
    nets = {rule: numbers["filter"][rule]["all"]["net"] for rule in RULES}
    plain = " and ".join(f"{times(numbers['filter'][rule]['all']['ratio'])} by {title}" for rule, title in RULES.items())
    rows = [
        (
            "Early layers have high input scores, late layers high output scores",
            f"rank correlation with depth {depth_rho(numbers, 'input_score')} and {depth_rho(numbers, 'output_score')}",
            holds["roles_change_with_depth"],
        ),
        (
            "Fewer features than by chance score above .5 on both",
            f"{as_many} if the scores were independent within layers:"
            f" {share(both_high['n'], both_high['n_scored'])}, {both_high['n']} of {both_high['n_scored']}{unscored}",
            holds["both_scores_high_is_rare"],
        ),
        (
            f"Features with output score ≥ {numbers['threshold']:g} ({kept} of {n}) steer at least {MIN_RATIO:g}× better than all, net of"
            f" unsteered texts and beyond chance within layers (p < {MAX_P:g})",
            f"{_variants_gain(nets, variants)}. GenSuccess@20 itself, as P1 has it: {plain}" if kept else _NONE_KEPT,
            holds["filter_helps"],
        ),
    ]
    outside = numbers["outside"]
    if outside["p1"]["n_features"]:
        what = "The same by how the text without the feature's lens tokens is rated for its concept"
        gain = _variants_gain(outside, outside["variants"]) if kept else _NONE_KEPT
        rows.append((what, gain, holds["filter_helps_without_lens_tokens"]))
    return rows


def _variants_gain(net: _Numbers, variants: _Numbers) -> str:
    """A net gain by both rules, and in how many variants of the analysis it is shown."""
    gains = "; ".join(f"{net_gain(net[rule])} (factor by {title})" for rule, title in RULES.items())
    return f"{gains}; so in {variants['n_showing']} of {variants['n']} variants of the analysis"


def net_gain(net: _Numbers) -> str:
    """How many times the filter raises net success: over all, within layers, and against features there whose lens tokens are as frequent,
    or which are as dense, with two-sided p."""
    within, frequent, dense = (f"{times(net[name])} (p {p_value(net[f'p_{name}'])})" for name in CONTROLS)
    return f"{times(net['ratio'])}, within layers {within}, with lens tokens as frequent {frequent}, with a like density {dense}"


def _kept_minus_removed(difference: _Numbers) -> str:
    kept, removed = (f"{number(difference[part]['mean'])} (n = {difference[part]['n']})" for part in ("kept", "removed"))
    return f"{_interval(difference, 'difference')}: {kept} and {removed}"


def depth_rho(numbers: _Numbers, score: str) -> str:
    """The rank correlation of a score's layer medians with depth, and its p; of equal medians, which have none, what they are."""
    depth, medians = numbers["depth"], {layer[f"median_{score}"] for layer in numbers["layers"]}
    if depth["n_layers"] > 1 and len(medians) == 1 and None not in medians:
        return f"none (the median is {number(medians.pop())} in every layer)"
    return f"{number(depth[f'rho_{score}'])} (p {p_value(depth[f'p_{score}'])})"


def headline_rows(numbers: _Numbers, factor_choice: str = "held_out") -> list[tuple[str, str, str]]:
    """P1's three findings, then what was measured besides, without a verdict. factor_choice: of the settings (`best_factor`)."""
    success = f"{_CHOICES[factor_choice]} GenSuccess@20"
    gains = [
        row
        for rule in RULES
        for row in (
            (
                f"{success[0].upper()}{success[1:]}, all features → those, factor by {RULES[rule]}",
                _gain(numbers["filter"][rule]["all"]),
                "",
            ),
            (f"The same, late layers only, {RULES[rule]}", _gain(numbers["filter"][rule]["late"]), ""),
            (f"Net of unsteered texts, late layers only, {RULES[rule]}", net_gain(numbers["filter"][rule]["late"]["net"]), ""),
        )
    ]
    judged, fluency = (numbers["kept_against_removed"][measure] for measure in ("judge_score", "fluency_rating"))
    unsteered = f"{times(numbers['unsteered']['ratio'])}, within layers {times(numbers['unsteered']['within_layers'])}"
    return [
        *finding_rows(numbers),
        ("Unsteered texts of the same prompts, all features → those", f"GenSuccess@20 {unsteered}", ""),
        *gains,
        (f"Output score against {success}, feature by feature", _correlation(numbers["correlations"]["gen_success_20"]), ""),
        ("The same, net of unsteered texts", _correlation(numbers["correlations"]["net_gen_success_20"]), ""),
        ("Output score against judge score, feature by feature", _correlation(numbers["correlations"]["judge_score"]), ""),
        ("Judge score, kept minus removed", f"{_kept_minus_removed(judged)}; {judged['n_missing']} features have no judge score", ""),
        ("The same within concepts and layers", _interval(judged["within"], "difference"), ""),
        ("Fluency rating, kept minus removed", _kept_minus_removed(fluency), ""),
        ("The same within concepts and layers", _interval(fluency["within"], "difference"), ""),
        ("Factor at an end of the grid", "; ".join(_grid_ends(numbers["choices"][rule], RULES[rule]) for rule in RULES), ""),
    ]


def _grid_ends(choices: _Numbers, title: str) -> str:
    """Where one rule's choices lie in the grid: how many lie at the smallest or the largest factor, how many failed, and how strong the
    factors are where a pilot measured it."""
    made, share = choices["n"] - choices["n_failed"], choices.get("norm_share")
    strength = ""
    if share:
        median, low, high = (number(share[name]) for name in ("median", "low", "high"))
        strength = f", norm share {median} (quartiles {low} and {high})"
    at_end = choices["share_at_grid_end"]
    ends = f"{choices['n_at_grid_end']} of {made} choices ({'–' if at_end is None else f'{at_end:.1%}'})"
    return f"{ends}, {choices['n_failed']} more failed{strength} ({title})"


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
    return with_interval(numbers[name], numbers["low"], numbers["high"])


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
    """A ratio with its interval, as 1.60× [1.19, 2.04]; of an end beyond a thousand only that."""
    if ratio["value"] is None:
        return "–"
    if ratio["low"] is None:
        return f"{number(ratio['value'])}×"
    high = number(ratio["high"]) if ratio["high"] <= MOST_TIMES else f"over {MOST_TIMES}"
    return f"{number(ratio['value'])}× [{number(ratio['low'])}, {high}]"


def _correlation(of_measure: _Numbers) -> str:
    overall, within = of_measure["overall"], of_measure["within_layers"]
    return f"Spearman {_interval(overall, 'rho')}; within layers {_interval(within, 'rho')} (n = {overall['n']})"
