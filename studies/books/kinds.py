"""SAEs of other kinds and sparsities on the finished model of the books."""

from collections.abc import Sequence
from pathlib import Path

from studies.books.build import MODEL_NAME, BooksBuild, drawn_rows, sae_residuals
from studies.world import measure, sae_kinds, train_saes
from studies.world.build import MODEL, SAES
from studies.world.sae_kinds import KindsRecipe

JUMPRELU = {"jumprelu": 1.0, "jumprelu-sparse": 3.0, "jumprelu-dense": 0.25}
"""Kind -> weight of the loss's count of active features (sae_kinds)."""


def train_kinds(build: BooksBuild, layers: Sequence[int], out: Path) -> None:
    """Train what is not there yet on the rows of the SAEs that `make books` trained, BatchTopK with a third and with three times their
    k, JumpReLU at three sparsities; measure all, those too, on rows of the valid books."""
    k = build.recipe.sae.k
    recipe = KindsRecipe(build.recipe.sae, (k // 3, 3 * k), jumprelu=JUMPRELU)
    sae_kinds.build_kinds(sae_residuals(build), layers, recipe, build.seed, MODEL_NAME, build.recipe.model.context, out)
    held_out = drawn_rows(build, build.rows("valid"), build.recipe.measured_rows, "kinds/rows")
    folders = {sae_kinds.SHIPPED: build.folder / SAES, **{name: out / name for name in sae_kinds.names(recipe)}}
    sae_kinds.measure_kinds(train_saes.residuals(measure.load_model(build.folder / MODEL), held_out), layers, folders, out)
