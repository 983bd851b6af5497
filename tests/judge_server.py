"""A loopback OpenAI-compatible endpoint (chat completions, files, batches) whose faults are chosen by the test."""

import contextlib
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

from loopback import Handler, serving_with

ABSENT = object()


@dataclass
class Fault:
    """What happens to one request instead of an answer. Bytes of the true response are sent up to `cut`, then the connection closes."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | bytes = '{"error": {"message": "a fault of the test"}}'
    cut: int | None = None
    wait: float = 0.0
    drip: float = 0.0  # seconds between the true response's bytes


def agreeable(prompt: str) -> str:
    """An answer in the form asked for; its rating depends on the aspect and on the text's length only."""
    aspect = next(
        name
        for name, words in (("concept", "about the concept"), ("instruction", "what the instruction asks"), ("fluency", ""))
        if words in prompt
    )
    return f"It is as it is.\n{label(prompt)}: {(len(rated_text(prompt)) + len(aspect)) % 3}"


def label(prompt: str) -> str:
    """What the last line has to start with, as the prompt says."""
    return re.findall(r"^(Rating(?: [0-9a-f]+)?): N$", prompt, re.MULTILINE)[-1]


def rated_text(prompt: str) -> str:
    """What stands between the text's lines."""
    code = re.search(r"carry the code ([0-9a-f]+)\.", prompt)[1]
    return re.search(rf"\[text {code} starts\]\n(.*)\n\[text {code} ends\]", prompt, re.DOTALL)[1]


@dataclass
class Judge:
    """The endpoint's state: what it answers, what goes wrong, and what it was asked."""

    answer: Callable[[str], Any] = agreeable
    """Prompt -> the message's content, or a whole message (dict)."""
    key: str | None = None
    has_batches: bool = True
    usage: Any = ABSENT
    finish_reason: str = "stop"
    batch_ends: str = "completed"
    batch_polls: int = 1
    """Polls until a batch is over."""
    batch_leaves_out: int = 0
    """Requests at a batch's end that fail."""
    delay: float = 0.0
    hold_batch_reply: float = 0.0
    loses_batches: bool = False
    """A batch that is to be made never is, and there is no reply in time either."""
    faults: deque[Fault | None] = field(default_factory=deque)
    refuses: Callable[[dict[str, Any]], Fault | None] = lambda body: None
    """Request -> what it gets instead of an answer, each time that it is asked."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the completions asked for, faulty ones too."""
    answered: list[str] = field(default_factory=list)
    """Prompts that were answered in full (and are paid for)."""
    paths: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    polls: dict[str, int] = field(default_factory=dict)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    base_url: str = ""
    data: Path = Path()
    """Data folder of the experiment that asks, where its ledger is."""
    model: str = "judge-2025"
    """What it calls itself in its answers."""

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat completion; counts as paid."""
        prompt = body["messages"][0]["content"]
        answer = self.answer(prompt)
        message = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
        with self.lock:
            self.answered.append(prompt)
        reply = {
            "id": "c",
            "object": "chat.completion",
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}],
        }
        if self.usage is ABSENT:
            reply["usage"] = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 12}
        elif self.usage is not None:
            reply["usage"] = self.usage
        return reply


class _Handler(Handler):
    judge: Judge

    def serve(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(size)
        if len(content) < size:  # the client was killed
            self.close_connection = True
            return None
        judge, path = self.judge, self.path.split("?")[0]
        with judge.lock:
            judge.paths.append(f"{self.command} {path}")
        if judge.key is not None and self.headers.get("Authorization") != f"Bearer {judge.key}":
            return self.reply(401, {"error": {"message": f"bad key: {self.headers.get('Authorization')}"}})
        if path == "/v1/chat/completions":
            return self._chat(json.loads(content))
        if judge.has_batches:
            return self._batches(path, content)
        return self.reply(404, {"error": {"message": "no such address"}})

    def _chat(self, body: dict[str, Any]) -> None:
        judge = self.judge
        with judge.lock:
            judge.requests.append(body)
            fault = judge.faults.popleft() if judge.faults else judge.refuses(body)
            judge.at_once += 1
            judge.most_at_once = max(judge.most_at_once, judge.at_once)
        try:
            time.sleep(judge.delay if fault is None else fault.wait)
            self._reply(body, fault)
        finally:
            with judge.lock:
                judge.at_once -= 1

    def _reply(self, body: dict[str, Any], fault: Fault | None) -> None:
        if fault is None or fault.cut is not None or fault.wait:
            return self.reply(200, self.judge.completion(body), cut=fault.cut if fault else None)
        if fault.status is not None:
            return self.reply(fault.status, fault.body, fault.headers)
        return self._drip(json.dumps(self.judge.completion(body)).encode(), fault.drip)

    def _drip(self, data: bytes, seconds: float) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(seconds)

    def _batches(self, path: str, content: bytes) -> None:
        judge = self.judge
        if (self.command, path) == ("POST", "/v1/files"):
            name = f"file-{len(judge.files)}"
            judge.files[name] = self._uploaded(content)
            return self.reply(200, {"id": name})
        if (self.command, path) == ("POST", "/v1/batches"):
            wanted = json.loads(content)
            name = f"batch-{len(judge.batches)}"
            batch = {**wanted, "id": name, "created_at": len(judge.batches), "status": "in_progress"}
            if not judge.loses_batches:
                judge.batches[name] = batch
            time.sleep(judge.hold_batch_reply)
            return self.reply(200, batch)
        if path == "/v1/batches":
            return self.reply(200, self._page(list(judge.batches.values())[::-1]))
        if match := re.fullmatch(r"/v1/batches/(\S+)", path):
            return self._batch(match[1])
        if match := re.fullmatch(r"/v1/files/(\S+)/content", path):
            return self.reply(200, judge.files[match[1]])
        return self.reply(404, {"error": {"message": "no such address"}})

    def _page(self, newest_first: list[dict[str, Any]]) -> dict[str, Any]:
        query = dict(parse_qsl(urlsplit(self.path).query))
        start = 1 + next((place for place, one in enumerate(newest_first) if one["id"] == query.get("after")), -1)
        end = start + int(query.get("limit", 20))
        return {"object": "list", "data": newest_first[start:end], "has_more": end < len(newest_first)}

    def _uploaded(self, content: bytes) -> str:
        message = BytesParser().parsebytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + content)
        parts = {part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True) for part in message.get_payload()}
        assert parts["purpose"] == b"batch"
        return parts["file"].decode()

    def _batch(self, name: str) -> None:
        judge = self.judge
        batch = judge.batches[name]
        judge.polls[name] = judge.polls.get(name, 0) + 1
        if judge.polls[name] > judge.batch_polls and batch["status"] == "in_progress":
            batch["status"] = judge.batch_ends
            if judge.batch_ends != "failed":
                self._finish(batch)
            else:
                batch["errors"] = {"data": [{"message": "the file is no good"}]}
        self.reply(200, batch)

    def _finish(self, batch: dict[str, Any]) -> None:
        judge = self.judge
        requests = [json.loads(line) for line in judge.files[batch["input_file_id"]].splitlines()]
        n_good = len(requests) - judge.batch_leaves_out
        # In another order than asked: only the custom id says which is which.
        good = [{"custom_id": r["custom_id"], "response": self._response(r["body"]), "error": None} for r in reversed(requests[:n_good])]
        bad = [
            {"custom_id": r["custom_id"], "response": {"status_code": 500, "body": {"error": {"message": "no luck"}}}, "error": None}
            for r in requests[n_good:]
        ]
        for field_name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[field_name] = f"{batch['id']}-{field_name}"
                judge.files[batch[field_name]] = "".join(json.dumps(line) + "\n" for line in lines)

    def _response(self, body: dict[str, Any]) -> dict[str, Any]:
        """A batch's answer to one of its requests."""
        if fault := self.judge.refuses(body):
            return {"status_code": fault.status, "body": json.loads(fault.body)}
        return {"status_code": 200, "body": self.judge.completion(body)}


@contextmanager
def judge_server(**state: Any) -> Iterator[Judge]:
    """The endpoint, for the context's duration; `base_url` is its address."""
    waits = mock.patch("openai._base_client.INITIAL_RETRY_DELAY", 0.01)  # seconds that the client's waits start from
    with waits, TemporaryDirectory() as data:
        judge = Judge(**state, data=Path(data))
        with serving_with(type("Handler", (_Handler,), {"judge": judge})) as address:
            judge.base_url = f"{address}/v1"
            yield judge
