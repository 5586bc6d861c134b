"""The judge over real HTTP: a local server that speaks OpenAI's protocol and follows a script."""

import base64
import io
import json
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.rate.analysis import analyse, reliability
from sga_kohya.evaluate.rate.judge import DIMENSIONS, INSTRUCTIONS, Asker, judge, parse, questions, read
from sga_kohya.evaluate.sample.images import all_images

from .evaluate_world import make_plan

QUALITY = {"one": 50, "two": 120, "three": 200}  # how red each variant is; the scripted judge prefers red


def shown(payload):
    """The candidate pictures of a request, after the references."""
    parts = payload["messages"][1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls[2:]]


def honest(payload):
    reds = [image.convert("RGB").getpixel((5, 5))[0] for image in shown(payload)]
    ranks = {"ABCDEFGH"[place]: 1 + sum(other > red for other in reds) for place, red in enumerate(reds)}
    return json.dumps(dict.fromkeys(DIMENSIONS, ranks))


def first_is_best(payload):
    ranks = {letter: place for place, letter in enumerate("ABC", 1)}
    return json.dumps(dict.fromkeys(DIMENSIONS, ranks))


class Endpoint:
    """script: the answer to a request's payload, or (status, headers, body)."""

    def __init__(self, script, usage=True):
        self.script, self.usage, self.payloads, self.headers = script, usage, [], []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.payloads.append(payload)
                    outer.headers.append(dict(self.headers))
                answer = outer.script(payload)
                status, headers, body = answer if isinstance(answer, tuple) else (200, {}, outer.completion(answer))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def completion(self, text):
        usage = {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}} if self.usage else {}
        return json.dumps({"choices": [{"message": {"content": text}}], **usage}).encode()


@pytest.fixture
def serve():
    started = []

    def start(script, **settings):
        started.append(Endpoint(script, **settings))
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.server.shutdown()
        endpoint.server.server_close()


def plan_for(folder, url, **settings):
    values = {"url": url, "model": "tiny", "price_input": 1.0, "price_output": 10.0, "budget": 5.0, "references": 2}
    values |= {"size": 64, "repeats": 3, "reorders": 3, "controls": 3, "api_key_env": "TEST_KEY"}

    def red(dataset, variant, prompt, seed):
        image = Image.new("RGB", (60, 40), (QUALITY[variant], 0, 0))
        image.info["parameters"] = f"made by {variant}"
        return image

    return make_plan(folder, picture=red, judge=values | settings)


def test_rankings_reach_the_right_variants_through_blind_letters(tmp_path, serve, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret")
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url)
    verdict = judge(plan, all_images(plan), pause=0)
    assert verdict.failed == verdict.unasked == 0 and len(verdict.ballots) == 12 + 3 + 3 + 3
    for ballot in verdict.ballots:
        if ballot.kind != "control":
            assert ballot.by_variant(["one", "two", "three"]).tolist() == [3, 2, 1]
    ranked = analyse(plan, read(plan))
    assert [interval.value for interval in ranked.first] == [0, 0, 1]
    found = reliability(plan, read(plan))
    assert [number.value for number in (found.repeat, found.reorder, found.control_ties)] == [1, 1, 1]
    assert [rate.value for rate in found.positions] == pytest.approx(
        [1 / 3] * 3
    )  # 12 trials run twice through the square of 6 rows
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer secret"}


def test_requests_hold_no_names_no_metadata_and_pictures_of_one_size(tmp_path, serve):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url)
    judge(plan, all_images(plan), pause=0)
    for payload in endpoint.payloads:
        images = shown(payload)
        assert len(images) == 3 and {image.size for image in images} == {(64, 43)} and not any(i.info for i in images)
        words = [part["text"] for part in payload["messages"][1]["content"] if part["type"] == "text"]
        for name in (*plan.variant_names, "alpha", "beta", ".png", "p01"):
            assert not any(name in word for word in words), (name, words)
        assert payload["response_format"] == {"type": "json_object"}
        assert all(dimension in INSTRUCTIONS for dimension in DIMENSIONS)


def test_a_judge_that_looks_at_positions_is_found_out(tmp_path, serve):
    plan = plan_for(tmp_path, serve(first_is_best).url, reorders=12)
    verdict = judge(plan, all_images(plan), pause=0)
    found = reliability(plan, verdict.ballots)
    for rates in (found.positions, found.control_positions):
        assert [rate.value for rate in rates] == [1, 0, 0]
    assert found.control_ties.value == 0 and found.repeat.value == 1
    assert found.reorder.value == pytest.approx(1 / 3)
    first = [interval.value for interval in analyse(plan, verdict.ballots).first]
    assert first == pytest.approx([1 / 3] * 3)  # the balanced orders take the bias out


def test_replies_are_kept_and_asked_for_once(tmp_path, serve):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url)
    first = judge(plan, all_images(plan), pause=0)
    asked = len(endpoint.payloads)
    assert asked == first.requests == len(questions(plan)) == len(list((plan.out / "judge" / "replies").glob("*.json")))
    again = judge(plan, all_images(plan), pause=0)
    assert len(endpoint.payloads) == asked and again.requests == 0
    assert again.ballots == first.ballots and again.dollars == pytest.approx(first.dollars)
    path = all_images(plan)[next(iter(all_images(plan)))]
    Image.new("RGB", (60, 40), (255, 0, 0)).save(path)
    judge(plan, all_images(plan), pause=0)
    assert 1 <= len(endpoint.payloads) - asked <= 4  # only what shows the changed picture


def test_invalid_answers_are_told_what_is_wrong_and_asked_again(tmp_path, serve):
    def careless(payload):
        return "I like B." if len(payload["messages"]) == 2 else f"```json\n{honest(payload)}\n```"

    endpoint = serve(careless)
    plan = plan_for(tmp_path, endpoint.url, repeats=0, reorders=0, controls=0)
    verdict = judge(plan, all_images(plan), pause=0)
    assert verdict.failed == 0 and verdict.requests == 24
    retried = next(payload for payload in endpoint.payloads if len(payload["messages"]) == 4)
    assert retried["messages"][2] == {"role": "assistant", "content": "I like B."}
    assert "there is no JSON object in it" in retried["messages"][3]["content"]


def test_a_judge_that_never_answers_validly_is_counted_not_believed(tmp_path, serve):
    plan = plan_for(tmp_path, serve(lambda payload: "no").url, repeats=0, reorders=0, controls=0, attempts=2)
    verdict = judge(plan, all_images(plan), pause=0)
    assert (len(verdict.ballots), verdict.failed, verdict.requests) == (0, 12, 24)


def test_overload_is_waited_out_and_a_refusal_is_said(tmp_path, serve):
    seen = Counter()

    def busy(payload):
        key = json.dumps(payload)
        seen[key] += 1
        return (429, {"Retry-After": "0"}, b"slow down") if seen[key] == 1 else honest(payload)

    plan = plan_for(tmp_path, serve(busy).url, repeats=0)
    assert judge(plan, all_images(plan), pause=0).failed == 0
    refusing = serve(lambda payload: (401, {}, b"no key"))
    plan = replace(plan, judge=replace(plan.judge, url=refusing.url))
    with pytest.raises(SgaError, match="401 .*no key.*TEST_KEY is not set"):
        judge(plan, all_images(plan), pause=0)
    failing = serve(lambda payload: (500, {}, b"broken"))
    plan = replace(plan, judge=replace(plan.judge, url=failing.url))
    with pytest.raises(SgaError, match="failed 5 times, last with 500"):
        judge(plan, all_images(plan), pause=0)


def test_the_command_line_says_what_was_asked_and_what_it_cost(tmp_path, serve, capsys):
    endpoint = serve(honest)
    plan_for(tmp_path, endpoint.url)
    assert main(["judge", str(tmp_path / "plan.toml"), "--estimate"]) == 0 and endpoint.payloads == []
    assert main(["judge", str(tmp_path / "plan.toml")]) == 0
    assert "21 rankings, 0 questions without a valid answer; 21 requests, $0.04 in all" in capsys.readouterr().out


def test_the_estimate_comes_before_any_request_and_binds(tmp_path, serve, capsys):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url, budget=0.01)
    assert judge(plan, all_images(plan), only_estimate=True) is None
    said = capsys.readouterr().out
    assert "21 questions, 0 answered already" in said and "the budget is $0.01" in said
    with pytest.raises(SgaError, match=r"budget = 0.01 is below the estimated \$0.08"):
        judge(plan, all_images(plan), pause=0)
    assert endpoint.payloads == []


def test_a_run_stops_at_the_budget_when_replies_cost_more_than_estimated(tmp_path, serve):
    def dear(payload):
        usage = {"prompt_tokens": 1000, "completion_tokens": 9_000}
        return 200, {}, json.dumps({"choices": [{"message": {"content": honest(payload)}}], "usage": usage}).encode()

    endpoint = serve(dear)
    plan = plan_for(tmp_path, endpoint.url, budget=0.4, parallel=1)
    with pytest.raises(SgaError, match="with 17 questions left"):
        judge(plan, all_images(plan), pause=0)
    assert len(endpoint.payloads) == 4  # $0.091 each: a fifth could have exceeded $0.40
    assert len(read(plan)) == 4
    plan = replace(plan, judge=replace(plan.judge, budget=5.0))
    assert judge(plan, all_images(plan), pause=0).requests == 17


def test_answers_to_another_plan_are_refused(tmp_path, serve):
    plan = plan_for(tmp_path, serve(honest).url)
    judge(plan, all_images(plan), pause=0)
    with pytest.raises(SgaError, match="answers to another plan"):
        read(replace(plan, seeds=(3, 4)))


@pytest.mark.parametrize(
    "text, problem",
    [
        ("none", "no JSON object"),
        ('{"geometry": }', "not valid JSON"),
        (json.dumps(dict.fromkeys(DIMENSIONS, {"A": 1, "B": 2})), "a rank for each of A, B, C"),
        (json.dumps(dict.fromkeys(DIMENSIONS[:3], {"A": 1, "B": 2, "C": 3})), "'overall' must be"),
        (json.dumps(dict.fromkeys(DIMENSIONS, {"A": 0, "B": 2, "C": 3})), "rank of A in 'geometry' is 0"),
        (json.dumps(dict.fromkeys(DIMENSIONS, {"A": True, "B": 2, "C": 3})), "is True"),
        (json.dumps(dict.fromkeys(DIMENSIONS, {"A": 1, "B": 2, "C": 4})), "one of 1 to 3"),
    ],
)
def test_what_is_wrong_with_an_answer(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse(text, "ABC")


def test_ties_are_valid_and_made_dense():
    ranks = parse("Sure: " + json.dumps(dict.fromkeys(DIMENSIONS, {"A": 1, "B": 3, "C": 1})) + ".", "ABC")
    assert ranks["overall"] == (1, 2, 1)


def test_identity_of_a_question_follows_what_it_shows(tmp_path, serve):
    plan = plan_for(tmp_path, "http://127.0.0.1:9/v1")
    asker = Asker(plan, all_images(plan))
    asked = questions(plan)
    main = [question for question in asked if question.kind == "main"]
    repeat = next(question for question in asked if question.kind == "repeat")
    twin = next(question for question in main if question.trial == repeat.trial)
    assert asker.identity(twin) != asker.identity(repeat) and twin.order == repeat.order
    assert asker.identity(twin) == asker.identity(replace(twin, kind="other"))
