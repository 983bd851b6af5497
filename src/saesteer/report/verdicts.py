"""A recommendation in words: on the feature, and on each rival or the control."""

from saesteer.analysis.recommendation import STEERS, Choice, Damage, Estimate, Fall, Recommendation, is_worth_following
from saesteer.analysis.suppression import edit_of
from saesteer.settings.registry import METHODS


def sentences_of(recommendation: Recommendation, score_name: str = "judge score") -> list[str]:
    """The verdict in words: on the best feature, then on each rival."""
    if recommendation.fall is not None:
        return _of_less(recommendation, recommendation.fall)
    best, concept, n = recommendation.feature, recommendation.concept, len(recommendation.rivals)
    of_rivals = zip(recommendation.rivals, recommendation.behind, recommendation.rivals_damage or [None] * n, strict=True)
    rivals = [_rival(*of_rival, best, score_name) for of_rival in of_rivals]
    if best is None:
        return [f"No text of a candidate for {concept!r} could be rated, or was within the limit on damage.", *rivals]
    where = f"feature {where_of(best)}"
    score = f"{score_name} {shown(best.score)} of 2, {shown(best.above_unsteered, signed=True)} above unsteered"
    if recommendation.verdict == "use":
        return [f"Use {where}: {score}.", *rivals]
    if recommendation.verdict == "harmful":
        damage = "its damage (below) is above recommendation.damage_limit: try a smaller factor"
        return [f"Do not use {where}: it steers towards {concept!r}, {score}, but {damage}.", *rivals]
    if recommendation.verdict == "weak":
        return [f"The best candidate, {where}, {_how_well(best, concept)}: {score}.", *rivals]
    return [f"No candidate is seen to steer towards {concept!r}: the best is {where}, {score}.", *rivals]


def _how_well(best: Choice, concept: str) -> str:
    """That a feature whose score is not shown to be STEERS or more has a lower one, or that too few prompts leave it open."""
    interval = best.score.interval
    if interval is not None and interval.high < STEERS:
        return f"steers weakly towards {concept!r}"
    return f"steers towards {concept!r}, but there are too few prompts to show that its score is {STEERS:g} or more"


def _of_less(recommendation: Recommendation, fall: Fall) -> list[str]:
    best, concept = recommendation.feature, recommendation.concept
    assert best is not None
    where, falls = f"feature {where_of(best)}", f"the concept rating falls by {shown(fall.of_feature)} of 2"
    beyond = f"{shown(fall.beyond_control, signed=True)} further than with the control"
    said = {
        "use": f"Use {where} for less of {concept!r}: {falls}, {beyond}.",
        "harmful": f"Do not use {where} for less of {concept!r}: {falls}, {beyond}, but its damage (below) is above"
        " recommendation.damage_limit: try a factor nearer to 0.",
        "weak": f"The best candidate for less of {concept!r} is {where}: {falls}, which is not seen to be further than with the control"
        f" ({shown(fall.beyond_control, signed=True)}).",
        "none": f"No candidate is seen to give less of {concept!r}: the best is {where}, with which {falls}.",
    }
    control = f"Control, features of the layer that nothing links to it, at the same factor: it falls by {shown(fall.of_control)}."
    return [said[recommendation.verdict], control]


def where_of(choice: Choice) -> str:
    """A feature and what is done with it."""
    done = f"at factor {choice.factor}" if edit_of(choice.factor)[0] == "addition" else choice.factor
    return f"{choice.layer}/{choice.name} {done}"


def _rival(rival: Choice, behind: Estimate, damage: Damage | None, best: Choice | None, score_name: str) -> str:
    has_layer = any(row.key == rival.kind and row.has_layer for row in METHODS)
    where = f"layer {rival.layer}, factor {rival.factor}" if has_layer else f"factor {rival.factor}"
    scored = f"{rival.name} at {where}: {score_name} {shown(rival.score)}"
    if best is None or behind.interval is None:
        return f"{scored}."
    low, high = behind.interval
    against = "better than" if low > 0 else "worse than" if high < 0 else "as good as"
    unsure = "" if low > 0 or high < 0 else ", as far as is seen"
    is_better = low > 0 and is_worth_following(rival)
    advice = ", but its damage is above recommendation.damage_limit" if damage and damage.is_too_much else ": use it instead"
    instead = advice if is_better else ""
    broken = (
        "" if damage is None else f"; perplexity of its texts {shown(damage.perplexity)} × unsteered, loss on ordinary text not measured"
    )
    return f"{scored}{broken}; {against} the feature{unsure} ({shown(behind, signed=True)}){instead}."


def shown(estimate: Estimate | None, signed: bool = False) -> str:
    """mean [low, high], n."""
    if estimate is None or estimate.mean is None or estimate.interval is None:
        return "unknown"
    sign = "+" if signed else ""
    low, high = estimate.interval
    return f"{estimate.mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}] (n = {estimate.n})"
