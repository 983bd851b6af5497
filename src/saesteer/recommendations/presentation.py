"""An answer in words, in Markdown and in a terminal: the verdict on the feature, on each rival or the control, candidates and texts."""

import shlex
from collections.abc import Iterator

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saesteer.analysis.best_factor import highest
from saesteer.analysis.recommendation import FEATURE, UNSTEERED, Choice, PromptMean, Recommendation, Verdict, edit_of, unsteered_texts
from saesteer.core.markdown import escaped, printable, table, words
from saesteer.recommendations.answer import Answer
from saesteer.recommendations.scoring import limits
from saesteer.settings.registry import METHODS

N_CANDIDATES = 8
"""Candidates shown in a terminal, at most."""
_CANDIDATE_COLUMNS = ("feature", "matched by", "fires on", "writes", "input score", "output score", "best mean score", "at factor")
_UNRATED = "unrated"
_NO_SCORE = "none"
LIMITED = (
    "Limited damage: of the strengths those are left out at which the perplexity of the texts, or of ordinary text, is not seen to be at"
    " most {limit:g} times the unsteered one (--max-damage)."
)
_TEXT = ("text", "judge_score", "concept_rating", "fluency_rating")
_HELD_OUT = "on prompts that took no part in the choice"
BEGINNINGS: dict[Verdict, str] = {"use": "Use", "try it": "Try", "don't": "Don't use"}
"""How a verdict is said of a feature."""


def sentences_of(recommendation: Recommendation, score_name: str = "judge score") -> list[str]:
    """The verdict in words: on the best feature, then on each rival or the control."""
    best, concept, fall = recommendation.feature, recommendation.concept, recommendation.fall
    rivals = [_rival(*of_rival, best, score_name) for of_rival in zip(recommendation.rivals, recommendation.behind, strict=True)]
    if best is None:
        return [f"Don't steer: no text of a candidate for {concept!r} could be rated, or was within the limit on damage.", *rivals]
    beginning = f"{BEGINNINGS[best.verdict]} feature {where_of(best)}"
    if fall is None:
        measured = f"{score_name} {shown(best.score)} of 2, {shown(best.above_unsteered, signed=True)} above unsteered"
        return [f"{beginning}: {measured}.{_lacking(best)}", *rivals]
    measured = f"the concept rating falls by {shown(fall.of_feature)} of 2"
    beyond = f"{shown(fall.beyond_control, signed=True)} further than with the control"
    control = f"Control, features of the layer that nothing links to it, at the same factor: it falls by {shown(fall.of_control)}."
    return [f"{beginning} for less of {concept!r}: {measured}, {beyond}.{_lacking(best)}", control]


def _lacking(choice: Choice) -> str:
    """What is required and not met; of what meets all by its means, what is not shown."""
    unmet, unshown = (", ".join(what for what, how in choice.requirements.items() if how == level) for level in ("no", "open"))
    return f" Not met: {unmet}." if unmet else f" Not shown yet: {unshown}." if unshown else ""


def where_of(choice: Choice) -> str:
    """A feature and what is done with it."""
    done = f"at factor {choice.factor}" if edit_of(choice.factor)[0] == "addition" else choice.factor
    return f"{choice.layer}/{choice.name} {done}"


def _rival(rival: Choice, behind: PromptMean, best: Choice | None, score_name: str) -> str:
    has_layer = any(row.key == rival.kind and row.has_layer for row in METHODS)
    where = f"layer {rival.layer}, factor {rival.factor}" if has_layer else f"factor {rival.factor}"
    broken = f"perplexity of its texts {shown(rival.perplexity)} × unsteered, loss on ordinary text not measured"
    scored = f"{rival.name} at {where}: {score_name} {shown(rival.score)}; {broken}"
    if best is None or behind.interval is None:
        return f"{scored}."
    low, high = behind.interval
    against = "better than" if low > 0 else "worse than" if high < 0 else "as good as"
    unsure = "" if low > 0 or high < 0 else ", as far as is seen"
    instead = ": use it instead" if low > 0 and rival.verdict == "use" else ""
    return f"{scored}; {against} the feature{unsure} ({shown(behind, signed=True)}){instead}.{_lacking(rival) if low > 0 else ''}"


def shown(estimate: PromptMean | None, signed: bool = False) -> str:
    """mean [low, high], n."""
    if estimate is None or estimate.mean is None or estimate.interval is None:
        return "unknown"
    sign = "+" if signed else ""
    low, high = estimate.interval
    return f"{estimate.mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}] (n = {estimate.n})"


def verdict_lines(answered: Answer) -> list[str]:
    """The verdict in words, the limit on damage if one was set, and who rated where it was no judge."""
    limit = answered.question.max_damage
    limited = [] if limit is None else [LIMITED.format(limit=limit)]
    by_words = [limits(answered.question.words)] if answered.by_words else []
    return [*sentences_of(answered.recommendation, answered.score_name), *limited, *by_words]


def page_of(answered: Answer) -> str:
    """The answer as Markdown: verdict, what it does and what it breaks, candidates, and texts."""
    best = answered.recommendation.feature
    parts = [f"# {escaped(answered.title)}\n", *(f"- {line}" for line in verdict_lines(answered))]
    if best is not None:
        measured = [
            (f"{answered.score_name}, 0 to 2", shown(best.score)),
            ("concept, 0 to 2", shown(best.concept)),
            ("fluency, 0 to 2", shown(best.fluency)),
            ("perplexity of its texts, × unsteered", shown(best.perplexity)),
            ("loss on ordinary text, nats a token more", shown(answered.recommendation.ordinary_loss, signed=True)),
        ]
        heading = f"## Feature {where_of(best)}, {_HELD_OUT}\n"
        parts += ["", heading, table(["measured", "mean [95 %]"], measured)]
    cells = ([escaped(cell) for cell in row] for row in _candidate_cells(answered.candidates, answered.choosing))
    parts += ["", "## Candidates, on the prompts that chose\n", table(_CANDIDATE_COLUMNS, cells)]
    if best is not None:
        parts += ["", f"## Texts of feature {where_of(best)}, and unsteered\n"]
        cells = ([escaped(cell) for cell in row] for row in _text_cells(_pairs(answered.scoring, best)))
        parts.append(table(["prompt", "unsteered", "rated", "steered", "rated"], cells))
    return "\n".join(parts) + "\n"


def show(answered: Answer, console: Console) -> None:
    """Print the answer's gist: the verdict, what the steering does and breaks, texts beside unsteered ones, and the best candidates."""
    for line in gist(answered):
        console.print(Text(printable("\n".join(" ".join(part.split()) for part in line.splitlines()))), soft_wrap=True)
    cells = _candidate_cells(answered.candidates, answered.choosing)
    best = cells[:N_CANDIDATES]
    title = f"{len(best)} of {len(cells)} candidates, by their best mean {answered.score_name} on the prompts that chose"
    candidates = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))  # fits 60 columns
    for title in ("feature", "matched by", "fires on", "writes", "score", "factor"):
        wrapped = title in ("matched by", "fires on", "writes")
        candidates.add_column(title, no_wrap=not wrapped, min_width=9 if wrapped else None)
    for feature, match, fires_on, tokens, *_, score, factor in best:
        writes = " ".join(tokens.split()[:3])
        candidates.add_row(*(Text(printable(cell)) for cell in (feature, match, fires_on, writes, score, factor)))
    console.print(candidates)


def gist(answered: Answer) -> list[str]:
    """The verdict, what is measured of the feature, typical texts, and how to try it."""
    question, best = answered.question, answered.recommendation.feature
    lines = [answered.title, *verdict_lines(answered)]
    if best is None:
        return lines
    lines += [
        f"All {_HELD_OUT}: concept {shown(best.concept)}, fluency {shown(best.fluency)}, each of 2.",
        f"Perplexity of its texts as a multiple of the unsteered ones': {shown(best.perplexity)}.",
        f"Loss on ordinary text: {shown(answered.recommendation.ordinary_loss, signed=True)} nats a token.",
    ]
    pairs = _typical(_pairs(answered.scoring, best))
    lines.append(f"Texts of {pairs.height} prompts, from a low, the middle and a high {answered.score_name} of the steered one:")
    between = "\n" if answered.is_reply else ""
    for prompt, unsteered, its_ratings, steered, ratings in _text_cells(pairs):
        sides = ((f"unsteered ({its_ratings})", unsteered), (f"steered ({ratings})", steered))
        lines += [f"- {side}: {prompt}{between}{text}" for side, text in sides]
    prompt, options = shlex.quote(text := pairs["prompt"][pairs.height // 2]), _options(best.factor)
    words = f"{options} -- {prompt}" if text.startswith("-") else f" {prompt}{options}"
    return [*lines, f"Try it: saesteer steer {question.name} {best.layer}/{best.name}{words}"]


def _options(factor: str) -> str:
    """Options of `saesteer steer` with a strength."""
    edit, number = edit_of(factor)
    of_edit = "" if edit == "addition" else f" --edit {edit}"
    return of_edit if edit == "ablation" else f"{of_edit} --factor {number:g}"


def _candidate_cells(picked: pl.DataFrame, rated: pl.DataFrame) -> list[list[str]]:
    """A row a candidate, the best first; its best mean is over the prompts that chose its factor, and so too high."""
    cells = []
    means = rated.filter(pl.col("factor") != UNSTEERED, kind=FEATURE).group_by("layer", "name", "factor").agg(pl.col("judge_score").mean())
    bests = highest(means.sort("layer", "name", "factor"), ["layer", "name"])
    for row in picked.iter_rows(named=True):
        best = bests.filter(layer=row["layer"], name=str(row["feature"])).rows(named=True)
        explanation = row["labelled"] if row["explanation"] == row["label"] else row["explanation"]
        fires_on = row["concept"] or explanation or row["fires_on"] or "unclear"
        scores = [f"{row[name]:.2f}" if row[name] is not None else "unknown" for name in ("input_score", "output_score")]
        at_best = [f"{best[0]['judge_score']:.2f}", best[0]["factor"]] if best else [_NO_SCORE, ""]
        tokens = words(row["top_logit_lens_tokens"][:5])
        cells.append([f"{row['layer']}/{row['feature']}", row["match"], fires_on, tokens, *scores, *at_best])
    return sorted(cells, key=lambda cell: (cell[-2] != _NO_SCORE, cell[-2]), reverse=True)


def _pairs(texts: pl.DataFrame, best: Choice) -> pl.DataFrame:
    """The first text of each prompt by the recommended feature, beside the first unsteered one."""
    steered = texts.filter(kind=FEATURE, layer=best.layer, name=best.name, factor=best.factor)
    unsteered = unsteered_texts(texts).unique("prefix_id", keep="first").select("prefix_id", *_TEXT)
    return steered.unique("prefix_id", keep="first", maintain_order=True).join(
        unsteered, on="prefix_id", maintain_order="left", suffix="_unsteered"
    )


def _typical(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pair in the middle of each third by the steered text's score: what a low, a middling and a high score look like."""
    places = dict.fromkeys(pairs.height * sixth // 6 for sixth in (1, 3, 5))
    return pairs.sort("judge_score", nulls_last=False, maintain_order=True)[[*places]]


def _text_cells(pairs: pl.DataFrame) -> Iterator[list[str]]:
    """prompt, then of the unsteered and of the steered text: the text, and how it was rated."""
    for row in pairs.iter_rows(named=True):
        texts = ([row[f"{column}{end}"] for column in _TEXT] for end in ("_unsteered", ""))
        yield [row["prompt"], *(cell for text, *ratings in texts for cell in (text or "", _rating_words(*ratings)))]


def _rating_words(score: float | None, concept: float | None, fluency: float | None) -> str:
    return _UNRATED if score is None else f"score {score:.2f}: concept {concept:g}, fluency {fluency:g}"
