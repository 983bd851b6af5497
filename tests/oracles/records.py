"""Slow, obvious versions of the formulas over records, lens tokens and generations, written from P1's text with plain Python."""


def top_records(dense: dict[str, list[list[float]]], feature: int, n_records: int) -> list[tuple[str, int, float]]:
    """(text_id, position, value) of a feature's records. `dense` holds each text's codes, [position][feature]; position 0 is BOS."""
    records = []
    for text_id, codes in dense.items():
        values = [row[feature] for row in codes]
        best = max(range(1, len(values)), key=lambda position: (values[position], -position))
        if values[best] > 0:
            records.append((text_id, best, values[best]))
    return sorted(records, key=lambda record: (-record[2], record[0]))[:n_records]


def input_score(record_token_ids: list[int], lens_token_ids: list[int], min_records: int) -> float | None:
    """P1: the fraction of a feature's records whose maximal token is among its lens tokens."""
    if len(record_token_ids) < min_records:
        return None
    return sum(token in lens_token_ids for token in record_token_ids) / len(record_token_ids)


def gen_success(generated: list[int], lens_token_ids: list[int], k: int) -> int:
    """P1: how many generated tokens are among the first k lens tokens."""
    return sum(token in lens_token_ids[:k] for token in generated)


def concept(record_topics: list[int | None], token_topics: list[int], min_share: float) -> tuple[int | None, float, float]:
    """(topic or None, share, lift) of highest lift among the topics of enough share, or among all; token_topics are the topics of all
    labelled tokens."""
    best = (False, -1.0, 0, 0.0)
    for topic in sorted({t for t in record_topics if t is not None}):
        share = sum(t == topic for t in record_topics) / len(record_topics)
        lift = share / (sum(t == topic for t in token_topics) / len(token_topics))
        if (share >= min_share, lift) > best[:2]:
            best = (share >= min_share, lift, topic, share)
    _, lift, topic, share = best
    return (topic if share >= min_share else None), share, lift
