"""The ranking page against others: raw sockets that break the rules of HTTP, and foreign pages in a real browser."""

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import toml

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.__main__ import main
from sga_kohya.evaluate.rate.server import Server
from sga_kohya.evaluate.rate.study import Log, events, items_for, log_file, read
from sga_kohya.evaluate.sample.images import all_images
from sga_kohya.kit import one_page
from sga_kohya.kit.journal import Journal, read_rows

from .evaluate_browser import chromium
from .evaluate_world import make_plan, write_plan


@pytest.fixture
def plan(tmp_path):
    return make_plan(tmp_path)


@contextlib.contextmanager
def running(plan, *args, **settings):
    server = Server(plan, all_images(plan), *args, **settings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(plan):
    with running(plan) as started:
        yield started


def talk(server, *parts, close=False):
    """Send the parts over one connection and return everything that comes back until the server ends it."""
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part if isinstance(part, bytes) else part.encode())
            if close:
                connection.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65_536):
                said += block
    return said


def request(server, path="/start", body=None, method="POST", **changed):
    """A request as the page makes it. changed: headers, None to leave one out, a list for several."""
    content = json.dumps({"rater": "mallory", "consent": True} if body is None else body)
    name = f"127.0.0.1:{server.port}"
    headers = {"Host": name, "Origin": f"http://{name}", "Content-Type": "application/json"}
    headers |= {"Content-Length": str(len(content))} | {key.replace("_", "-"): value for key, value in changed.items()}
    lines = [f"{method} {path} HTTP/1.1"]
    for key, value in headers.items():
        lines += [f"{key}: {one}" for one in (value if isinstance(value, list) else [value]) if one is not None]
    return "\r\n".join([*lines, "", content])


def status(said):
    return int(said.split(b" ", 2)[1])


def raters(plan):
    return {row.get("rater") for row in events(log_file(plan))[0]} - {None}


def test_the_request_that_the_others_are_changes_of_is_answered(server, plan):
    said = talk(server, request(server))
    assert status(said) == 200 and b'"session"' in said and raters(plan) == {"mallory"}
    assert b"\r\nConnection: close\r\n" in said


REFUSED = {
    "another origin": {"Origin": "https://evil.example"},
    "a page that hides its origin": {"Origin": "null"},
    "no origin": {"Origin": None},
    "an origin of another port": {"Origin": "http://127.0.0.1:1"},
    "no JSON": {"Content_Type": "text/plain"},
    "another name of this machine": {"Host": "evil.example", "Origin": "http://evil.example"},
    "another name with our port": {"Host": "evil.example:PORT", "Origin": "http://evil.example:PORT"},
    "our name with another port": {"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:1"},
    "a name that begins as ours": {"Host": "127.0.0.1:PORT.evil.example"},
    "no host": {"Host": None},
    "two hosts": {"Host": ["127.0.0.1:PORT", "evil.example"]},
    "chunks": {"Transfer_Encoding": "chunked"},
    "chunks and a length": {"Transfer_Encoding": "identity, chunked", "Content_Length": "5"},
    "two lengths": {"Content_Length": ["39", "4"]},
    "two equal lengths": {"Content_Length": ["39", "39"]},
    "a length with a sign": {"Content_Length": "+39"},
    "a length that is none": {"Content_Length": "1e1"},
    "a negative length": {"Content_Length": "-1"},
    "too long a length": {"Content_Length": "99999999"},
    "a length of 400 digits": {"Content_Length": "9" * 400},
    "two origins": {"Origin": ["http://127.0.0.1:PORT", "https://evil.example"]},
    "a folded header": {"X_Other": "a\r\n b"},
    "a line that is no header": {"X_Other": "a\r\nnonsense"},
    "a space before the colon": {"X_Other": "a\r\nContent-Length : 4"},
}


def with_port(value, server):
    if isinstance(value, list):
        return [with_port(one, server) for one in value]
    return value and value.replace("PORT", str(server.port))


@pytest.mark.parametrize("changed", REFUSED.values(), ids=REFUSED)
def test_a_refused_request_is_the_last_of_its_connection(server, plan, changed):
    """What follows it, in its body or behind it, is never read as a request."""
    changed = {key: with_port(value, server) for key, value in changed.items()}
    hidden = request(server, "/start")
    for parts in ((request(server, **changed), hidden), (request(server, body="x" * 90, **changed) + hidden,)):
        said = talk(server, *parts)
        assert status(said) in (400, 403, 413, 415) and said.count(b"HTTP/1.1 ") == 1
        assert b"session" not in said and b"\r\nConnection: close\r\n" in said
    assert raters(plan) == set()


def test_a_request_in_the_body_of_a_refused_one_is_not_answered(server, plan):
    """What a foreign page can send without asking: a form or fetch of plain text that holds a whole request."""
    hidden = request(server)
    refused = f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: https://evil.example\r\n"
    refused += f"Content-Type: text/plain\r\nContent-Length: {len(hidden)}\r\n\r\n"
    said = talk(server, refused + hidden)
    assert status(said) == 403 and said.count(b"HTTP/1.1 ") == 1 and raters(plan) == set()


def test_a_connection_carries_one_request_even_when_it_is_a_good_one(server, plan):
    second = request(server, body={"rater": "second", "consent": True})
    assert talk(server, request(server) + second).count(b"HTTP/1.1 ") == 1
    assert raters(plan) == {"mallory"}


@pytest.mark.parametrize(
    "line",
    [
        "GET /about",
        "GET /about HTTP/0.9",
        "GET /about HTTP/1.2",
        "GET /about HTTP/2.0",
        "GET  /about HTTP/1.1",
        "GET http://127.0.0.1/about HTTP/1.1",
        "GET about HTTP/1.1",
        "POST * HTTP/1.1",
        "CONNECT 127.0.0.1:80 HTTP/1.1",
        "DELETE / HTTP/1.1",
        "HEAD / HTTP/1.1",
        "GET /" + "a" * 9000 + " HTTP/1.1",
        "\x00\xff",
        "GET",
    ],
)
def test_a_request_line_of_another_kind_gets_one_short_refusal(server, line):
    said = talk(server, f"{line}\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode("latin-1"), close=True)
    assert 400 <= status(said) < 600 and said.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in said and b"title" not in said and b"aaaa" not in said


def test_a_get_with_content_is_refused(server):
    said = talk(server, request(server, "/about", method="GET"))
    assert status(said) == 405 and b"title" not in said


def test_a_token_counts_in_its_header_only(server):
    token = json.loads(talk(server, request(server)).partition(b"\r\n\r\n")[2])["session"]
    assert status(talk(server, request(server, "/next", X_Session=token))) == 200
    assert status(talk(server, request(server, f"/next?session={token}&X-Session={token}"))) == 403
    assert status(talk(server, request(server, "/next", {"session": token}, Cookie=f"X-Session={token}"))) == 403


@pytest.mark.parametrize("sent", ["", "POST /st", "REQUEST", "BODY"])
def test_whoever_sends_too_slowly_is_let_go(plan, monkeypatch, sent):
    """The time is for the whole request: a byte now and then does not renew it."""
    monkeypatch.setattr(Server, "patience", 0.6)
    with running(plan) as server:
        whole = request(server)
        sent = {"REQUEST": whole.partition("\r\n\r\n")[0], "BODY": whole[:-3]}.get(sent, sent)
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            connection.sendall(sent.encode())
            connection.settimeout(0.1)
            said, ended = b"", False
            while not ended:
                try:
                    connection.sendall(b" ")
                    block = connection.recv(9999)
                    said, ended = said + block, not block
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended = True
        assert b"200" not in said and raters(plan) == set()
        assert status(talk(server, request(server))) == 200


def test_endless_headers_are_not_kept(server):
    lines = "".join(f"X-{number}: {'a' * 1000}\r\n" for number in range(90))
    assert status(talk(server, f"GET /about HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{lines}\r\n")) == 413


def test_connections_beyond_the_limit_are_closed_and_places_come_back(plan, monkeypatch):
    monkeypatch.setattr(one_page, "MOST_CONNECTIONS", 2)
    with running(plan) as server:
        held = [socket.create_connection(server.server_address[:2], timeout=20) for _ in range(2)]
        for connection in held:
            connection.sendall(b"GET")
        while server.places._value:  # until both are being read
            time.sleep(0.01)
        assert talk(server, request(server)) == b""
        for connection in held:
            connection.close()
        while not server.places._value:
            time.sleep(0.01)
        assert status(talk(server, request(server))) == 200


def test_ipv6_loopback_is_served_under_its_own_name(plan):
    try:
        started = running(plan, "::1")
        server = started.__enter__()
    except SgaError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        assert server.url == f"http://[::1]:{server.port}/"
        own = f"[::1]:{server.port}"
        assert status(talk(server, request(server, Host=own, Origin=f"http://{own}"))) == 200
        assert status(talk(server, request(server, Host="[::2]:80", Origin="http://[::2]:80"))) == 403
    finally:
        started.__exit__(None, None, None)


def test_open_to_the_network_it_still_answers_to_no_foreign_name(plan):
    with running(plan, "0.0.0.0", names=["study.example.org"]) as server:

        def answer(host, origin=None):
            return status(talk(server, request(server, Host=host, Origin=origin or f"http://{host}")))

        assert answer(f"192.168.1.7:{server.port}") == 200  # digits belong to no one
        assert answer(f"{socket.gethostname()}:{server.port}") == 200
        assert answer("study.example.org", "https://study.example.org") == 200  # behind a proxy
        assert answer(f"STUDY.example.org:{server.port}") == 200
        assert answer(f"evil.example:{server.port}") == 403
        assert answer("192.168.1.7.evil.example") == 403


def test_port_80_has_names_without_a_port(plan):
    site = Server.__new__(Server)
    site.port = 80
    assert site._forms("localhost") == ["localhost:80", "localhost"]
    assert site._forms("::1") == ["[::1]:80", "[::1]"]


class Foreign:
    """Another site, which holds an empty page."""

    def __enter__(self):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(b"<title>foreign</title>")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.server.server_address[1]

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def test_a_foreign_page_in_a_browser_writes_nothing(server, plan, tmp_path):
    hidden = json.dumps(request(server))
    attack = f"""(async () => {{
        for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"])
            for (let n = 0; n < 3; n++)
                await fetch("http://127.0.0.1:{server.port}/answer", {{
                    method: "POST", mode: "no-cors", headers: {{"Content-Type": type}}, body: {hidden},
                }}).catch(() => 0);
        return "done";
    }})()"""
    with Foreign() as port, chromium(tmp_path, "--host-resolver-rules=MAP evil.example 127.0.0.1") as page:
        page.open(f"http://evil.example:{port}/")
        assert page.run("document.title") == "foreign"
        assert page.run(attack) == "done"
    assert raters(plan) == set()


def test_a_page_whose_name_was_made_to_resolve_to_us_reads_nothing(server, plan, tmp_path):
    """DNS rebinding: the page's own origin is now this server, so its requests are of one origin and readable."""
    hidden = json.dumps(request(server))
    attack = f"""(async () => {{
        let said = "";
        for (let n = 0; n < 6; n++) {{
            const send = {{method: "POST", headers: {{"Content-Type": "application/json"}}, body: {hidden}}};
            for (const [path, how] of [["/start", send], ["/about", {{}}], ["/", {{}}]])
                said += await fetch(path, how).then((reply) => reply.text()).catch((error) => `[${{error}}]`);
        }}
        return said;
    }})()"""
    with chromium(tmp_path, "--host-resolver-rules=MAP evil.example 127.0.0.1") as page:
        page.call("Page.setBypassCSP", enabled=True)
        page.open(f"http://evil.example:{server.port}/")
        said = page.run(attack)
    assert "Open this page by the address" in said
    assert "session" not in said and "Taking part" not in said and "<script" not in said
    assert raters(plan) == set()


@contextlib.contextmanager
def disk_of(size):
    """No file of this process may grow beyond so many bytes: what is written beyond is refused, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_full_disk_did_not_take_is_not_acknowledged(plan):
    log, ranks = Log(plan), (1, 2, 3)
    acknowledged = []
    with disk_of(log_file(plan).stat().st_size + 700):
        for item in items_for(plan, "ann"):
            with contextlib.suppress(OSError):
                acknowledged += [item.name] * log.answer("ann", item, ranks, 1.0)
    assert 0 < len(acknowledged) < len(items_for(plan, "ann"))
    assert len(read(plan)) == len(acknowledged) and events(log_file(plan))[1] == 0
    for item in log.left(plan, "ann"):  # there is room again
        assert log.answer("ann", item, ranks, 1.0)
    assert len(read(plan)) == len(items_for(plan, "ann"))


def test_the_page_says_that_an_answer_was_not_saved_and_keeps_it(server, plan, tmp_path, monkeypatch, capsys):
    with chromium(tmp_path) as page:
        page.open(f"{server.url}?rater=ann")
        page.until("!document.querySelector('#welcome').hidden")
        page.click("#agree")
        page.click("#start button")
        page.until("document.body.dataset.item === '1' && item.whole")
        for letter in "ABC":
            page.click(f"figure[data-letter={letter}] button[data-rank='1']")
        with disk_of(log_file(plan).stat().st_size + 20):
            page.click("#submit")
            page.until("!document.querySelector('#error').hidden")
        assert "could not be saved, and is not lost" in page.run("document.querySelector('#error').textContent")
        assert page.run("JSON.stringify(ranks)") == '{"A":1,"B":1,"C":1}' and read(plan) == []
        page.until("!document.querySelector('#submit').disabled")
        page.click("#submit")
        page.until("document.body.dataset.item === '2'")
    assert len(read(plan)) == 1
    assert "cannot be written" in capsys.readouterr().out


def test_a_picture_that_did_not_arrive_is_not_ranked(server, plan, tmp_path):
    for path in (plan.folder / "made").rglob("*.png"):
        path.write_bytes(b"no picture")
    with chromium(tmp_path) as page:
        page.open(f"{server.url}?rater=ann")
        page.until("!document.querySelector('#welcome').hidden")
        page.click("#agree")
        page.click("#start button")
        page.until("!document.querySelector('#error').hidden")
        for letter in "ABC":
            page.click(f"figure[data-letter={letter}] button[data-rank='1']")
        assert "did not arrive" in page.run("document.querySelector('#error').textContent")
        assert page.run("document.querySelector('#submit').disabled")


def test_two_studies_of_one_plan_are_one_too_many(tmp_path, capsys):
    write_plan(tmp_path)
    command = [sys.executable, "-m", "sga_kohya.evaluate", "human", str(tmp_path / "plan.toml"), "--port", "0"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert "ranking page" in first.stdout.readline()
        assert main(["human", str(tmp_path / "plan.toml"), "--port", "0"]) == 2
        said = capsys.readouterr().err
        assert re.search(
            r"error: another process is writing into .*human: wait for its end, or write another `out`", said
        )
    finally:
        first.kill()
        first.wait()
    again = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # the lock of a dead process holds no one
    try:
        assert "ranking page" in again.stdout.readline()
    finally:
        again.kill()
        again.wait()


@contextlib.contextmanager
def held(folder):
    """A folder that another process is writing into."""
    code = "import sys; from pathlib import Path; from sga_kohya.kit.files import only_writer\n"
    code += "with only_writer(Path(sys.argv[1]), ''): print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(folder)]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("command, folder", [("judge", "judge"), ("metrics", "embeddings"), ("report", "")])
def test_each_command_is_the_only_one_of_its_kind_in_a_plan(tmp_path, capsys, command, folder):
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "price_input": 0, "price_output": 0, "budget": 1}
    plan = make_plan(tmp_path, judge={**judge, "references": 2})
    with held(plan.out / folder):
        assert main([command, str(tmp_path / "plan.toml")]) == 2
    assert "another process is writing into" in capsys.readouterr().err


def test_two_runs_may_sample_two_variants_but_not_one(tmp_path, capsys):
    """Two GPUs: each `run --only` has its own."""
    values = toml.loads(write_plan(tmp_path).read_text())
    for variant in values["variants"][:2]:
        del variant["images"]
    (tmp_path / "plan.toml").write_text(toml.dumps(values))
    images = tmp_path / "evaluation" / "images" / "beta"
    (images / "one" / ".sampling-x").mkdir(parents=True)
    for name in ("train_network.py", "library/train_util.py", "library/flux_train_utils.py"):
        (tmp_path / "host" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "host" / name).touch()
    words = ["run", str(tmp_path / "plan.toml"), "--sd_scripts", str(tmp_path / "host")]
    with held(images / "one"):
        for only in ([], ["--only", "one"]):
            assert main([*words, *only]) == 2
            assert "another process is writing into" in capsys.readouterr().err
        assert main([*words, "--only", "two"]) == 2
        assert "flux_minimal_inference.py" in capsys.readouterr().err
        assert (images / "one" / ".sampling-x").is_dir()  # what the other run is working in


DAMAGED = [b"5", b"[]", b'"answer"', b"null", b"{}x", b"\xff\xfe\x00", b"[" * 5000, b'{"event": "answer"}', b'{"a": 1}']
DAMAGED += [b'{"event": "consent"}', b'{"event": "answer", "rater": "ann", "item": "1", "kind": "main", "trial": 5}']
DAMAGED += [
    b'{"event": "answer", "rater": "ann", "item": ["1"]}',
    b'{"event": ["answer"]}',
    b'{"n": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("line", DAMAGED, ids=[repr(line[:30]) for line in DAMAGED])
def test_a_line_that_is_no_row_is_counted_and_costs_no_other(plan, line):
    log = Log(plan)
    items = items_for(plan, "ann")
    log.answer("ann", items[0], (1, 2, 3), 1.0)
    with log_file(plan).open("ab") as file:
        file.write(line + b"\n")
    again = Log(plan)
    again.answer("ann", items[1], (1, 2, 3), 1.0)
    assert len(read(plan)) == 2 and again.torn == 1 and Log(plan).torn == 1


def test_a_row_is_on_the_disk_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "rows.jsonl"
    journal = Journal(path)
    journal.append({"a": "ä"})
    write, writes = os.write, []

    def short(file, data):
        writes.append(len(data))
        if len(writes) > 3:
            raise OSError(28, "No space left on device")
        return write(file, data[:4])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", short)
        with pytest.raises(OSError, match="No space left"):
            journal.append({"b": "much more than twelve bytes"})
    assert writes[:2] == [writes[0], writes[0] - 4]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output"):
            journal.append({"c": 3})
    journal.append({"d": 4})
    assert read_rows(path) == ([{"a": "ä"}, {"d": 4}], 0)
    path.write_bytes(path.read_bytes() + b'{"e": ')
    again = Journal(path)
    again.append({"f": 6})
    assert read_rows(path) == ([{"a": "ä"}, {"d": 4}, {"f": 6}], 1)
    assert read_rows(tmp_path / "none.jsonl") == ([], 0)
