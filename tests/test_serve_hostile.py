"""`saesteer serve` against clients that read what is not theirs, flood it, leave, or never finish what they send."""

# ruff: noqa: F811 (fixtures of another file)

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served import Served, get, post
from test_evaluation import finished_fits  # noqa: F401
from test_serve import FEATURE, LAYER, MEDICINE, PROMPT, served, serving_fits, with_token  # noqa: F401
from tokenizer_kinds import KINDS

from saesteer.engine.continuation import Sampling
from saesteer.serve import scheduler as scheduling
from saesteer.serve.guard import LARGEST_BODY
from saesteer.serve.requests import SteeringField
from saesteer.serve.scheduler import Busy, TextProgress, TextRequest
from saesteer.serve.server import _chunks

COMPLETION = {"prompt": PROMPT, "max_tokens": 1}


def texts_of(served: Served, sampling: Sampling, n: int = 1) -> list[TextRequest]:
    return served.model.texts(PROMPT, served.model.setting(SteeringField.model_validate(MEDICINE)), sampling, n, 0)


@contextlib.contextmanager
def held(served: Served) -> Iterator[None]:
    """No token is computed meanwhile."""
    begun, let_go = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        let_go.wait(60)

    thread = threading.Thread(target=served.scheduler.run, args=(wait,))
    thread.start()
    assert begun.wait(30)
    try:
        yield
    finally:
        let_go.set()
        thread.join()


def eventually(holds: Callable[[], object], within: float = 10) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


TEXT = {"prompt": PROMPT, "steering": {}}
NEXT = {"prompt": PROMPT, "steering": MEDICINE, "layer": LAYER, "feature": FEATURE}
NO_FIT = {"fit": {"method": "nonsense", "concept": "sea", "layer": LAYER}}


def features(*named: tuple[int, int, float]) -> dict[str, Any]:
    return {"features": [{"layer": layer, "feature": feature, "factor": factor} for layer, feature, factor in named]}


NOT_HONOURED: tuple[dict[str, Any], ...] = (
    {"logprobs": 0}, {"logprobs": 5}, {"logprobs": True}, {"echo": True}, {"best_of": 3}, {"presence_penalty": 1}, {"n": 17},
    {"logit_bias": {"5": 1}}, {"stream_options": {"include_usage": True}}, {"store": True}, {"max_tokens": 0}, {"temperature": 2.5},
    {"stop": [""]}, {"stop": ["a", "b", "c", "d", "e"]},
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/api/steer", TEXT | {"steering": features((6, 99999, 1))}, "99999"),
        ("/api/steer", TEXT | {"steering": features((2, 1, 1))}, "there is no layer '2' here. Known: 6"),
        ("/api/steer", TEXT | {"steering": features((6, 1, -1001))}, "factor"),
        (
            "/api/steer",
            TEXT | {"steering": features((6, 1, 1), (5, 1, 1))},
            "features are of layers 5, 6: choose features of one layer",
        ),
        ("/api/steer", TEXT | {"steering": features((6, 1, 1), (6, 1, 2))}, "named twice"),
        ("/api/steer", TEXT | {"prompt": ""}, "prompt"),
        ("/api/steer", TEXT | {"prompt": "people " * 2000}, "at most 64"),
        ("/api/steer", TEXT | {"path": "/etc/passwd"}, "path"),
        ("/api/steer", TEXT | {"steering": NO_FIT}, "nonsense"),
        ("/api/steer", TEXT | {"temperature": 3}, "temperature"),
        ("/api/steer", TEXT | {"steering": MEDICINE | {"edit": "ablation"}}, "an ablation has no strength: its factor is 1"),
        ("/api/steer", TEXT | {"steering": {"edit": "clamp"}}, "edit clamp takes one feature, not 0"),
        ("/api/steer", "no object", "object"),
        ("/api/next", NEXT | {"layer": 2}, "there is no layer '2' here"),
        ("/api/next", NEXT | {"feature": 99999}, "99999"),
        ("/api/next", NEXT | {"steering": NO_FIT}, "nonsense"),
        ("/api/next", NEXT | {"prompt": "people " * 2000}, "at most 64"),
        *(("/v1/completions", {"prompt": PROMPT} | given, next(iter(given))) for given in NOT_HONOURED),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(served: Served, path: str, body: Any, said: str) -> None:
    answer = served.post(path, body)
    error = answer.json()["error"]
    assert (answer.status_code, said in error["message"], error["type"]) == (400, True, "invalid_request_error"), answer.text
    assert path != "/v1/completions" or error["message"].startswith(said)


def test_what_a_page_of_another_site_can_send_is_refused(served: Served) -> None:
    body = {"prompt": PROMPT, "steering": MEDICINE}
    assert served.post("/api/steer", body, Host="attacker.example").status_code == 421  # DNS rebinding
    assert get(served.address, headers={"Host": "attacker.example"}).status_code == 421
    assert served.post("/api/steer", body, Origin="https://attacker.example").status_code == 403  # CSRF
    assert served.post("/api/steer", body, Origin="null").status_code == 403
    form = post(f"{served.address}/api/steer", content=json.dumps(body), headers={"Content-Type": "text/plain"})
    assert form.status_code == 415  # what a form can send without asking first
    assert served.post("/api/steer", body, Origin=served.address).status_code == 200


def test_what_is_too_large_is_refused(served: Served) -> None:
    assert served.post("/api/steer", {"prompt": "x" * LARGEST_BODY, "steering": {}}).status_code == 413
    chunks = post(f"{served.address}/api/steer", content=iter([b"{}"]), headers={"Content-Type": "application/json"})
    assert chunks.status_code == 413


def test_chunks_beside_a_length_are_refused(served: Served) -> None:
    """HTTP reads the chunks then, however many there are, and not the length."""
    body = json.dumps({"prompt": PROMPT, "steering": {}, "max_tokens": 1}).encode()
    head = "POST /api/steer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 5\r\n"
    with served.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n") as client:
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 413 "), answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),  # typed, or a bookmark
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),  # a link that is followed
        *(
            ({"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}, 403)
            for site in ("cross-site", "same-site")
            for mode, dests in {"no-cors": ("script", "image"), "cors": ("empty",), "navigate": ("iframe", "embed", "object")}.items()
            for dest in dests
        ),
    ],
)
def test_only_the_servers_own_pages_load_parts_of_it(served: Served, headers: dict[str, str], status: int) -> None:
    for path in ("/", "/v1/models"):
        assert get(f"{served.address}{path}", headers=headers).status_code == status


def test_no_answer_may_be_used_or_framed_by_another_origin(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pages and texts nor refusals and failures."""

    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError

    answers = [
        (200, get(served.address)),
        (200, post(f"{served.address}/v1/completions", json=COMPLETION)),
        (200, post(f"{served.address}/v1/completions", json=COMPLETION | {"stream": True})),
        (400, post(f"{served.address}/v1/completions", json={})),
        (403, post(f"{served.address}/v1/completions", headers={"Origin": "null"}, json=COMPLETION)),
        (404, get(f"{served.address}/nothing")),
        (405, served.post("/v1/models", {})),
        (421, get(served.address, headers={"Host": "attacker.example"})),
    ]
    monkeypatch.setattr(served.scheduler, "submit", fail)
    answers.append((500, post(f"{served.address}/v1/completions", json=COMPLETION)))
    for status, answer in answers:
        said = {name: answer.headers.get(name) for name in ("cross-origin-resource-policy", "x-content-type-options")}
        assert (answer.status_code, said) == (status, {"cross-origin-resource-policy": "same-origin", "x-content-type-options": "nosniff"})
        assert "frame-ancestors 'none'" in answer.headers.get("content-security-policy", "")


@pytest.mark.parametrize("name", ["[", "[::1", "]", "127.0.0.1:x:y"])
def test_names_that_are_none_are_refused(served: Served, name: str) -> None:
    assert get(served.address, headers={"Host": name}).status_code in (400, 421)
    for origin in (f"http://{name}", "http://127.0.0.1:1"):
        assert served.post("/v1/completions", COMPLETION, Origin=origin).status_code == 403


@pytest.mark.parametrize("name", ["gpu-7", "gpu-7.example.org", "10.1.2.3", "[fe80::1]"])
def test_a_server_with_a_token_has_any_name(with_token: Served, name: str) -> None:
    """Whoever listens on every address cannot know its names. A page that gives itself this address (DNS rebinding) has no token."""
    host = f"{name}:8765"
    opened = get(with_token.address, params={"token": "secret"}, headers={"Host": host})
    assert (opened.status_code, "refresh" in opened.headers, "location" in opened.headers) == (200, False, False)
    assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in opened.headers["set-cookie"].split(";")}
    cookie = opened.headers["set-cookie"].partition(";")[0]
    mine = {"Host": host, "Origin": f"http://{host}", "Cookie": cookie}
    assert with_token.post("/v1/completions", COMPLETION, **mine).status_code == 200
    assert with_token.post("/v1/completions", COMPLETION, **mine | {"Origin": f"http://{name}:1"}).status_code == 403
    assert with_token.post("/v1/completions", COMPLETION, Host=host, Origin=f"http://{host}").status_code == 401


def test_texts_that_wait_and_that_are_written_are_at_most_512(served: Served) -> None:
    """Whether they come one by one, and so wait never for long, or at once. Those that have ended make room."""
    (text,), jobs, n_refused = texts_of(served, Sampling(50, stop="")), [], 0
    ends: list[TextProgress] = []

    def write(number: int, progress: TextProgress) -> None:
        ends.extend([progress] if progress.finish else [])

    for _ in range(600):
        try:
            jobs.append(served.scheduler.submit([text], write))
            time.sleep(0.001)
        except Busy:
            n_refused += 1
    assert 512 <= len(jobs) <= 512 + len(ends)
    assert n_refused == 600 - len(jobs) > 0
    refused = [
        served.post("/v1/completions", COMPLETION),
        served.post("/v1/completions", COMPLETION | {"stream": True}),
        served.post("/api/next", {"prompt": PROMPT, "steering": MEDICINE, "layer": LAYER, "feature": FEATURE}),
    ]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "2")}
    for job in jobs:
        job.cancel()
    assert eventually(lambda: served.post("/v1/completions", COMPLETION).status_code == 200)


def test_streams_at_once_are_refused_before_they_begin(served: Served) -> None:
    body = {"prompt": [PROMPT] * 8, "n": 16, "max_tokens": 1, "stream": True}
    with ThreadPoolExecutor(8) as clients, held(served):  # let go before the clients are waited for
        asked = [clients.submit(served.post, "/v1/completions", body) for _ in range(8)]
        assert eventually(lambda: sum(one.done() for one in asked) == 4)
    answers = [one.result() for one in asked]
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 4
    assert all(answer.text.rstrip().endswith("[DONE]") for answer in answers if answer.status_code == 200)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 50, "n": 16}),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 50, "n": 16, "stream": True}),
        ("/api/next", {"prompt": PROMPT, "steering": MEDICINE, "layer": LAYER, "feature": FEATURE}),
    ],
)
def test_nothing_is_computed_for_a_client_that_has_left(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    batches: list[int] = []
    looked: list[Any] = []
    advance = scheduling._Batch.advance

    def recorded(batch: scheduling._Batch) -> bool:
        batches.append(batch.n_rows)
        return advance(batch)

    monkeypatch.setattr(scheduling._Batch, "advance", recorded)
    monkeypatch.setattr(type(served.model), "next_log_probs", lambda model, params: looked.append(params))
    with held(served):
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
        leaving = served.raw(head.encode() + sent)
        time.sleep(0.5)
        leaving.close()
        time.sleep(0.5)
    (other,) = served.ended(texts_of(served, Sampling(2)))
    assert other.n_tokens == 2
    assert looked == []
    assert sum(n == 16 for n in batches) <= 1  # its rows go before their first token


def test_rows_of_a_client_that_has_left_are_no_longer_written(served: Served) -> None:
    """In a batch that goes on for another client."""
    mine, others, done = [], [], threading.Event()

    def write_mine(number: int, progress: TextProgress) -> None:
        mine.append(progress)
        job.cancel()

    def write_others(number: int, progress: TextProgress) -> None:
        others.append(progress)
        if progress.finish:
            done.set()

    first, second = texts_of(served, Sampling(8, stop=""), 2)  # of one shape
    with held(served):
        job = served.scheduler.submit([first], write_mine)
        served.scheduler.submit([second], write_others)
    assert done.wait(30)
    assert (len(mine), others[-1].n_tokens) == (1, 8)


def test_texts_that_cannot_share_a_batch_are_those_that_each_is_alone(served: Served) -> None:
    """Of one client or of many: of other samplings, lengths of prompts and kinds of steering, submitted at once."""
    plain = served.model.setting(SteeringField())
    fit = served.model.setting(SteeringField.model_validate({"fit": {"method": "diffmean", "concept": "sea", "layer": LAYER}}))
    steered = served.model.setting(SteeringField.model_validate(MEDICINE))
    hot = Sampling(12)
    samplings = [hot, replace(hot, temperature=0.0), replace(hot, top_p=0.2), replace(hot, max_new_tokens=5), replace(hot, stop="e")]
    texts = [text for sampling in samplings for text in served.model.texts(PROMPT, steered, sampling, 2, 0)]
    texts += [text for setting in (plain, fit) for text in served.model.texts("It turned out that the", setting, hot, 2, 0)]
    alone = [served.ended([text])[0] for text in texts]
    assert len({one.text for one in alone}) > 8
    assert served.ended(texts) == alone


@pytest.mark.parametrize(
    "half",
    [
        b"POST /api/steer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
        b"POST /api/steer HTTP/1.1\r\nHost: loc",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_the_server_ends_whatever_a_client_has_sent(finished_fits: Path, tmp_path: Path, half: bytes) -> None:
    with serving_fits(finished_fits, tmp_path) as server:
        waiting = server.raw(half)
        time.sleep(0.3)
        started = time.monotonic()
    assert time.monotonic() - started < 8
    waiting.close()


@pytest.mark.parametrize("kind", ["BPE without (Gemma)", "BPE with dummy prefix (Llama 2)", "byte-level (GPT-2)"])
def test_a_stream_is_the_text_whatever_characters_are_made_of(kind: str) -> None:
    """Some tokenizers decode a run of bytes as a whole, so that a part of the next character undoes the one before."""
    tokenizer, said = KINDS[kind](), " 😀😃 the sea"
    before, ids = tokenizer.encode("the sea").ids, tokenizer.encode(said).ids
    grown = [tokenizer.decode(before + ids[:n])[len(tokenizer.decode(before)) :] for n in range(1, len(ids) + 1)]

    async def written() -> AsyncIterator[tuple[int, TextProgress]]:
        for n, text in enumerate(grown, start=1):
            yield 0, TextProgress(text, n, "length" if n == len(ids) else None)

    async def streamed() -> str:
        parts = [part["data"] async for part in _chunks(1, written(), {"object": "text_completion"}, [])]
        return "".join(json.loads(part)["choices"][0]["text"] for part in parts if part != "[DONE]")

    assert asyncio.run(streamed()) == grown[-1]
    assert grown[-1].strip() == said.strip()
