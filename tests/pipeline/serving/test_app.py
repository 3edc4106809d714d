"""OpenAI's client works unchanged, pictures are those of generate, and what is refused is refused in OpenAI's form."""

import asyncio
import base64
import http.client
import io
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from PIL import Image

from pipeline.generation.actor import Generator, GeneratorConfig
from pipeline.generation.sampling import Sampling
from pipeline.generation.steps import Layout, Steps, picture_steps
from pipeline.serving import guard, painter
from pipeline.serving.jobs import Codes, PictureJob
from pipeline.serving.served_model import ServedModel
from tests.support.pictures import png
from tests.support.small_server import LIMITS, NUM_ROWS, SmallServer, small_server

IMAGES, CHAT = "/v1/images/generations", "/v1/chat/completions"
SAMPLING: dict[str, Any] = {"temperature": 0.9, "top_k": 9, "top_p": 0.95, "guidance_scale": 2.0}


def client_of(server: SmallServer, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def asked_with_picture(content: bytes, **more: object) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part]}]} | more


def test_openais_client_gets_the_pictures_that_generate_draws(server: SmallServer, served: ServedModel) -> None:
    """The same prompt, seed and settings: the same codes and the same size, for each of several at once."""
    more = SAMPLING | {"seed": 5, "return_codes": True}
    made = client_of(server).images.generate(prompt="red circle", n=3, size="64x64", extra_body=more)
    config = GeneratorConfig(
        Path(served.export), NUM_ROWS, served.max_prompt_ids, served.num_codes, Sampling(**SAMPLING),
        high=served.high, as_served=True,
    )  # fmt: skip
    rows = {"prompt": np.asarray(["red circle"] * 3, dtype=object), "seed": np.asarray([5, 6, 7])}
    expected = Generator(config)(rows)
    assert made.data is not None and [image.seed for image in made.data] == [5, 6, 7]  # type: ignore[attr-defined]
    for number, image in enumerate(made.data):
        assert image.codes == expected["drawn_codes"][number].tolist()  # type: ignore[attr-defined]
        assert image.high_codes == expected["drawn_high_codes"][number].tolist()  # type: ignore[attr-defined]
        assert Image.open(io.BytesIO(base64.b64decode(image.b64_json or ""))).size == (64, 64)
    assert len({tuple(image.codes) for image in made.data}) > 1  # type: ignore[attr-defined]
    assert made.usage is not None and made.usage.output_tokens == 3 * (served.num_codes + served.num_high_codes)


def test_a_streamed_picture_comes_code_by_code_and_partly_then_whole(server: SmallServer, served: ServedModel) -> None:
    whole = client_of(server).images.generate(prompt="a", extra_body={"seed": 1, "return_codes": True}).data
    assert whole is not None
    events = list(
        client_of(server).images.generate(
            prompt="a", stream=True, partial_images=2, extra_body={"seed": 1, "stream_codes": True}
        )
    )
    kinds = [event.type.removeprefix("image_generation.") for event in events]
    codes = [code for event in events for code in getattr(event, "codes", None) or []]
    assert codes == whole[0].codes + whole[0].high_codes  # type: ignore[attr-defined]
    assert 1 <= kinds.count("partial_image") <= 2 and kinds[-1] == "completed"
    finished = events[-1]
    assert finished.b64_json == whole[0].b64_json and finished.size == "64x64"


def test_formats_and_sizes_are_those_that_were_asked_for(server: SmallServer) -> None:
    answer = client_of(server).images.generate(prompt="红", size="32x32", response_format="url", output_format="jpeg")
    kind, _, content = (answer.data or [])[0].url.partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (kind, picture.format, picture.size) == ("data:image/jpeg", "JPEG", (32, 32))


def test_a_picture_gets_a_caption_and_a_text_goes_on_as_a_document(server: SmallServer) -> None:
    status, _, caption = server.send(CHAT, asked_with_picture(png((40, 32)), language="zh"))
    assert status == 200 and caption["choices"][0]["finish_reason"] in ("stop", "length")
    messages: Any = [{"role": "user", "content": "red circle"}]
    whole = client_of(server).chat.completions.create(model="past", messages=messages, seed=3)
    chunks = client_of(server).chat.completions.create(model="past", messages=messages, seed=3, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content and whole.usage.completion_tokens > 0


def test_a_streamed_answer_ends_with_its_usage_if_that_is_asked_for(server: SmallServer) -> None:
    asked: dict[str, Any] = {"model": "past", "messages": [{"role": "user", "content": "red circle"}], "seed": 3}
    client = client_of(server)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
    assert [chunk for chunk in chunks if chunk.usage] == chunks[-1:] and chunks[-2].choices[0].finish_reason
    refused: tuple[Any, ...] = ({"include_usage": 1}, {"usage": True}, [])
    for options in refused:
        status, _, answer = server.send(CHAT, asked | {"stream": True, "stream_options": options})
        assert (status, answer["error"]["param"]) == (400, "stream_options")
    assert server.send(CHAT, asked | {"stream_options": {}})[2]["error"]["param"] == "stream"


@pytest.mark.parametrize(
    ("values", "status", "param", "message"),
    [
        ({}, 400, "prompt", "prompt is missing"),
        ({"prompt": " "}, 400, "prompt", "prompt is empty"),
        ({"prompt": "a " * 40}, 400, "prompt", "takes at most 12"),
        ({"prompt": "a", "n": 9}, 400, "n", "n is 9, but must be from 1 to 8"),
        ({"prompt": "a", "n": True}, 400, "n", "whole number"),
        ({"prompt": "a", "seed": -1}, 400, "seed", "from 0 to"),
        ({"prompt": "a", "temperature": "hot"}, 400, "temperature", "must be a number"),
        ({"prompt": "a", "top_p": 0}, 400, "top_p", "above 0"),
        ({"prompt": "a", "size": "512x512"}, 400, "size", "draws 32x32 and 64x64"),
        ({"prompt": "a", "size": "32x32", "high_resolution": True}, 400, "size", "contradict"),
        ({"prompt": "a", "quality": "hd"}, 400, "quality", "leave it out"),
        ({"prompt": "a", "sead": 3}, 400, "sead", "no parameter 'sead'"),
        ({"prompt": "a", "model": "dall-e-3"}, 404, "model", "'past' is served here"),
        ({"prompt": "a", "partial_images": 1}, 400, "stream", "stream true"),
        ({"prompt": "\ud800"}, 400, "prompt", "surrogates"),
        ({"prompt": "a", "\ud800": 1}, 400, "\\ud800", "no parameter"),
        ({"prompt": "a", "temperature": 10**400}, 400, "temperature", "from 0 to 10"),
        ({"prompt": "a", "guidance_scale": -(10**400)}, 400, "guidance_scale", "from 0 to 100"),
        (b'{"prompt": "a", "temperature": NaN}', 400, "temperature", "from 0 to 10"),
        (b'{"prompt": "a", "top_p": 1e999}', 400, "top_p", "at most 1"),
        ([], 400, None, "must be a JSON object"),
        (b"{", 400, None, "no JSON"),
        (b"[" * 5000, 400, None, "no JSON"),
        (b" " * 300_000, 413, None, "at most 200000"),
    ],
)
def test_what_is_wrong_is_refused_with_the_parameter_and_what_to_do(
    server: SmallServer, values: object, status: int, param: str | None, message: str
) -> None:
    found, _, answer = server.send(IMAGES, values)
    assert found == status and answer["error"]["param"] == param and message in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "role 'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "'audio'"),
        (asked_with_picture(b"no picture"), "cannot be captioned"),
        (asked_with_picture(png((200, 2))), "max_aspect_ratio"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}
                ]
            },
            "fetches nothing",
        ),
        (asked_with_picture(png(), language="fr"), "one of en, zh"),
    ],
)
def test_uploads_and_messages_are_checked_as_a_corpus_is(server: SmallServer, values: dict, message: str) -> None:
    status, _, answer = server.send(CHAT, values)
    assert status == 400 and message in answer["error"]["message"]
    status, _, streamed = server.send(CHAT, values | {"stream": True}, Accept="text/event-stream")
    assert status == 200 and message in json.loads(streamed.partition("data: ")[2])["error"]["message"]


@pytest.mark.parametrize("url", ["data:" + "a" * 100_000, "data:" + ";a" * 50_000, "data:image/png;base64"])
def test_a_long_data_url_is_refused_at_once(server: SmallServer, url: str) -> None:
    """Time that grows with the square of its length would hold up every other request."""
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    began = time.monotonic()
    status, _, answer = server.send(CHAT, {"messages": [message]})
    assert status == 400 and "must be a data URL" in answer["error"]["message"] and time.monotonic() - began < 2


def test_data_urls_are_read_as_browsers_write_them(server: SmallServer) -> None:
    content = base64.b64encode(png((40, 32))).decode()
    for head, end in (("DATA:IMAGE/PNG;BASE64,", "\n"), ("data:;base64,", ""), ("data:image/png;a=b;base64,", "")):
        url = f"{head}{content}{end}"
        message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
        assert server.send(CHAT, {"messages": [message], "max_tokens": 1})[0] == 200, url[:30]


def test_beyond_the_bound_requests_get_429_and_a_time_and_the_others_their_pictures(served: ServedModel) -> None:
    with small_server(served, replace(LIMITS, max_outstanding=3, requests_per_minute=4)) as server:
        server.application.gate.enter(2)
        status, headers, answer = server.send(IMAGES, {"prompt": "a", "n": 2})
        assert status == 429 and int(headers["Retry-After"]) >= 1 and "try again in" in answer["error"]["message"]
        assert server.send(IMAGES, {"prompt": "a"})[0] == 200
        for _ in range(2):
            server.application.gate.leave(made=False)
        assert [server.send(IMAGES, {"prompt": ""})[0] for _ in range(3)] == [400, 400, 429]
        assert server.send("/health")[2]["outstanding"] == 0


@pytest.mark.parametrize("more", [{}, {"stream": True, "stream_codes": True}])
def test_a_client_that_goes_away_frees_its_rows(served: ServedModel, more: dict) -> None:
    with small_server(served) as server:
        engine = server.replicas.painter.engine
        passes = engine._batch.advance
        go_on = False

        def slowly() -> int:
            if not go_on:
                server.wait_until(lambda: go_on or not engine._running or bool(engine._cancelled), 5)
            return passes()

        engine._batch.advance = slowly  # type: ignore[method-assign]
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        body = json.dumps({"prompt": "a", "n": 6} | more)
        connection.request("POST", IMAGES, body, {"Content-Type": "application/json"})
        server.wait_until(lambda: engine.num_running == NUM_ROWS and engine.num_waiting == 2)
        connection.close()
        server.wait_until(lambda: engine.num_running == engine.num_waiting == server.application.gate.outstanding == 0)
        go_on = True
        assert server.send(IMAGES, {"prompt": "a"})[0] == 200


@pytest.mark.slow
def test_a_body_that_does_not_come_is_given_up_and_open_requests_are_counted(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_OPEN", 2)
    with small_server(served, replace(LIMITS, request_timeout_s=1.0)) as server:
        slow = [http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30) for _ in range(2)]
        for connection in slow:
            connection.putrequest("POST", IMAGES)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", "1000")
            connection.endheaders(b"{")
        server.wait_until(lambda: server.send("/v1/models")[0] == 429)
        assert server.send("/health")[0] == 200, "whoever looks after the server still hears of it"
        answers = [connection.getresponse() for connection in slow]
        assert [(answer.status, json.load(answer)["error"]["code"]) for answer in answers] == [(408, "timeout")] * 2
        server.wait_until(lambda: server.send("/v1/models")[0] == 200)


def test_another_host_is_refused_on_loopback_and_only_json_is_read(server: SmallServer) -> None:
    """A page of another host could else make a visitor's browser ask the server, by a name that leads here."""
    assert server.send("/v1/models", Host="evil.example")[0] == 403
    assert server.send(IMAGES, {"prompt": "a"}, Content_Type="text/plain")[0] == 415
    assert server.send("/v1/nothing")[2]["error"]["code"] == "not_found"
    status, headers, answer = server.send(IMAGES)
    assert (status, headers["Allow"], answer["error"]["code"]) == (405, "POST", "method_not_allowed")
    assert "send POST" in answer["error"]["message"]


def test_a_token_is_asked_for_by_all_but_the_page(served: ServedModel) -> None:
    with small_server(served, token="0123456789abcdef") as server:
        for headers in ({}, {"Authorization": "Bearer 0123456789abcdeX"}, {"Authorization": "Basic 0123456789abcdef"}):
            status, _, answer = server.send(IMAGES, {"prompt": "a"}, **headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert server.send("/settings")[2] == {"needs_token": True}
        assert server.send("/")[0] == server.send("/health")[0] == 200
        assert [model.id for model in client_of(server, "0123456789abcdef").models.list()] == ["past"]


def test_the_log_has_prompts_only_if_asked(served: ServedModel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for log_prompts in (False, True):
        caplog.clear()
        with small_server(served, log_prompts=log_prompts) as server:
            server.send(IMAGES, {"prompt": "secret circle"})
            server.wait_until(lambda: IMAGES in caplog.text)
        assert ("secret circle" in caplog.text) == log_prompts


def test_a_request_has_one_line_in_the_log_with_its_id(server: SmallServer, caplog: pytest.LogCaptureFixture) -> None:
    """Serve's proxy gives the id and sends it back; a path cannot begin a line of its own."""
    caplog.set_level(logging.INFO)
    _, headers, _ = server.send("/x%0aFAKE%20LINE", X_Request_Id="the-proxys")
    server.wait_until(lambda: "FAKE" in caplog.text)
    (line,) = [line for line in caplog.text.splitlines() if "FAKE" in line]
    assert "the-proxys GET '/x\\nFAKE LINE' 404" in line and "X-Request-Id" not in headers
    server.send("/y", X_Request_Id="a b" + "c" * 100)
    server.wait_until(lambda: "'/y'" in caplog.text)
    assert "ccc" not in caplog.text


def test_a_failed_pass_is_an_error_in_form_and_the_replica_is_not_well(served: ServedModel) -> None:
    with small_server(served) as server:
        engine = server.replicas.painter.engine

        def fail() -> int:
            raise RuntimeError("no memory")

        engine._batch.advance = fail  # type: ignore[method-assign]
        status, _, answer = server.send(IMAGES, {"prompt": "a"})
        assert status == 500 and answer["error"]["type"] == "server_error" and "no memory" not in str(answer)
        assert engine.failure is not None
        status, _, answer = server.send("/health")
        assert (status, answer["status"]) == (503, "no replica answers")


def test_health_names_the_checkpoint_of_a_replica_and_says_that_the_server_stops(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_server(served) as server:
        server.replicas.painter.served = replace(served, source="the-replicas")
        assert server.send("/health")[2]["checkpoint"] == "the-replicas"

        async def silent() -> str:
            return ""

        monkeypatch.setattr(server.replicas, "checkpoint", silent)
        assert server.send("/health")[0] == 503, "it has nothing to do, and does not answer"
        server.application.gate.enter(1)
        assert server.send("/health")[0] == 200, "replicas that are busy may be silent"
        server.application.gate.closed = True
        status, _, answer = server.send("/health")
        assert (status, answer["status"]) == (503, "stopping")


def test_what_fails_for_one_picture_costs_no_other(server: SmallServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(layout: Layout, prompt: list[int], seed: int, *more: Any) -> Steps:
        steps = picture_steps(layout, prompt, seed, *more)
        if seed != 13:
            return (yield from steps)
        yield next(steps)
        raise ValueError("this picture's own")

    monkeypatch.setattr(painter, "picture_steps", failing)
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda seed: server.send(IMAGES, {"prompt": "a", "seed": seed}), (12, 13, 14)))
    assert [status for status, _, _ in answers] == [200, 500, 200] and answers[1][2]["error"]["type"] == "server_error"
    _, _, streamed = server.send(IMAGES, {"prompt": "a", "seed": 13, "stream": True, "stream_codes": True})
    last = json.loads(streamed.strip().rpartition("data: ")[2])
    assert last["error"]["type"] == "server_error" and "own" not in streamed, "an error is the last event"
    assert server.replicas.painter.engine.failure is None and server.send("/health")[2]["outstanding"] == 0


def test_nothing_depends_on_torchs_default_dtype(server: SmallServer) -> None:
    """transformers changes it, for all threads, while a server loads another model."""
    asked = [(IMAGES, {"prompt": "red circle", "seed": seed} | SAMPLING) for seed in range(3)]
    asked.append((CHAT, asked_with_picture(png((40, 32)), temperature=1.0, seed=1)))
    asked.append((CHAT, {"messages": [{"role": "user", "content": "red circle"}], "seed": 2, "temperature": 1.0}))

    def answers() -> list[Any]:
        found = [server.send(path, values)[2] for path, values in asked]
        return [answer.get("data") or answer["choices"] for answer in found]

    expected = answers()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert answers() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_codes_of_a_job_are_numbered_from_its_beginning(server: SmallServer) -> None:
    """So that a job that is done again on another replica goes on where its client is."""

    async def told() -> list[Codes]:
        job = PictureJob([11], 3, Sampling(0.0), high=True, tells=True)
        return [event async for event in server.replicas.painter.answer(job) if isinstance(event, Codes)]

    events = asyncio.run(told())
    assert [event.start for event in events] == list(np.cumsum([0, *(len(event.codes) for event in events)])[:-1])
