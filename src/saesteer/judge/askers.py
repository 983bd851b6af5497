"""The judges that a configuration can name, ready to be asked."""

from collections.abc import Mapping
from pathlib import Path

from saesteer.judge.answers import Asker
from saesteer.judge.batch import POLL_SECONDS, BatchAsker
from saesteer.judge.budget import Budget
from saesteer.judge.endpoint import MAX_RETRIES, EndpointAsker, check_key
from saesteer.settings import Endpoint, LocalModelJudge


def endpoint_asker(
    settings: Endpoint, environ: Mapping[str, str], data: Path, max_retries: int = MAX_RETRIES, poll_seconds: float = POLL_SECONDS
) -> EndpointAsker | BatchAsker:
    """A judge behind an endpoint, by batches or one by one, with its key from the environment and the budget of the experiment whose data
    folder is `data`.

    Refuses a missing key. The address and the key are no part of what its answers are stored under.
    """
    key, budget = check_key(settings, environ), Budget(settings, data)
    if settings.batch:
        return BatchAsker(settings, key, budget, max_retries, poll_seconds)
    return EndpointAsker(settings, key, budget, max_retries)


def local_model_asker(settings: LocalModelJudge, folder: Path, device: str, weights: str) -> Asker:
    """A judge loaded from its folder; `weights` is the digest of its files (its pin's), which its answers are stored under."""
    from saesteer.engine.models import load_language_model  # needs torch, as does the other
    from saesteer.judge.local_model import local_asker

    return local_asker(load_language_model(folder, settings.model.dtype, device), settings, weights)
