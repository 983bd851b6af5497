"""Steering vectors as a safetensors file: one tensor [d_model] a concept, named with the concept's text. The way in for vectors that were
trained elsewhere, and the way out for those that were fitted here."""

import logging
from pathlib import Path

import polars as pl
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saesteer.core.errors import check_known
from saesteer.core.files import write_atomically
from saesteer.engine.interventions import Addition, unpacked
from saesteer.settings import SettingsError

ALGORITHM_VERSION = 1

log = logging.getLogger(__name__)


def read_vectors(path: Path, d_model: int) -> dict[str, Float[Tensor, " d_model"]]:
    """Concept -> vector of a file, as long as they are there, in float32; what cannot be a direction is refused by name."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError) as error:
        raise SettingsError(f"{path} cannot be read as safetensors: {error}") from error
    if not tensors:
        raise SettingsError(f"{path} holds no tensors: it needs one of {d_model} numbers a concept, named with the concept's text")
    for name, tensor in tensors.items():
        _check_direction(f"{path}, tensor {name!r}", tensor, d_model)
    return {name: tensor.float() for name, tensor in tensors.items()}


def _check_direction(where: str, tensor: Tensor, d_model: int) -> None:
    norm = float(tensor.float().norm())
    if tuple(tensor.shape) != (d_model,):
        raise SettingsError(f"{where}: its shape is {list(tensor.shape)}, but vectors at the SAE's hook point have [{d_model}]")
    if not tensor.is_floating_point():
        raise SettingsError(f"{where}: its type is {tensor.dtype}; save it as floating-point numbers")
    if not bool(tensor.float().isfinite().all()):
        raise SettingsError(f"{where}: it holds NaN or infinite numbers")
    if not 0 < norm < float("inf"):
        raise SettingsError(f"{where}: its norm is {norm} in float32, so it has no direction")


def write_vectors(fits: pl.DataFrame, concepts: pl.DataFrame, method: str, path: Path) -> None:
    """Write the unit vectors that a method fitted for the experiment's concepts, in the form of `read_vectors`."""
    additions = fitted_additions(fits, concepts, method)
    vectors = {concept: addition.vector.float().contiguous() for concept, addition in additions.items()}
    for concept, vector in vectors.items():
        _check_direction(f"{path}, tensor {concept!r}", vector, len(vector))
    write_atomically(path, lambda partial: save_file(vectors, partial))


def fitted_additions(fits: pl.DataFrame, concepts: pl.DataFrame, method: str) -> dict[str, Addition]:
    """Concept -> what a method that fits vectors adds for it.

    `fits` are FITS rows of one layer (of other methods too; `method` is the key); `concepts` has concept_id and concept. Concepts for which
    the method abstains are left out.
    """
    rows = fits.filter(method=method).join(concepts.select("concept_id", "concept"), on="concept_id", how="left", maintain_order="left")
    fitted = rows.filter(pl.col("kind").is_not_null())
    check_known("method", method, sorted(set(fits["method"])))
    if rows["layer"].n_unique() > 1:
        raise SettingsError(f"method {method} was fitted at layers {', '.join(map(str, sorted(set(rows['layer']))))}: choose one")
    if rows["concept"].has_nulls():
        raise SettingsError(f"method {method}: concept_id {rows.filter(pl.col('concept').is_null())['concept_id'][0]} was not asked for")
    if fitted.is_empty():
        raise SettingsError(f"method {method} abstains for every concept ({rows['reason'][0]}): there are no vectors to write")
    if len(fitted) < len(rows):
        log.warning("method %s abstains for %d of %d concepts, which are left out", method, len(rows) - len(fitted), len(rows))
    additions = {}
    for concept, kind, tensors, values in fitted.sort("concept").select("concept", "kind", "tensors", "values").iter_rows():
        intervention = unpacked(kind, tensors, values)
        if not isinstance(intervention, Addition):
            raise SettingsError(f"method {method} fits interventions of kind {kind}, which are no vectors; only additions can be written")
        additions[concept] = intervention
    return additions
