"""`saesteer serve`: time to the first token, and texts of 32 clients at once against one after the other.

    python benchmarks/serve.py EXPERIMENT LAYER/FEATURE

The experiment has to be finished here. Prints medians over requests; every client's text is compared with what it gets alone.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

PORT, N_CLIENTS, N_FIRST = 8799, 32, 20
PROMPT = "People often say that"


@contextmanager
def server(experiment: str) -> Iterator[str]:
    """The command, from its first answer on."""
    address = f"http://127.0.0.1:{PORT}"
    process = subprocess.Popen([sys.executable, "-m", "saesteer", "serve", experiment, "--port", str(PORT)])
    try:
        while process.poll() is None:
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def stream(client: httpx.Client, steering: dict[str, Any], seed: int) -> tuple[float, str]:
    """Seconds to the first event, and the steered text."""
    started, first, text = time.perf_counter(), 0.0, ""
    body = {"prompt": PROMPT, "steering": steering, "seed": seed}
    with client.stream("POST", "/api/steer", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                first = first or time.perf_counter() - started
                event = json.loads(line.removeprefix("data: "))
                text = event["text"] if event["steered"] else text
    return first, text


def main(experiment: str, which: str) -> None:
    layer, feature = map(int, which.split("/"))
    steering = {"features": [{"layer": layer, "feature": feature, "factor": 1.6}]}
    limits = httpx.Limits(max_connections=N_CLIENTS)
    with server(experiment) as address, httpx.Client(base_url=address, timeout=120, limits=limits) as client:
        stream(client, steering, 0)
        alone = statistics.median(stream(client, steering, 0)[0] for _ in range(N_FIRST))
        started = time.perf_counter()
        one_by_one = [stream(client, steering, seed)[1] for seed in range(N_CLIENTS)]
        between = time.perf_counter()
        with ThreadPoolExecutor(N_CLIENTS) as clients:
            together = list(clients.map(lambda seed: stream(client, steering, seed), range(N_CLIENTS)))
        ended = time.perf_counter()
    assert [text for _, text in together] == one_by_one
    beside = statistics.median(first for first, _ in together)
    print(f"first token: {1000 * alone:.0f} ms alone, {1000 * beside:.0f} ms with {N_CLIENTS} clients")
    print(f"{N_CLIENTS} texts one by one take {(between - started) / (ended - between):.1f} times as long as at once; all are equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
