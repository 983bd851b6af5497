"""The models that answered under a judge's name: several, where the name went over to another model. Apart from what is asked, so that the
report does not depend on that."""

import json
from pathlib import Path

import polars as pl

from saesteer.core.store import sound_parts
from saesteer.settings import Endpoint


def answering_models(folder: Path) -> list[str]:
    """The models that gave the answers in a judge's folder, as they name themselves."""
    names = [pl.read_parquet(part, columns=["model"])["model"] for part in sound_parts(folder)]
    return sorted({name for part in names for name in part.drop_nulls()})


def models_behind(settings: Endpoint, answers_folder: Path) -> list[str]:
    """Those that answered where a judge with these settings was asked."""
    wanted = {"kind": "endpoint", "model": settings.model, "max_tokens": settings.max_tokens, "seed": settings.seed}
    files = [file for file in answers_folder.glob("*/fingerprint.json") if wanted.items() <= json.loads(file.read_text()).items()]
    return sorted({model for file in files for model in answering_models(file.parent)})
