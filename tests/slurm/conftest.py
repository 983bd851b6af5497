"""One SLURM node for a session."""

from collections.abc import Iterator

import pytest
from slurm_node import Node, running_node, why_not


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if reason := why_not():
        pytest.skip(reason)
    with running_node(tmp_path_factory.mktemp("slurm")) as node:
        yield node
