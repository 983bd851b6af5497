"""Folders that tests run the workflow of the studies in."""

import shutil
from pathlib import Path

from workflow_folder import ROOT, Folder


class StudyFolder(Folder):
    """A folder with the studies' configuration and experiment files besides."""

    snakefile = "studies/Snakefile"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        shutil.copytree(ROOT / "studies/experiments", path / "studies/experiments")
        shutil.copy(ROOT / "studies/config.yaml", path / "studies")
