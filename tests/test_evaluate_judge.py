"""The judge over real HTTP: a local server that speaks OpenAI's protocol and follows a script."""

import base64
import io
import json
import resource
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.rate.analysis import analyse, reliability
from sga_kohya.evaluate.rate.ballots import balanced_orders
from sga_kohya.evaluate.rate.endpoint import ROOM, BudgetSpent
from sga_kohya.evaluate.rate.endpoint import Endpoint as PaidEndpoint
from sga_kohya.evaluate.rate.judge import DIMENSIONS, INSTRUCTIONS, Asker, judge, parse, questions, read
from sga_kohya.evaluate.sample.images import all_images
from sga_kohya.kit import chat

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


def replies(plan):
    return plan.out / "judge" / "replies"


def answered(payload, **usage):
    body = {"choices": [{"message": {"content": honest(payload)}}], "usage": usage}
    return 200, {}, json.dumps(body).encode()


@pytest.mark.parametrize("tokens", [None, float("nan"), float("inf"), -1, -1e9, "9", True, [], {}])
def test_usage_without_sense_neither_stops_the_run_nor_the_budget(tmp_path, serve, tokens):
    endpoint = serve(lambda payload: answered(payload, prompt_tokens=tokens, completion_tokens=tokens))
    plan = plan_for(tmp_path, endpoint.url, repeats=0, reorders=0, controls=0)
    asker = Asker(plan, all_images(plan))
    verdict = judge(plan, all_images(plan), pause=0)
    each = verdict.dollars / 12
    assert verdict.failed == 0 and 0.001 < each < 0.01  # as estimated
    assert judge(plan, all_images(plan), pause=0).dollars == pytest.approx(verdict.dollars)
    plan = replace(plan, seeds=(1, 2), judge=replace(plan.judge, repeats=3, budget=verdict.dollars + 2.5 * each))
    with pytest.raises(SgaError, match="budget = .* is below the estimated"):
        judge(plan, all_images(plan), pause=0)
    assert len(endpoint.payloads) == 12 and asker.plan.judge.repeats == 0


def test_completion_tokens_that_are_null_cost_as_estimated(tmp_path, serve):
    endpoint = serve(lambda payload: answered(payload, prompt_tokens=1000, completion_tokens=None))
    plan = plan_for(tmp_path, endpoint.url, repeats=0, reorders=0, controls=0)
    assert judge(plan, all_images(plan), pause=0).dollars == pytest.approx(12 * (1000 * 1 + 250 * 10) / 1e6)


@pytest.mark.parametrize("dollars", ["NaN", "-5", "Infinity", "null", '"1"', "1" + 400 * "0", "true"])
def test_a_sum_without_sense_that_an_older_version_kept_is_reckoned_anew(tmp_path, serve, dollars):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url, repeats=0, reorders=0, controls=0)
    verdict = judge(plan, all_images(plan), pause=0)
    for path in replies(plan).glob("*.json"):
        body = json.loads(path.read_text())["body"]
        path.write_text(f'{{"dollars": {dollars}, "reply": {body}}}')
    again = judge(plan, all_images(plan), pause=0)
    assert again.dollars == pytest.approx(verdict.dollars) and again.requests == 0
    assert again.ballots == verdict.ballots


def test_a_reply_that_was_paid_for_outlives_a_kill_before_it_was_read(tmp_path, serve, monkeypatch):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url, parallel=1)

    def killed(body):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(chat, "read_reply", killed)
        with pytest.raises(KeyboardInterrupt):
            judge(plan, all_images(plan), pause=0)
    paid = len(endpoint.payloads)
    assert 1 <= paid < 21
    judge(plan, all_images(plan), pause=0)
    assert len(endpoint.payloads) == 21


def test_replies_lost_on_the_way_are_kept_and_counted_and_their_questions_asked_again(tmp_path, serve, capsys):
    seen = Counter()

    def torn(payload):
        seen[key] = 1 + seen[key := json.dumps(payload)]
        return (200, {"Content-Length": "9999"}, b'{"choi') if seen[key] == 1 else answered(payload, prompt_tokens=1000)

    endpoint = serve(torn)
    plan = plan_for(tmp_path, endpoint.url, repeats=0, reorders=0, controls=0)
    assert main(["judge", str(tmp_path / "plan.toml")]) == 0
    said = capsys.readouterr().out
    assert (
        "12 rankings, 0 questions without a valid answer; 24 requests" in said and "12 replies did not arrive" in said
    )
    lost = list(replies(plan).glob("*.lost-*.json"))
    assert len(lost) == 12 and {json.loads(path.read_text())["body"] for path in lost} == {'{"choi'}
    again = judge(plan, all_images(plan), pause=0)
    assert again.requests == 0 and f"${again.dollars:.2f}" in said  # a later run counts them too
    assert again.dollars > 12 * 0.0035


def test_nothing_is_asked_where_the_reply_could_not_be_kept(tmp_path, serve):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM - 1, before[1]))  # refused as on a full disk
    try:
        with pytest.raises(OSError):
            judge(plan, all_images(plan), pause=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert endpoint.payloads == [] and not list(replies(plan).iterdir())
    assert judge(plan, all_images(plan), pause=0).requests == 21


DAMAGED = [b"", b"{", b"[]", b"5", b"{}", b"\xff", b"[" * 9999, b'{"body": 5}', b'{"dollars": 1}']


@pytest.mark.parametrize("content", DAMAGED, ids=[repr(content[:20]) for content in DAMAGED])
def test_a_damaged_reply_counts_as_spent_and_is_asked_for_again(tmp_path, serve, capsys, content):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url)
    verdict = judge(plan, all_images(plan), pause=0)
    sorted(replies(plan).glob("*.json"))[0].write_bytes(content)
    again = judge(plan, all_images(plan), pause=0)
    assert len(endpoint.payloads) == 22 and again.ballots == verdict.ballots
    assert again.dollars > verdict.dollars * 21.99 / 21
    assert judge(plan, all_images(plan), pause=0).dollars == pytest.approx(again.dollars)
    assert "1 kept replies are damaged" in capsys.readouterr().out


def test_a_kept_reply_that_is_no_completion_is_put_aside(tmp_path, serve):
    endpoint = serve(honest)
    plan = plan_for(tmp_path, endpoint.url)
    judge(plan, all_images(plan), pause=0)
    path = sorted(replies(plan).glob("*.json"))[0]
    path.write_text('{"estimate": 0.5, "prices": [1, 10], "body": "<html>"}')
    again = judge(plan, all_images(plan), pause=0)
    assert len(endpoint.payloads) == 22 and again.dollars > 0.5 and len(again.ballots) == 21


def test_the_key_is_not_sent_after_a_redirect(tmp_path, serve, monkeypatch, capsys):
    monkeypatch.setenv("TEST_KEY", "secret")
    other = serve(honest)
    server = serve(lambda payload: (307, {"Location": f"{other.url}/chat/completions"}, b""))
    plan_for(tmp_path, server.url)
    assert main(["judge", str(tmp_path / "plan.toml")]) == 2
    said = capsys.readouterr().err
    assert "redirects to" in said and "write that address as [judge]: url" in said and "secret" not in said
    assert other.payloads == []


def test_an_endpoint_without_json_mode_is_said(tmp_path, serve):
    plan = plan_for(tmp_path, serve(lambda payload: (400, {}, b"unknown field response_format")).url)
    with pytest.raises(SgaError, match="write json_mode = false"):
        judge(plan, all_images(plan), pause=0)


def test_a_key_on_an_open_line_is_warned_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TEST_KEY", "secret")
    plan = plan_for(tmp_path, "http://judge.example/v1")
    judge(plan, all_images(plan), only_estimate=True)
    said = capsys.readouterr().out
    assert "http://judge.example/v1/chat/completions is not encrypted: TEST_KEY" in said and "secret" not in said


@pytest.mark.parametrize("line", [b"{", b"5", b'{"rater": "x"}', b"\xff"])
def test_ballots_that_are_damaged_are_said_with_the_remedy(tmp_path, serve, line):
    plan = plan_for(tmp_path, serve(honest).url)
    judge(plan, all_images(plan), pause=0)
    with (plan.out / "judge" / "ballots.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(SgaError, match="damaged: run `judge` again"):
        read(plan)
    judge(plan, all_images(plan), pause=0)
    assert len(read(plan)) == 21


def test_answers_nested_without_end_or_with_huge_numbers_are_invalid_not_fatal():
    deep = '{"geometry": ' + "[" * 100_000
    with pytest.raises(ValueError, match="no JSON object|not valid JSON"):
        parse(deep + "}", "ABC")
    ranks = json.dumps(dict.fromkeys(DIMENSIONS, {"A": 10**400, "B": 1, "C": 1}))
    with pytest.raises(ValueError) as caught:
        parse(ranks, "ABC")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(5))
def test_orders_are_balanced_for_any_number_of_trials(size, seed):
    """No one stands in a place, or right after another, more often than anyone else, as far as the number allows."""
    names = tuple("abcdef"[:size])
    for count in [*range(1, 45), 100, 121, 240]:
        orders = balanced_orders(names, count, np.random.default_rng(seed))
        assert len(orders) == count and all(sorted(order) == list(names) for order in orders)
        places = Counter((name, place) for order in orders for place, name in enumerate(order))
        pairs = Counter(pair for order in orders for pair in zip(order, order[1:], strict=False))
        often = [places[name, place] for name in names for place in range(size)]
        after = [pairs[pair] for pair in permutations(names, 2)]
        assert max(often) - min(often) == bool(count % size)
        assert max(after) - min(after) <= (0 if count % (size * (1 + size % 2)) == 0 else 1 + size % 2)


def test_three_variants_in_forty_trials_have_no_place_of_their_own():
    places = Counter()
    for order in balanced_orders(("a", "b", "c"), 40, np.random.default_rng(0)):
        places.update(enumerate(order))
    assert sorted(places.values()) == [13] * 6 + [14] * 3


def test_attempts_that_are_lost_do_not_break_the_budget(tmp_path, serve):
    endpoint = serve(lambda payload: (200, {"Content-Length": "9999"}, b'{"choi'))
    plan = plan_for(tmp_path, endpoint.url, repeats=0, reorders=0, controls=0, parallel=1)
    asker, client = Asker(plan, all_images(plan)), PaidEndpoint(plan.judge, tmp_path)
    each = client.estimate(asker.messages(questions(plan)[0]))
    plan = replace(plan, judge=replace(plan.judge, budget=12.5 * each))
    with pytest.raises(SgaError):
        judge(plan, all_images(plan), pause=0)
    for _ in range(3):
        with pytest.raises(SgaError):
            judge(plan, all_images(plan), pause=0)
    assert 5 <= len(endpoint.payloads) <= 12


def test_a_budget_ends_the_attempts_of_one_question(tmp_path, serve):
    endpoint = serve(lambda payload: (200, {"Content-Length": "9999"}, b'{"choi'))
    plan = plan_for(tmp_path, endpoint.url)
    asker, client = Asker(plan, all_images(plan)), PaidEndpoint(plan.judge, tmp_path / "replies", pause=0)
    messages = asker.messages(questions(plan)[0])
    client.judge = replace(plan.judge, budget=2.5 * client.estimate(messages))
    with pytest.raises(BudgetSpent):
        client.ask("one", 0, lambda: messages)
    assert len(endpoint.payloads) == 2 and client.spent <= client.judge.budget and client.reserved == 0
