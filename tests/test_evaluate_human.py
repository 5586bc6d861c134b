"""The ranking page: over real HTTP, through headless Chromium, with concurrent raters, and across kills."""

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.plan.plan_file import read_plan
from sga_kohya.evaluate.rate.analysis import analyse, without_inattentive
from sga_kohya.evaluate.rate.ballots import Ballot
from sga_kohya.evaluate.rate.server import Server
from sga_kohya.evaluate.rate.study import Log, candidates, chosen_trials, items_for, log_file, read, spoil
from sga_kohya.evaluate.sample.images import all_images

from .evaluate_browser import chromium
from .evaluate_world import make_plan, noise
from .pages import HOSTILE

QUALITY = {"one": 50, "two": 120, "three": 200}


def red(dataset, variant, prompt, seed):
    image = Image.new("RGB", (60, 40), (QUALITY[variant], 0, 0))
    image.paste(noise(prompt), (0, 30))
    return image


@pytest.fixture
def plan(tmp_path):
    return make_plan(tmp_path, picture=red, human={"references": 2, "size": 64, "attention": 2, "repeats": 2})


@pytest.fixture
def server(plan):
    started = Server(plan, all_images(plan))
    threading.Thread(target=started.serve_forever, daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


class Rater:
    """A rater without a browser. It prefers red, and of a spoilt picture the one with most colours."""

    def __init__(self, server, name, consent=True):
        self.address = server.server_address
        self.session = self.post("/start", {"rater": name, "consent": consent})["session"]

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply, content

    def post(self, path, body, expected=200):
        origin = f"http://127.0.0.1:{self.address[1]}"
        headers = {"Content-Type": "application/json", "X-Session": getattr(self, "session", ""), "Origin": origin}
        reply, content = self.request("POST", path, json.dumps(body), **headers)
        assert reply.status == expected, content
        return json.loads(content)

    def picture(self, address):
        reply, content = self.request("GET", address)
        assert reply.status == 200
        return Image.open(io.BytesIO(content))

    def look(self, item):
        images = {letter: self.picture(address).convert("RGB") for letter, address in item["candidates"].items()}
        worth = {letter: (image.getpixel((5, 2))[0], len(image.getcolors(9999))) for letter, image in images.items()}
        return {letter: 1 + sum(other > own for other in worth.values()) for letter, own in worth.items()}

    def finish(self, look=None, most=99):
        count = 0
        while count < most and not (item := self.post("/next", {})).get("finished"):
            self.post("/answer", {"item": item["item"], "ranks": (look or self.look)(item), "seconds": 1.5})
            count += 1
        return count


def test_rankings_reach_the_right_variants(server, plan):
    assert Rater(server, "ann").finish() == 6 + 2 + 2
    ballots = read(plan)
    for ballot in ballots:
        if ballot.kind != "attention":
            assert ballot.by_variant(["one", "two", "three"]).tolist() == [3, 2, 1]
    kept, raters = without_inattentive(plan, ballots)
    assert raters.kept == ("ann",) and raters.consistency.value == 1 and raters.seconds == 1.5 and raters.alpha is None
    ranked = analyse(plan, kept)
    assert ranked.count == 6 and [interval.value for interval in ranked.first] == [0, 0, 1]


def test_concurrent_raters_lose_nothing_and_each_has_an_own_order(server, plan):
    names = [f"rater-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: Rater(server, name).finish(), names)) == [10] * 8
    lines = log_file(plan).read_text().splitlines()
    assert len(lines) == 1 + 8 + 80 and all(json.loads(line) for line in lines)
    ballots, raters = without_inattentive(plan, read(plan))
    assert raters.alpha.value == pytest.approx(1) and len(raters.kept) == 8
    orders = {tuple((b.trial, b.order) for b in ballots if b.rater == name) for name in names}
    assert len(orders) == 8


def test_a_double_submit_counts_once(server, plan):
    rater = Rater(server, "ann")
    item = rater.post("/next", {})
    answer = {"item": item["item"], "ranks": rater.look(item), "seconds": 1}
    rater.post("/answer", answer)
    assert rater.post("/answer", answer, expected=409)["error"] == "This one is answered already."
    assert len(read(plan)) == 1
    assert rater.post("/next", {})["number"] == 2


def test_two_windows_of_one_rater_cannot_both_answer(server, plan):
    windows = [Rater(server, "ann"), Rater(server, "ann")]
    answers = []
    for window in windows:
        item = window.post("/next", {})
        answers.append({"item": item["item"], "ranks": window.look(item), "seconds": 1})

    def send(number):
        reply, _ = windows[number].request(
            "POST",
            "/answer",
            json.dumps(answers[number]),
            **{"Content-Type": "application/json", "X-Session": windows[number].session, "Origin": server.url[:-1]},
        )
        return reply.status

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(send, [0, 1])) == [200, 409]
    assert len(read(plan)) == 1


def test_an_answer_survives_a_kill_and_the_rater_goes_on(tmp_path):
    plan = make_plan(tmp_path, picture=red, human={"references": 2, "size": 64, "attention": 1, "repeats": 1})
    command = [sys.executable, "-m", "sga_kohya.evaluate", "human", str(tmp_path / "plan.toml"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())

        class Address:
            server_address = ("127.0.0.1", int(url.group(1)))

        assert Rater(Address, "ann").finish(most=3) == 3
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with log_file(plan).open("a") as file:
        file.write('{"event": "answer", "rater": "ann", "it')  # a line that a kill cut short
    again = Server(plan, all_images(plan))
    threading.Thread(target=again.serve_forever, daemon=True).start()
    try:
        assert again.study.log.torn == 1
        rater = Rater(again, "ann")
        assert rater.post("/next", {})["number"] == 4
        assert rater.finish() == 6 + 1 + 1 - 3
    finally:
        again.shutdown()
        again.server_close()
    ballots = read(plan)
    assert len(ballots) == 8 and len({(ballot.kind, ballot.trial) for ballot in ballots}) == 8


def test_nothing_the_browser_gets_names_a_variant_or_a_file(tmp_path):
    names = ("baseline-1.0", "sga-1.0", "sga-1.5")
    plan = make_plan(tmp_path, names, ("alpha",), human={"references": 2, "size": 64, "attention": 2, "repeats": 1})
    server = Server(plan, all_images(plan))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rater, items = Rater(server, "ann"), []
    texts = [rater.request("GET", path)[1].decode() for path in ("/", "/about")]
    while not (item := rater.post("/next", {})).get("finished"):
        items.append(item)
        reply, body = rater.request("GET", item["candidates"]["A"])
        texts += [json.dumps(item), str(reply.headers)]
        assert not Image.open(io.BytesIO(body)).info
        assert {rater.picture(address).size for address in item["candidates"].values()} == {(64, 53)}
        rater.post("/answer", {"item": item["item"], "ranks": {"A": 1, "B": 1, "C": 1}, "seconds": 0.1})
    server.shutdown()
    server.server_close()
    for word in (*names, "p01_s1", "made/", "references/", "alpha", ".png", "spoilt", str(tmp_path)):
        assert word not in "".join(texts)
    assert len(items) == 6 and {item["item"] for item in items} == set("123456")
    assert len({address for item in items for address in item["candidates"].values()}) == 18


@pytest.mark.parametrize(
    "path",
    [
        "/plan.toml",
        "/../plan.toml",
        "/picture/../../plan.toml",
        "/picture/%2e%2e%2fplan.toml",
        "/picture/",
        "//etc/passwd",
    ],
)
def test_no_path_reaches_a_file(server, path):
    reply, content = Rater(server, "ann").request("GET", path)
    assert reply.status == 404 and b"seeds" not in content


def test_pictures_of_one_rater_are_no_address_for_later_items(server):
    rater = Rater(server, "ann")
    old = rater.post("/next", {})
    rater.post("/answer", {"item": old["item"], "ranks": {"A": 1, "B": 2, "C": 3}, "seconds": 1})
    rater.post("/next", {})
    assert rater.request("GET", old["candidates"]["A"])[0].status == 404


@pytest.mark.parametrize(
    "change, status",
    [
        ({"ranks": {"A": 1, "B": 2}}, 400),
        ({"ranks": {"A": 1, "B": 2, "C": 9}}, 400),
        ({"ranks": {"A": 1, "B": 2, "C": True}}, 400),
        ({"seconds": "fast"}, 400),
        ({"seconds": float("nan")}, 400),
        ({"seconds": 10**400}, 400),  # JSON's whole numbers have no end, floats do
        ({"seconds": True}, 400),
        ({"item": "77"}, 409),
    ],
)
def test_answers_that_are_none_are_refused(server, plan, change, status):
    rater = Rater(server, "ann")
    item = rater.post("/next", {})
    rater.post("/answer", {"item": item["item"], "ranks": {"A": 1, "B": 2, "C": 3}, "seconds": 1} | change, status)
    assert read(plan) == []


def test_other_sites_and_other_names_of_this_machine_are_refused(server):
    rater = Rater(server, "ann")
    body, kind = json.dumps({}), "application/json"
    own = {"Content-Type": kind, "X-Session": rater.session, "Origin": server.url[:-1]}
    assert rater.request("POST", "/next", body, **own)[0].status == 200
    assert rater.request("POST", "/next", body, **(own | {"Origin": "https://evil.example"}))[0].status == 403
    assert rater.request("POST", "/next", body, **(own | {"Content-Type": "text/plain"}))[0].status == 415
    assert rater.request("POST", "/next", body, **(own | {"X-Session": "guess"}))[0].status == 403
    assert rater.request("POST", "/next", "x" * 20_000, **own)[0].status == 413
    assert rater.request("POST", "/next", "[", **own)[0].status == 400
    assert rater.request("GET", "/", None, Host="evil.example")[0].status == 403
    reply, _ = rater.request("GET", "/")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in reply.headers


def test_no_consent_no_study(server, plan):
    with pytest.raises(AssertionError, match="needs your consent"):
        Rater(server, "ann", consent=False)
    with pytest.raises(AssertionError, match="Choose a rater id"):
        Rater(server, "../ann")
    assert [json.loads(line)["event"] for line in log_file(plan).read_text().splitlines()] == ["study"]


def test_raters_who_do_not_look_are_left_out(server, plan):
    Rater(server, "ann").finish()
    Rater(server, "bot").finish(look=lambda item: dict.fromkeys(item["candidates"], 1))
    _, raters = without_inattentive(plan, read(plan))
    assert (raters.kept, raters.excluded) == (("ann",), ("bot",))


def test_every_rater_gets_the_same_trials_whole_and_repeats_late(plan):
    for rater in ("ann", "bob"):
        items = items_for(plan, rater)
        assert items == items_for(plan, rater)
        main = [item for item in items if item.kind == "main"]
        assert {item.trial for item in main} == set(chosen_trials(plan)) and len(main) == 6
        assert {(trial.dataset, trial.prompt) for trial in chosen_trials(plan)} == {
            (dataset.name, prompt) for dataset in plan.datasets for prompt in range(3)
        }
        for item in (item for item in items if item.kind == "repeat"):
            first = next(other for other in main if other.trial == item.trial)
            assert items.index(item) > items.index(first)
            assert all(a != b for a, b in zip(first.order, item.order, strict=True))
    assert len(chosen_trials(replace(plan, human=replace(plan.human, trials=4)))) == 4
    with pytest.raises(SgaError, match="trials = 13 is more than the 12"):
        Server(replace(plan, human=replace(plan.human, trials=13)), all_images(plan))


def test_a_changed_study_does_not_go_on_in_the_old_log(plan):
    Log(plan).close()
    with pytest.raises(SgaError, match="another study"):
        Log(replace(plan, human=replace(plan.human, repeats=0)))


def test_spoilt_pictures_are_ever_coarser(plan):
    image = noise(3, (64, 64))
    colours = [len(spoil(image, level).getcolors(9999)) for level in range(4)]
    assert colours == sorted(colours, reverse=True) and len(set(colours)) == 4
    item = next(item for item in items_for(plan, "ann") if item.kind == "attention")
    assert len(candidates(plan, all_images(plan), item)) == 3


def test_a_study_s_words_stay_text_under_its_policy(tmp_path):
    """Title, consent, question and prompt; and the page's own scripts and styles run under the nonce."""
    human = {"title": HOSTILE, "consent": HOSTILE, "question": HOSTILE, "references": 1, "size": 64}
    plan = make_plan(tmp_path, picture=red, human=human)
    plan = replace(plan, datasets=tuple(replace(d, prompts=(HOSTILE,) * len(d.prompts)) for d in plan.datasets))
    with Server(plan, all_images(plan)) as server, chromium(tmp_path) as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(f"{server.url}?rater=ann")
        page.until("!document.querySelector('#welcome').hidden")
        page.click("#agree")
        page.click("#start button")
        page.until("document.body.dataset.item === '1'")
        for name in ("title", "consent", "question", "prompt"):
            assert page.run(f"document.getElementById('{name}').textContent") == HOSTILE
        assert page.run("document.querySelectorAll('script').length") == 1
        assert page.run("getComputedStyle(document.querySelector('.bar')).position") == "fixed", "styles are let in"
        assert page.complaints == []
        server.shutdown()


def test_a_rater_clicks_drags_and_types_through_the_study(server, plan, tmp_path):
    with chromium(tmp_path) as page:
        page.size(1200, 900)
        page.open(f"{server.url}?rater=ann")
        page.until("!document.querySelector('#welcome').hidden")
        page.click("#start button")  # without consent the form does not go
        assert page.run("document.querySelector('#task').hidden")
        page.click("#agree")
        page.click("#start button")
        page.until("document.body.dataset.item === '1'")
        assert page.run("document.querySelector('#submit').disabled")

        page.drag("figure[data-letter=A] img", ".place[data-rank='2']")
        page.key("b")
        page.key("2")
        page.click("figure[data-letter=C] button[data-rank='3']")
        page.drag(".place[data-rank='3'] i", ".place[data-rank='1']")
        assert page.run("JSON.stringify(ranks)") == '{"A":2,"B":2,"C":1}'
        page.key("z")
        assert page.run("document.querySelector('#zoom').open && document.querySelector('#zoom b').textContent") == "C"
        page.key("a")
        assert page.run("document.querySelector('#zoom').open && document.querySelector('#zoom b').textContent") == "A"
        page.click("#zoom button")
        assert not page.run("document.querySelector('#zoom').open")
        page.click("#references img")
        assert page.run("document.querySelector('#zoom').open")
        page.click("#zoom button")
        page.click("#submit")
        page.until("document.body.dataset.item === '2'")
        (ballot,) = read(plan)
        assert ballot.ranks["overall"] == (2, 2, 1) and ballot.rater == "ann" and ballot.seconds > 0

        page.open(server.url)  # a reload goes on where it was
        page.until("!document.querySelector('#welcome').hidden")
        assert page.run("document.querySelector('#rater').value") == "ann"
        page.click("#agree")
        page.click("#start button")
        page.until("document.querySelector('#count').textContent === '2 of 10'")
        for number in range(2, 11):
            page.until(f"document.body.dataset.item === '{number}'")
            for letter, rank in zip("abc", "123", strict=True):
                page.key(letter)
                page.key(rank)
            page.key("Enter")
        page.until("!document.querySelector('#end').hidden")
        assert len(read(plan)) == 10
        assert page.complaints == []


def test_the_page_fits_a_phone_and_says_when_the_study_was_restarted(server, plan, tmp_path):
    with chromium(tmp_path) as page:
        page.size(390, 844, dark=True)
        page.open(server.url)
        page.until("!document.querySelector('#welcome').hidden")
        page.run("document.querySelector('#rater').value = 'bob'")
        page.click("#agree")
        page.click("#start button")
        page.until("document.body.dataset.item === '1'")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        server.study.sessions.clear()
        for letter in "ABC":
            page.click(f"figure[data-letter={letter}] button[data-rank='1']")
        page.click("#submit")
        page.until("!document.querySelector('#error').hidden")
        assert "enter your rater id again" in page.run("document.querySelector('#error').textContent")
        assert read(plan) == []


def test_reading_back_is_what_was_written(plan):
    log = Log(plan)
    item = items_for(plan, "ann")[0]
    log.consent("ann")
    assert log.answer("ann", item, (1, 2, 2), 3.25)
    log.close()
    assert read(read_plan(plan.folder / "plan.toml")) == [
        Ballot("ann", item.kind, item.trial, item.order, {"overall": (1, 2, 2)}, 3.25)
    ]
