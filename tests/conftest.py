"""Checks on in every test: shapes and types of the package's public functions (jaxtyping + beartype); and the finished experiment."""

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from workflow_folder import Folder

install_import_hook("saesteer", "beartype.beartype")

# How long one example takes says more about the machine than about the code.
settings.register_profile("saesteer", deadline=None)
settings.load_profile("saesteer")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "Folder":
    """The micro experiment, finished; tests change copies of it only."""
    from workflow_folder import Folder

    folder = Folder(tmp_path_factory.mktemp("micro") / "repo")
    code, output = folder.run()
    assert code == 0, output
    return folder
