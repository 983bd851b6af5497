"""A recommendation in words: on the feature, and on each rival or the control."""

from saesteer.analysis.recommendation import Choice, PromptMean, Recommendation, Verdict
from saesteer.analysis.suppression import edit_of
from saesteer.settings.registry import METHODS

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
