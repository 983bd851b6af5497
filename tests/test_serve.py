"""`saesteer serve`: texts are those of the library in any company, OpenAI's own client reads them, and what is hostile is refused."""

# ruff: noqa: F811 (fixtures of another file)

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from engine_models import shipped_model, shipped_sae
from oracles.plain_hooks import at_hook_point
from served import Served, get, serving
from test_evaluation import NAME, comparison, finished_fits  # noqa: F401
from workflow_folder import BIN, Folder

from saesteer import api
from saesteer.core.errors import SettingsError
from saesteer.engine.continuation import Sampling
from saesteer.engine.interventions import PromptText
from saesteer.engine.saes import encode
from saesteer.run import Run, open_run
from saesteer.serve import scheduler as scheduling
from saesteer.serve.requests import Message, SteeringField
from saesteer.serve.scheduler import TextProgress
from saesteer.serve.server import Endpoints, _chunks, serve
from saesteer.serve.terminal import Request, texts_by_token
from saesteer.settings import Edit, load_experiment, load_workflow
from saesteer.steps.generations import sampling_of

PROMPT, LAYER, FEATURE = "People often say that", 6, 548
MEDICINE = {"features": [{"layer": LAYER, "feature": FEATURE, "factor": 1.6}]}


def page_in(folder: Path) -> Path:
    (folder / "index.html").write_text("<title>report</title>")
    return folder


@contextlib.contextmanager
def serving_fits(folder: Path, page: Path, token: str | None = None) -> Iterator[Served]:
    """The server of a comparison in a folder, whose paths are relative to it, and of a page."""
    with contextlib.chdir(folder):
        run = open_run(NAME, load_workflow({"experiments": ["micro"], "methods": [NAME]}))
        with serving(run, page_in(page), {LAYER: shipped_sae(LAYER)}, token) as server:
            yield server


@pytest.fixture(scope="module")
def served(finished_fits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_fits(finished_fits, tmp_path_factory.mktemp("page")) as server:
        yield server


@pytest.fixture(scope="module")
def with_token(finished_fits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that other machines reach, of which "secret" is the token."""
    with serving_fits(finished_fits, tmp_path_factory.mktemp("page"), "secret") as server:
        yield server


def by_the_library(
    run: Run, prompts: Sequence[str], factors: Sequence[float], samples: int = 1, seed: int = 4, feature: int = FEATURE
) -> list[str]:
    sampling = replace(sampling_of(run.experiment), max_new_tokens=12)
    made = api.steer(shipped_model(), shipped_sae(LAYER), [feature], factors, prompts, n_samples=samples, sampling=sampling, seed=seed)
    return made["text"].to_list()


def events(served: Served, path: str, body: Any) -> list[Any]:
    with httpx.stream("POST", f"{served.address}{path}", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.read()
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def steered(served: Served, **body: Any) -> tuple[list[str], list[str]]:
    """Two unsteered and two steered texts of at most 12 tokens, which only grow while they are written."""
    last: dict[tuple[bool, int], dict[str, Any]] = {}
    for event in events(served, "/api/steer", {"prompt": PROMPT, "samples": 2, "max_tokens": 12, "seed": 4} | body):
        place = event["steered"], event["sample"]
        assert event["text"].startswith(last.get(place, {"text": ""})["text"])
        last[place] = event
    assert {event["finish"] for event in last.values()} <= {"stop", "length"}
    unsteered, texts = ([str(last[side, sample]["text"]) for sample in (0, 1)] for side in (False, True))
    return unsteered, texts


def test_texts_grow_into_those_of_the_library(served: Served, comparison: Run) -> None:
    expected = by_the_library(comparison, [PROMPT], [0], samples=2, feature=0), by_the_library(comparison, [PROMPT], [1.6], samples=2)
    assert steered(served, steering=MEDICINE) == expected


@pytest.mark.parametrize(("edit", "factor"), [("ablation", 1.0), ("projection", 1.0), ("clamp", -2.0), ("decay", 2.0)])
def test_a_feature_is_edited_as_by_the_command(served: Served, comparison: Run, edit: Edit, factor: float) -> None:
    made = list(texts_by_token(comparison, Request(LAYER, FEATURE, (factor,), PROMPT, 2, seed=4, max_tokens=12, edit=edit)))[-1][2:]
    steering = {"features": [{"layer": LAYER, "feature": FEATURE, "factor": factor}], "edit": edit}
    assert steered(served, steering=steering)[1] == made


def test_the_unsteered_text_is_the_same_whatever_it_is_compared_with(served: Served) -> None:
    """Neither features nor strengths, edits and methods reach it or its random numbers."""
    features = [[], *([{"layer": LAYER, "feature": feature, "factor": factor}] for feature, factor in ((FEATURE, 1), (7, -2.5), (560, 0)))]
    steerings: list[dict[str, Any]] = [{"features": one} for one in (*features, [*features[1], *features[2]])]
    steerings += [{"features": features[1], "edit": edit} for edit in ("ablation", "projection", "clamp", "decay")]
    steerings += [{"fit": {"method": method, "concept": "sea", "layer": LAYER}} for method in ("diffmean", "sae_label")]
    plain, sampling = served.model.setting(SteeringField()), served.model.sampling(12)
    expected = [of.text for of in served.ended(served.model.texts(PROMPT, plain, sampling, 2, 4))]
    for steering in steerings:
        assert steered(served, steering=steering)[0] == expected


def test_a_clamp_at_factor_0_is_the_unsteered_text(served: Served) -> None:
    steering = {"features": [{"layer": LAYER, "feature": FEATURE, "factor": 0}], "edit": "clamp"}
    unsteered, texts = steered(served, steering=steering, temperature=0)
    assert texts == unsteered
    assert served.model.setting(SteeringField.model_validate(steering)).intervention.kind == "addition"


def test_scores_are_steered_live_too(comparison: Run, tmp_path: Path) -> None:
    """Of kind scores, which has a sampling and no texts of its own."""
    tiny = load_experiment("tiny-all", Path("config/experiments"))
    scores = replace(comparison, experiment=tiny.model_copy(update={"layers": (LAYER,)}))
    with serving(scores, page_in(tmp_path), {LAYER: shipped_sae(LAYER)}) as server:
        assert len(set(steered(server, steering=MEDICINE, seed=None)[1])) == 2
        assert server.model.as_begun()["seed"] == scores.experiment.sampling.seed


def test_temperature_is_the_requests(served: Served) -> None:
    """At 0 every sample is the likeliest text; at the experiment's they differ."""
    assert len(set(steered(served, steering=MEDICINE, temperature=0)[1])) == 1
    assert len(set(steered(served, steering=MEDICINE)[1])) == 2


@torch.no_grad()
def test_activations_of_a_sentence(served: Served) -> None:
    """Against a plain forward; of the first token, without one before it, they are not measured."""
    text = "The doctor treated the wound of a patient."
    made = served.post("/api/activations", {"prompt": text, "layer": LAYER, "feature": FEATURE}).json()
    lm, sae = shipped_model(), shipped_sae(LAYER)
    ids = lm.tokenizer(text)["input_ids"]
    residual = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER + 1]
    expected = encode(sae, residual)[0, :, FEATURE].tolist()
    assert "".join(made["tokens"]).replace("\u2581", " ").strip() == text
    assert made["activations"] == pytest.approx(expected[len(ids) - len(made["tokens"]) :], abs=1e-4)
    assert max(made["activations"]) > 0


def test_openais_client_reads_completions_and_streams(served: Served) -> None:
    client = openai.OpenAI(base_url=f"{served.address}/v1", api_key="none")
    asked: dict[str, Any] = {"model": "any", "prompt": PROMPT, "max_tokens": 12, "seed": 1, "extra_body": {"steering": MEDICINE}}
    whole = client.completions.create(**asked)
    parts = list(client.completions.create(stream=True, **asked))
    assert whole.choices[0].text == "".join(part.choices[0].text for part in parts) != ""
    assert whole.choices[0].finish_reason == parts[-1].choices[0].finish_reason
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 12
    assert client.completions.create(n=2, **asked).usage.prompt_tokens == whole.usage.prompt_tokens
    assert client.completions.create(**asked | {"extra_body": {}}).choices[0].text != whole.choices[0].text
    assert client.models.list().data[0].id == served.model.name


def test_openais_parameters_are_honoured(served: Served) -> None:
    """A text ends before the first of its stop texts, of which no part is sent, wherever its tokens end."""
    client = openai.OpenAI(base_url=f"{served.address}/v1", api_key="none")
    asked: dict[str, Any] = {"model": "any", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    between = whole.index(" ", 1)  # of two tokens
    over_both = whole[between - 2 : between + 2]
    for stop in (over_both, ["no such text", whole[9:14]], whole[-1], [whole[20:23], over_both]):
        short = client.completions.create(**asked, stop=stop).choices[0]
        parts = list(client.completions.create(**asked, stop=stop, stream=True))
        cut = min(whole.find(one) for one in ([stop] if isinstance(stop, str) else stop) if one in whole)
        assert (short.text, short.finish_reason) == (whole[:cut], "stop")
        assert "".join(part.choices[0].text for part in parts) == whole[:cut]
    unset = {"top_p": None, "n": None, "presence_penalty": None, "logprobs": False, "logit_bias": {}, "store": False}
    assert client.completions.create(**asked, extra_body=unset).choices[0].text == whole
    several = client.completions.create(**asked | {"temperature": 1, "n": 3, "max_tokens": 5})
    assert len({choice.text for choice in several.choices}) == 3
    assert several.usage is not None
    assert several.usage.completion_tokens <= 15


def test_32_clients_at_once_get_the_texts_that_each_gets_alone(served: Served, comparison: Run) -> None:
    seeds = [client % 8 for client in range(32)]

    def text(seed: int) -> str:
        body = {"prompt": PROMPT, "steering": MEDICINE, "max_tokens": 12, "seed": seed}
        (last,) = [event for event in events(served, "/api/steer", body) if event["steered"] and event["finish"]]
        return str(last["text"])

    with ThreadPoolExecutor(32) as clients:
        texts = list(clients.map(text, seeds))
    alone = {seed: by_the_library(comparison, [PROMPT], [1.6], seed=seed)[0] for seed in set(seeds)}
    assert len(set(alone.values())) > 4
    assert texts == [alone[seed] for seed in seeds]


def test_several_features_add_up(served: Served) -> None:
    """Greedy, against a plain hook: the sum of both decoder directions, each times its factor and a_max, at the last position."""
    other = {"layer": LAYER, "feature": 560, "factor": -0.7}
    steering = {"features": [*MEDICINE["features"], other]}
    asked = {"prompt": PROMPT, "max_tokens": 1, "temperature": 0, "steering": steering}
    lm, sae = shipped_model(), shipped_sae(LAYER)
    direction = 1.6 * sae.W_dec[FEATURE] - 0.7 * sae.W_dec[560]

    def add(residual: torch.Tensor) -> torch.Tensor:
        a_max = torch.relu(encode(sae, residual[:, -1])).amax(-1, keepdim=True)
        return torch.cat([residual[:, :-1], (residual[:, -1] + a_max * direction)[:, None]], dim=1)

    with torch.no_grad(), at_hook_point(lm.model, LAYER, "resid_post", add) as model:
        token = model(torch.tensor([lm.tokenizer(PROMPT)["input_ids"]])).logits[0, -1].argmax()
    text = served.post("/v1/completions", asked).json()["choices"][0]["text"]
    assert text.strip() == lm.tokenizer.decode([int(token)]).strip()


def test_a_fit_of_the_comparison_steers(served: Served) -> None:
    asked = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    fit = {"fit": {"method": "diffmean", "concept": "sea", "layer": LAYER}}
    steered = served.post("/v1/completions", asked | {"steering": fit})
    assert steered.status_code == 200, steered.text
    assert steered.json()["choices"][0]["text"] != served.post("/v1/completions", asked).json()["choices"][0]["text"]


@torch.no_grad()
def test_log_probabilities_of_the_next_token(served: Served) -> None:
    """Unsteered against a plain forward; steering raises the feature's top logit-lens tokens."""
    made = served.post("/api/next", {"prompt": PROMPT, "steering": MEDICINE, "layer": LAYER, "feature": FEATURE}).json()
    lm = shipped_model()
    tokens = api.top_logit_lens_tokens(lm, shipped_sae(LAYER), [FEATURE], k=len(made["tokens"])).row(0, named=True)
    plain = lm.model(torch.tensor([lm.tokenizer(PROMPT)["input_ids"]])).logits[0, -1].log_softmax(-1)[tokens["token_ids"]]
    assert made["tokens"] == tokens["tokens"]
    assert made["unsteered"] == pytest.approx(plain.tolist(), abs=1e-4)
    assert sum(made["steered"]) > sum(made["unsteered"]) + 1


def test_no_file_outside_the_report_is_served(comparison: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("beside the report's own files")
    climbing = ("/../pyproject.toml", "/%2e%2e/pyproject.toml", "//etc/passwd", "/..%2fpyproject.toml", "/figures/../../pyproject.toml")
    of_data = ("/data/../../x.json", "/data/%00.json", f"/data/{'x/' * 3000}x.json", f"/data/{'x' * 300}.json", "/data/index.js")
    with serving(comparison, page_in(tmp_path), {LAYER: shipped_sae(LAYER)}) as served:
        assert get(served.address).text == "<title>report</title>"
        for path in (*climbing, *of_data, "/notes.txt", "/files/../notes.txt", f"/figures/{'x/' * 3000}"):
            with served.raw(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()) as raw:
                assert b" 404 " in raw.recv(64), path


def test_a_server_that_others_reach_wants_its_token(with_token: Served) -> None:
    address, asked = with_token.address, {"prompt": PROMPT, "max_tokens": 1}
    assert get(address).status_code == 401
    assert get(address, params={"token": "wrong"}).status_code == 401
    assert with_token.post("/v1/completions", asked).status_code == 401
    assert with_token.post("/v1/completions", asked, Authorization="Bearer secret").status_code == 200
    with httpx.Client(base_url=address, timeout=60) as browser:
        opened = browser.get("/", params={"token": "secret"})
        assert "location.replace(location.pathname + location.hash)" in opened.text  # the token leaves the address
        assert browser.get("/").text == "<title>report</title>"
        assert browser.post("/v1/completions", json=asked).status_code == 200
        cookie = opened.headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert cookie.startswith(f"saesteer_token_{address.rpartition(':')[2]}=secret"), "two servers of a host have two cookies"


def test_a_client_that_goes_away_ends_its_texts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"prompt": PROMPT, "steering": MEDICINE, "max_tokens": 50, "samples": 16}
    jobs: list[scheduling.Job] = []
    submit = served.scheduler.submit
    monkeypatch.setattr(served.scheduler, "submit", lambda *given: jobs.append(submit(*given)) or jobs[-1])
    with httpx.stream("POST", f"{served.address}/api/steer", json=body, timeout=60) as answer:
        next(answer.iter_lines())
    deadline = time.monotonic() + 10
    while not jobs[0].is_cancelled and time.monotonic() < deadline:
        time.sleep(0.02)
    assert jobs[0].is_cancelled
    assert served.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 2}).status_code == 200


def test_a_fault_ends_its_own_batch_only(served: Served) -> None:
    """A text whose SAE cannot be read gets an error, and the next one is written."""
    (text,) = served.model.texts(PROMPT, served.model.setting(SteeringField()), Sampling(2), 1, 0)
    assert [of.finish for of in served.ended([replace(text, layer=99)])] == ["error"]
    assert served.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 2}).status_code == 200


def test_a_stream_says_a_fault_as_a_fault(served: Served) -> None:
    async def written() -> AsyncIterator[tuple[int, TextProgress]]:
        yield 0, TextProgress("the sea", 2)
        yield 0, TextProgress("the SAE cannot be read", 2, "error")

    async def said() -> list[str]:
        return [part["data"] async for part in _chunks(1, written(), {"object": "text_completion"}, [])]

    first, fault, _ = asyncio.run(said())
    assert json.loads(first)["choices"][0]["text"] == "the sea"
    assert json.loads(fault) == {"error": {"message": "the SAE cannot be read", "type": "server_error"}}


def test_texts_of_a_server_that_has_ended_harm_no_others(served: Served) -> None:
    """Its event loop is closed while they are written."""
    texts = served.model.texts(PROMPT, served.model.setting(SteeringField()), Sampling(2), 1, 0)

    async def begun() -> None:
        Endpoints(served.model, served.scheduler)._begun(texts)

    asyncio.run(begun())
    assert [of.finish for of in served.ended(texts)] == ["length"]


def test_a_conversation_has_the_text_of_a_prompting_fit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its last user turn; a factor without a text is refused."""
    template = "{% for turn in messages %}{{ turn.content }} {% endfor %}"
    monkeypatch.setattr(served.model.lm.tokenizer, "chat_template", template)
    users = ("It turned out that", "the doctor recovered.")
    turns = [Message(role="user", content=users[0]), Message(role="assistant", content="so."), Message(role="user", content=users[1])]
    setting = replace(served.model.setting(SteeringField()), intervention=PromptText(("Talk of the sea.",)), factor="1")
    ((text,),) = [served.model.texts(turns, setting, Sampling(2), 1, 0)]
    assert served.model.tokens.tokenizer.decode(text.prompt).split() == f"{users[0]} so. Talk of the sea. {users[1]}".split()
    with pytest.raises(ValueError, match="texts for the factors 1 to 1, not 2"):
        served.model.texts(turns, replace(setting, factor="2"), Sampling(2), 1, 0)
    with pytest.raises(SettingsError, match="the last user turn, and this conversation has none"):
        served.model.texts(turns[1:2], setting, Sampling(2), 1, 0)


def test_openais_client_has_a_conversation(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy: the conversation in the model's chat template, continued as a prompt of the same text is."""
    answer = served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]})
    assert (answer.status_code, "chat template" in answer.text) == (400, True)
    template = "{% for turn in messages %}{{ turn.content }} {% endfor %}{% if add_generation_prompt %}People often say that{% endif %}"
    monkeypatch.setattr(served.model.lm.tokenizer, "chat_template", template)
    client = openai.OpenAI(base_url=f"{served.address}/v1", api_key="none")
    turns: Any = [{"role": "system", "content": "It turned out that"}, {"role": "user", "content": "the doctor recovered."}]
    steered = {"model": "any", "temperature": 0, "max_tokens": 12, "extra_body": {"steering": MEDICINE}}
    answer = client.chat.completions.create(messages=turns, **steered)
    parts = list(client.chat.completions.create(messages=turns, stream=True, **steered))
    alike = client.completions.create(prompt=f"It turned out that the doctor recovered. {PROMPT}", **steered)
    assert answer.choices[0].message.content == alike.choices[0].text != ""
    assert "".join(part.choices[0].delta.content or "" for part in parts) == alike.choices[0].text
    plain = client.chat.completions.create(messages=turns, **steered | {"extra_body": {}})
    assert plain.choices[0].message.content != alike.choices[0].text


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(comparison: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Run] = []
    monkeypatch.setattr(Run, "model", loaded.append)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^cannot listen on 127.0.0.1, port {port}: Address already in use; name another with"):
            serve(comparison, "127.0.0.1", port, print)
    assert loaded == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "address", "stop"),
    [
        ([], r"http://127\.0\.0\.1:\d+/", signal.SIGTERM),
        (["--host", "0.0.0.0"], rf"http://{re.escape(socket.gethostname())}:\d+/\?token=\S{{32}}", signal.SIGINT),
    ],
)
def test_the_command(finished: Folder, tmp_path: Path, arguments: list[str], address: str, stop: signal.Signals) -> None:
    """It prints an address, serves the report there, steers, and ends when it is told to, though a client has sent half a request."""
    folder = finished.copy(tmp_path / "served")
    program, environment = ("saesteer", folder.warm) if arguments else (str(BIN / "saesteer"), folder.environment)
    command = [program, "serve", "micro", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=folder.path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            match = re.search(rf"({address})#/steer", said)
            assert match, said
            with httpx.Client(follow_redirects=True, timeout=60) as client:
                client.get(match[1])  # with a token, which a cookie keeps from here on
                page = client.get(match[1].partition("?")[0])
                assert 'data-served="{' in page.text
                assert client.post(page.url.join("/v1/completions"), json={"prompt": PROMPT, "max_tokens": 3}).json()["choices"][0]["text"]
                assert client.get(page.url.join("/data/index.json")).json()["name"] == "micro"
            half = socket.create_connection((page.url.host, page.url.port))
            half.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n{"
            )
            time.sleep(0.5)
        except BaseException:
            process.kill()
            raise
        process.send_signal(stop)
        assert process.wait(timeout=15) in (0, -stop)
        half.close()
