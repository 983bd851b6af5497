"""Experiments that stop at the scores: their tables a layer."""

from pathlib import Path

import pytest
import yaml
from workflow_folder import Folder

from saesteer.core.tables import read_summary
from saesteer.steps.features import FEATURES


@pytest.mark.slow
def test_an_experiment_that_stops_at_the_scores(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    before = folder.parts()
    file = folder.path / "config/experiments/micro.yaml"
    shared = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key not in ("sweep", "selection")}
    file.write_text(yaml.safe_dump(shared | {"kind": "scores"}))
    code, printed = folder.run()
    assert code == 0, printed
    assert folder.parts() == before
    made = {layer: read_summary(FEATURES, folder.path / f"data/micro/features/layer_{layer:02d}.parquet") for layer in (2, 6)}
    assert {layer: table.height for layer, table in made.items()} == {2: 4, 6: 4}
    assert "generations" not in folder.snakemakes_log().split("Job stats:")[1].split("\n\n")[0]
