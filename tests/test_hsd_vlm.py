"""The detector `vlm` over real HTTP against a scripted local server, and on a tiny LLaVA made on the spot."""

import base64
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import Box, HsdConfig, LevelConfig, View
from sga_kohya.hsd.captioners.vlm import sentence
from sga_kohya.hsd.detect import UNANSWERED, Detection, Detector
from sga_kohya.hsd.detectors.vlm.interview import BadReply
from sga_kohya.hsd.detectors.vlm.reply import read_reply
from sga_kohya.hsd.kits import make_detector
from sga_kohya.hsd.out.summary import warnings
from sga_kohya.hsd.run import run

FACE = [{"label": "face", "box": [250, 500, 500, 1000]}]
LABELS = ("face", "Upper Body")


class Server:
    """Answers with what `script` makes of a request: a string for a reply, or status, headers and body."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: Callable[[int, dict[str, Any]], Any] = lambda number, body: json.dumps(FACE)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.headers.append(dict(self.headers))
                server.requests.append({"path": self.path, **body})
                said = server.script(len(server.requests), body)
                if isinstance(said, str):
                    said = 200, {}, json.dumps({"choices": [{"message": {"content": said}}]})
                status, headers, text = said
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("sga_kohya.hsd.detectors.vlm.clients.PAUSE", 0.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    running = Server()
    yield running
    running.close()


@pytest.fixture
def vlm(server, tmp_path) -> Callable[..., Detector]:
    def build(mode: str = "whole", **options: object) -> Detector:
        values = {"endpoint": server.url, "model": "tiny-vl", "cache": str(tmp_path / "cache"), "parallel": 1}
        values |= {key.replace("__", "."): value for key, value in options.items()}
        return make_detector(HsdConfig(detector="vlm", mode=mode, detector_options=values), tmp_path)

    return build


def view(width: int = 400, height: int = 200, seed: int = 0) -> View:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return View(pixels, f"photo{seed}.jpg", Box(0, 0, width, height), (width, height))


def sent_picture(body: dict[str, Any]) -> Image.Image:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))


def test_one_question_serves_all_levels_and_boxes_come_back_in_pixels(server, vlm):
    entries = [*FACE, {"label": "Torso", "box": [0, 0, 1000, 500]}, {"label": "hand", "box": [990, 0, 1010, 100]}]
    server.script = lambda number, body: json.dumps(entries)
    detector = vlm(side=100)
    assert detector.detect([view()], "micro") == [
        [
            Detection(Box(100, 100, 200, 200), 1.0, "micro", "face"),
            Detection(Box(396, 0, 400, 20), 0.98, "micro", "hand"),  # a little outside: cut off
        ]
    ]
    assert detector.detect([view()], "meso") == [[Detection(Box(0, 0, 400, 100), 0.99, "meso", "torso")]]
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions" and request["model"] == "tiny-vl" and request["temperature"] == 0
    assert sent_picture(request).size == (100, 50)
    text = request["messages"][0]["content"][1]["text"]
    assert '"upper body", "torso", "face", "head", "hand"' in text and "from 0 to 1000" in text


def test_split_mode_asks_for_the_coarsest_level_first(server, vlm):
    server.script = lambda number, body: json.dumps(
        [{"label": "dog", "box": [0, 0, 500, 500]}] if number == 1 else FACE
    )
    detector = vlm(mode="split", labels__macro="dog,cat")
    assert detector.detect([view()], "macro") == [[Detection(Box(0, 0, 200, 100), 1.0, "macro", "dog")]]
    assert detector.detect([view(200, 100)], "micro")[0][0].box == Box(50, 50, 100, 100)
    assert ['"dog", "cat"' in r["messages"][0]["content"][1]["text"] for r in server.requests] == [True, False]


def test_boxes_may_be_asked_for_in_pixels_of_the_picture_that_is_sent(server, vlm):
    server.script = lambda number, body: json.dumps([{"label": "face", "bbox_2d": [25, 25, 50, 50]}])
    (found,) = vlm(coordinates="pixels", side=100).detect([view()], "micro")
    assert found[0].box == Box(100, 100, 200, 200)
    assert "100 wide and 50 high" in server.requests[0]["messages"][0]["content"][1]["text"]


def test_a_reply_that_cannot_be_used_is_asked_again_with_the_reason(server, vlm):
    replies = [
        "I see a lovely face.",
        '[{"label": "face", "box": [0, 0, 3000, 10]}]',
        f"```json\n{json.dumps(FACE)}\n```",
    ]
    server.script = lambda number, body: replies[number - 1]
    assert vlm().detect([view()], "micro")[0][0].box == Box(100, 100, 200, 200)
    *_, last = server.requests
    said = [(message["role"], message["content"]) for message in last["messages"][1:]]
    assert [role for role, _ in said] == ["assistant", "user", "assistant", "user"]
    assert "it holds no JSON list" in said[1][1] and "lies outside 0 to 1000" in said[3][1]


def test_a_photo_without_a_usable_reply_is_named_and_passed_over(server, vlm, capsys):
    server.script = lambda number, body: "no idea"
    detector = vlm(attempts=2)
    assert detector.detect([view(seed=3)], "micro") == [[]]
    assert "'photo3.jpg': no usable reply in 2 attempts: it holds no JSON list" in capsys.readouterr().err
    server.script = lambda number, body: json.dumps(FACE)
    assert detector.detect([view(seed=3)], "meso") == [[]] and len(server.requests) == 2, "one question for all levels"
    assert vlm().detect([view(seed=3)], "micro")[0], "what failed is not kept"


def test_a_busy_server_is_asked_again(server, vlm):
    server.script = lambda number, body: (429, {"Retry-After": "0"}, "slow down") if number < 3 else json.dumps(FACE)
    assert vlm().detect([view()], "micro")[0] and len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {}, '{"error":\n "bad key"}'), r'refused the request: 401 .*"bad key"'),
        ((404, {}, "no such model"), "refused the request: 404"),
        ((302, {"Location": "http://127.0.0.1:9/v1"}, ""), "redirects to .*: it was not followed and got no key"),
    ],
)
def test_a_refusal_that_the_next_photo_would_meet_too_ends_the_run_in_one_line(answer, words, server, vlm):
    server.script = lambda number, body: answer
    with pytest.raises(SgaError, match=f"detector vlm: http.* {words}.*every usable reply is kept in") as error:
        vlm().detect([view()], "micro")
    assert "\n" not in str(error.value) and len(server.requests) == 1


def half_a_letter(body: dict[str, Any]) -> tuple[int, dict, str]:
    """A lone surrogate, which JSON can spell and UTF-8 cannot."""
    content = json.dumps("\ud800 " + json.dumps(FACE))
    return 200, {}, f'{{"choices": [{{"message": {{"content": {content}}}}}]}}'


UNUSABLE = {
    "deep": "[" * 50_000,
    "deep and closed": "[" * 5000 + "]" * 5000,
    "deep in the middle": '[{"label": "face", "box": ' + "[" * 3000 + "]" * 3000 + "}]",
    "objects": '{"a":' * 5000,
    "many lists": "[1, " * 20_000,
    "many brackets": "[ ] x { " * 12_000,
    "a number of 400 digits": json.dumps([{"label": "face", "box": [0, 0, int("9" * 400), 5]}]),
    "a number of 5000 digits": '[{"label": "face", "box": [0, 0, ' + "9" * 5000 + ", 5]}]",
    "not a number": '[{"label": "face", "box": [NaN, -Infinity, 1e999, 5]}]',
    "a book": "word " * 100_000,
    "a long label": json.dumps([{"label": "x" * 90_000, "box": [0, 0, 5, 5]}]),
    "nothing": "",
}
UNAVAILABLE = {
    "a page": (200, {}, "<html>"),
    "a refusal of this picture": (400, {}, "content policy"),
    "too large": (413, {}, ""),
    "an error": (500, {}, "\x1b[2Jbroken\r\nwarning: all is well"),
    "a completion too deep": (200, {}, "[" * 200_000),
    "half of one": (200, {"Content-Length": "999"}, '{"choices"'),
    "NaN": (200, {}, "NaN"),
}


@pytest.mark.parametrize("answer", [*UNUSABLE.values(), *UNAVAILABLE.values()], ids=[*UNUSABLE, *UNAVAILABLE])
def test_whatever_is_answered_only_this_photo_fails_and_in_one_line(answer, server, vlm, capsys):
    server.script = lambda number, body: answer
    detector = vlm(attempts=2)
    capsys.readouterr()
    assert detector.detect([view(seed=3)], "micro") == [[]] and detector.unanswered == {"photo3.jpg"}
    *waits, said = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: 'photo3.jpg': ") and said.endswith("(number 1 that fails)") and len(said) < 1000
    assert said.isprintable() and all(line.startswith(f"warning: {server.url}/chat/completions: ") for line in waits)
    assert all(len(json.dumps(request["messages"][1:])) < 10_000 for request in server.requests)
    server.script = lambda number, body: json.dumps(FACE)
    assert detector.detect([view(seed=4)], "micro")[0]


def test_a_reply_with_half_a_letter_is_used_and_kept(server, vlm):
    server.script = lambda number, body: half_a_letter(body)
    assert vlm().detect([view()], "micro")[0] and vlm().detect([view()], "micro")[0]
    assert len(server.requests) == 1


def test_a_kept_reply_that_is_damaged_is_asked_for_again(server, vlm, tmp_path):
    for damage in (b"", b"\xff\xfe", b"[" * 5000, b"half of ["):
        vlm().detect([view()], "micro")
        (kept,) = (tmp_path / "cache").iterdir()
        kept.write_bytes(damage)
        assert vlm().detect([view()], "micro")[0]
    assert len(server.requests) == 5


def test_ten_failures_in_a_row_end_the_run_and_an_answer_begins_the_count_anew(server, vlm):
    server.script = lambda number, body: json.dumps(FACE) if number == 10 else (400, {}, "no")
    detector = vlm()
    found = [detector.detect([view(seed=i)], "micro")[0] for i in range(19)]
    assert [bool(boxes) for boxes in found] == [i == 9 for i in range(19)]
    with pytest.raises(SgaError, match="10 failures in a row, last 'photo19.jpg': .* 400 .*every usable reply is kept"):
        detector.detect([view(seed=19)], "micro")
    assert len(server.requests) == 20


def test_when_a_run_ends_no_other_question_waits_for_its_next_attempt(server, vlm):
    server.script = lambda number, body: (401, {}, "no") if number > 1 else (503, {"Retry-After": "60"}, "")
    detector = vlm(parallel=2)
    with pytest.raises(SgaError, match="401"):
        detector.detect([view(seed=1), view(seed=2)], "micro")
    assert len(server.requests) == 2


def test_a_pause_that_the_server_asks_for_is_capped_and_said(server, vlm, capsys):
    server.script = lambda number, body: (
        (429, {"Retry-After": "99999"}, "slow down") if number < 2 else json.dumps(FACE)
    )
    detector, pauses = vlm(), []
    detector._interview.client._chat.ended.wait = pauses.append
    assert detector.detect([view()], "micro")[0] and pauses == [60]
    assert "429 Too Many Requests: slow down; the next attempt is in 60 seconds" in capsys.readouterr().err


def test_a_run_counts_and_names_photos_without_an_answer_and_the_next_run_asks_for_them_alone(server, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, name in enumerate(("a", "b\nwarning: forged", "c")):
        Image.fromarray(view(700, 700, seed=i).pixels).save(photos / f"{name}.png")
    server.script = lambda number, body: "no idea" if number in (2, 3) else json.dumps(FACE)
    options = {
        "endpoint": server.url,
        "model": "tiny-vl",
        "cache": str(tmp_path / "cache"),
        "parallel": 1,
        "attempts": 2,
    }
    config = HsdConfig(detector="vlm", detector_options=options)
    first = run(photos, tmp_path / "out", config)
    assert first.tally.notes[UNANSWERED] == 1 and first.tally.used == 3
    assert any("1 photo, the detector gave no answer, the next run asks again: b" in w for w in warnings(first, config))
    assert not any(line.startswith("warning: forged") for line in capsys.readouterr().err.splitlines())
    assert len(server.requests) == 4
    second = run(photos, tmp_path / "out", config)
    assert not second.tally.notes[UNANSWERED] and second.tally.reused == 2 and len(server.requests) == 5


def test_a_second_run_pays_nothing_twice(server, vlm):
    first = vlm().detect([view(), view(seed=1)], "micro")
    assert len(server.requests) == 2
    assert vlm().detect([view(seed=1), view()], "micro") == first[::-1] and len(server.requests) == 2
    vlm(labels="ear").detect([view()], "micro")
    vlm(model="other").detect([view()], "micro")
    assert len(server.requests) == 5 + 1, "another question (three attempts without an ear), another model"


def test_kept_replies_keep_their_names_so_that_those_of_earlier_versions_are_found(server, vlm, tmp_path):
    vlm().detect([view()], "micro")
    picture, text = server.requests[0]["messages"][0]["content"]
    jpeg = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    key = hashlib.sha256(json.dumps(["tiny-vl", text["text"]]).encode() + jpeg).hexdigest()
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [f"{key}.txt"]


def test_calls_are_bounded_and_the_run_goes_on_where_it_stopped(server, vlm):
    with pytest.raises(SgaError, match="max_calls 1 is spent"):
        vlm(max_calls=1).detect([view(), view(seed=1)], "micro")
    assert vlm(max_calls=1).detect([view(), view(seed=1)], "micro")[1] and len(server.requests) == 2


def test_the_key_is_read_from_the_environment_and_the_request_may_be_extended(server, vlm, monkeypatch):
    vlm().detect([view()], "micro")
    monkeypatch.setenv("MY_KEY", "s3cret")
    detector = vlm(api_key_env="MY_KEY", request__temperature=1, request__max_completion_tokens=99)
    detector.detect([view(seed=1)], "micro")
    assert [headers.get("Authorization") for headers in server.headers] == [None, "Bearer s3cret"]
    assert (server.requests[1]["temperature"], server.requests[1]["max_completion_tokens"]) == (1, 99)


def test_questions_in_parallel_are_answered_in_order(server, vlm):
    def script(number: int, body: dict[str, Any]) -> str:
        level = int(np.asarray(sent_picture(body)).mean())
        return json.dumps([{"label": "face", "box": [0, 0, level + 1, 500]}])

    server.script = script
    views = [
        View(np.full((1000, 1000, 3), 20 * i, np.uint8), f"{i}", Box(0, 0, 1000, 1000), (1000, 1000)) for i in range(8)
    ]
    found = vlm(parallel=4).detect(views, "micro")
    assert [round(boxes[0].box.x1, -1) for boxes in found] == [20 * i for i in range(8)]


def test_what_will_be_asked_is_said_before_it_is(server, vlm, tmp_path, capsys):
    for i in range(3):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    vlm(max_calls=7)
    said = capsys.readouterr().err
    assert "3 photos" in said and server.url in said and "at most 7 calls" in said and not server.requests


def test_options_are_checked_before_anything_is_sent(vlm, tmp_path):
    for options, words in (
        ({"endpoint": "localhost:8000"}, "endpoint = 'localhost:8000': write a URL"),
        ({"model": ""}, "no model: give the name"),
        ({"coordinates": "yards", "attempts": 0}, "coordinates = 'yards': write one of relative, pixels; attempts = 0"),
    ):
        with pytest.raises(SgaError, match=words):
            vlm(**options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON list"),
        ("[]" + " " * 100_000, "it has 100002 characters, more than 100000"),
        ("[x " * 17, "its brackets are nested more than 16 deep"),
        ("[x] " * 100 + "[]", "no JSON list"),
        ('[{"label": "face", "box": [0, 0', "no JSON list"),
        ('{"a": [], "b": []}', "no JSON list"),
        ('[{"label": "face", "box_2d": [0, 0, 1, 1]}]', "not four numbers"),
        ('[{"box": [0, 0, 1, 1]}]', "label None is none of face, Upper Body"),
        ('[{"label": "face", "box": [0, 0, 1]}]', "not four numbers"),
        ('[{"label": "face", "box": [0, 0, true, 1]}]', "not four numbers"),
        ('[{"label": "face", "box": [0, 0, NaN, 1]}]', "not four finite numbers"),
        ('[{"label": "face", "box": [500, 0, 100, 9]}]', "is empty"),
        ('[{"label": "face", "box": [-100, 0, 100, 9]}]', "lies outside"),
    ],
)
def test_replies_that_cannot_be_used(text, words):
    with pytest.raises(BadReply, match=words):
        read_reply(text, LABELS, (1000, 1000))


@pytest.mark.parametrize(
    "text",
    [
        '[{"label": "upper body", "box": [0, 0, 500, 1000]}]',
        'Here you are [as asked]: {"boxes": [{"label": "UPPER BODY", "box": [0, 0, 500, 1000]}]} Enjoy!',
        '{"label": "Upper Body", "bbox_2d": [0, 0, 500.0, 1000]}',
    ],
)
def test_replies_that_can_be_used(text):
    assert read_reply(text, LABELS, (1000, 1000)) == [((0, 0, 0.5, 1), 1.0, "Upper Body")]
    assert read_reply("[]", LABELS, (1000, 1000)) == []


# --- transformers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("llava")
    words = ["<unk>", "<pad>", "<image>", "</s>", *'[]{}:,"0123456789', "face", "box", "label"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=16),
        text_config=LlamaConfig(**small, vocab_size=len(words), eos_token_id=3, pad_token_id=1),
        image_token_index=2,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight[:4] = 0  # never an end or another special token: some other one scores above zero
    model.save_pretrained(folder)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
        "{% endfor %}{% endfor %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        fast,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    processor.save_pretrained(folder)
    return folder


def test_a_model_of_transformers_is_asked_on_this_machine(llava_folder, tmp_path, capsys):
    options = {"model": str(llava_folder), "cache": str(tmp_path), "max_new_tokens": 6, "attempts": 2}
    # Random weights say nothing of use; that they say something, twice, and the same each time, is the test.
    said: list[str] = []
    for _ in range(2):
        detector = make_detector(HsdConfig(detector="vlm", device="cpu", detector_options=options), tmp_path)
        ask = detector._interview.client.ask
        detector._interview.client.ask = lambda messages, ask=ask: said.append(ask(messages)) or said[-1]
        assert detector.detect([view()], "micro") == [[]]
    assert "no usable reply in 2 attempts" in capsys.readouterr().err
    assert len(said) == 4 and said[:2] == said[2:] and all(said)


def test_what_a_model_of_transformers_says_is_read(llava_folder, tmp_path, monkeypatch):
    from sga_kohya.hsd.detectors.vlm.clients import LocalClient

    monkeypatch.setattr(LocalClient, "ask", lambda self, messages: json.dumps(FACE))
    options = {"model": str(llava_folder), "cache": str(tmp_path)}
    detector = make_detector(HsdConfig(detector="vlm", device="cpu", detector_options=options), tmp_path)
    assert detector.detect([view()], "micro")[0][0].box == Box(100, 100, 200, 200)


def test_the_captioner_vlm_describes_slices_by_a_model_on_this_machine(llava_folder, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.fromarray(view(300, 300).pixels).save(photos / "a.png")
    options = {"model": str(llava_folder), "cache": str(tmp_path / "replies"), "max_new_tokens": 4, "keep": "nothing"}
    levels = (LevelConfig("macro", 256, tau_up=1.0), LevelConfig("micro", 256))
    run(photos, out, HsdConfig(levels, captioner="vlm", captioner_options=options, device="cpu"))
    assert "vlm: at most 2 slices are described on this machine" in capsys.readouterr().err
    kept = {sentence(file.read_text()) for file in (tmp_path / "replies").iterdir()}
    said = {file.read_text().strip() for file in out.glob("1_*/*.txt")}
    # Random weights say nothing of use; that it is they who speak is the test.
    assert kept and kept <= said
