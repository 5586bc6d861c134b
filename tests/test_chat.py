"""The chat client against a server that follows a script of bytes: always a reply or a sentence, and nothing lost."""

import contextlib
import gzip
import json
import socket
import threading

import pytest

from sga_kohya.errors import SgaError
from sga_kohya.kit import chat as module
from sga_kohya.kit.chat import Chat, ChatRefused, ChatUnavailable, Reply, Service, picture_part, read_reply, text_part

HELLO = [{"role": "user", "content": "hello"}]


def completion(text="yes", **usage):
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


def http(body, status="200 OK", length=None, **headers):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def raw(body, *headers):
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + body


class Server:
    """Answers its connections with the parts of the script in turn, the last one for ever; a callable drives itself."""

    def __init__(self, *script):
        self.script, self.requests = list(script), []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self.requests.append(self.read(connection))
                answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)

    def read(self, connection):
        said = b""
        while b"\r\n\r\n" not in said:
            said += connection.recv(65_536)
        head, _, body = said.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(body) < length:
            body += connection.recv(65_536)
        return head.decode(), json.loads(body)


@pytest.fixture
def serve():
    started = []

    def start(*script):
        started.append(Server(*script))
        return started[-1]

    yield start
    for server in started:
        server.socket.close()


def client(server, **settings):
    return Chat(Service(server.url, "tiny", **{"pause": 0.0, "timeout": 20.0, "tries": 2} | settings))


def test_a_question_and_its_reply(serve):
    server = serve(http(completion("no", prompt_tokens=7, completion_tokens=2)))
    chat = client(server, key="secret", body={"temperature": 0, "max_tokens": 9})
    parts = [text_part("what is it?"), picture_part(b"\x00\x01", "jpeg")]
    assert chat.ask([{"role": "user", "content": parts}]) == Reply("no", 7, 2)
    ((head, body),) = server.requests
    assert head.startswith("POST /v1/chat/completions HTTP/1.1") and "Authorization: Bearer secret" in head
    assert body["model"] == "tiny" and body["temperature"] == 0 and body["max_tokens"] == 9
    assert body["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/jpeg;base64,AAE="},
    }


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere(serve, status, elsewhere):
    other = serve(http(completion()))
    target = f"{other.url if elsewhere else '/v2'}/chat/completions"
    server = serve(http(b"", status, Location=target), http(completion()))
    with pytest.raises(
        ChatRefused, match=r"redirects to .*: it was not followed and got no key; write that address as url"
    ):
        client(server, key="secret").ask(HELLO)
    assert other.requests == [] and len(server.requests) == 1


@pytest.mark.parametrize("location", ["", "http://[", "file:///etc/passwd", "\x1b[2J"])
def test_a_redirect_to_nowhere_is_a_sentence_too(serve, location):
    with pytest.raises(ChatRefused, match="redirects to") as caught:
        client(serve(http(b"", "302 x", Location=location))).ask(HELLO)
    assert "\x1b" not in str(caught.value)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


WHOLE = completion(prompt_tokens=1)
BROKEN = {
    "cut short": http(WHOLE[:9], length=len(WHOLE)),
    "a chunk cut short": raw(b"ff\r\n{}", "Transfer-Encoding: chunked"),
    "a chunk that is none": raw(b"zz\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "a chunk of half the world": raw(b"7fffffffffff\r\n{}", "Transfer-Encoding: chunked"),
    "a length of half the world": http(WHOLE, length=1 << 46),
    "gzip that was not asked for": raw(gzip.compress(WHOLE), "Content-Encoding: gzip"),
    "gzip garbage": raw(b"\x1f\x8b\x08garbage", "Content-Encoding: gzip"),
    "reset": reset,
    "closed without a word": b"",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "an endless header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 99_999,
    "a page": http(b"<html>sign in</html>"),
    "nothing": http(b""),
    "UTF-16 garbage": http(b"\xff\xfe\xd8\x00"),
    "nested": http(b"[" * 100_000),
    "a number of 5000 digits": http(b'{"choices": ' + b"9" * 5000 + b"}"),
    "a list": http(b"[1]"),
    "a word": http(b'"yes"'),
    "no choices": http(b'{"choices": []}'),
    "choices of another kind": http(b'{"choices": {"0": 1}}'),
    "a message of another kind": http(b'{"choices": [{"message": "yes"}]}'),
    "null": http(b"null"),
    "busy": http(b"slow down", "429 x"),
    "broken": http(b"\xff\x1b[2J", "503 x"),
    "an error of 200": http(b'{"error": {"message": "overloaded"}}'),
}
FREE = {"no HTTP", "busy", "broken", "an error of 200", "an endless header"}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_a_broken_reply_is_asked_for_again_then_given_up_in_one_sentence(serve, answer):
    assert client(serve(answer, http(WHOLE))).ask(HELLO) == Reply("yes", 1, None)
    with pytest.raises(ChatUnavailable, match="failed 2 times, last with .*answers so far are kept") as caught:
        client(serve(answer)).ask(HELLO)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 900


@pytest.mark.parametrize("kind", BROKEN)
def test_what_may_have_been_charged_is_handed_over(serve, kind):
    lost = []
    assert client(serve(BROKEN[kind], http(WHOLE))).ask(HELLO, lost=lost.append).text == "yes"
    assert len(lost) == (kind not in FREE)
    if kind == "cut short":
        assert lost == [WHOLE[:9]]


def test_a_body_is_handed_over_before_it_is_read(serve, monkeypatch):
    seen = []

    def killed(body):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_reply", killed)
    with pytest.raises(KeyboardInterrupt):
        client(serve(http(WHOLE))).ask(HELLO, arrived=seen.append)
    assert seen == [WHOLE]


def drip(connection):
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stopped.wait(0.05):
            connection.sendall(b" ")


def drip_headers(connection):
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stopped.wait(0.05):
            connection.sendall(b"X: y\r\n")


def flood(connection):
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stopped.is_set():
            connection.sendall(b" " * 65_536)


stopped = threading.Event()


@pytest.mark.parametrize("endless", [drip, drip_headers, flood])
def test_an_endless_reply_has_an_end(serve, endless):
    """A socket's own timeout begins anew with each byte; without an end of ours this test would not finish."""
    with pytest.raises(ChatUnavailable, match="sends too (slowly|much)|timed out"):
        client(serve(endless), timeout=0.4 if endless is not flood else 20.0, tries=1).ask(HELLO)


@pytest.mark.parametrize(
    "asked, waited",
    [("99999", 60), ("inf", 60), ("nan", 1), ("-5", 1), ("7.5", 7.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 1)],
)
def test_retry_after_is_heard_within_bounds(serve, asked, waited):
    chat = client(serve(http(b"", "429 x", Retry_After=asked), http(WHOLE)), pause=1.0)
    pauses = []
    chat.ended.wait = lambda seconds: pauses.append(seconds)
    assert chat.ask(HELLO).text == "yes" and pauses == [waited]


def test_no_one_waits_on_when_the_run_has_ended(serve):
    server = serve(http(b"", "503 x"))
    chat = client(server, pause=50.0, tries=5)
    chat.end()
    with pytest.raises(ChatUnavailable, match="failed 1 times"):
        chat.ask(HELLO)
    assert len(server.requests) == 1


def test_a_refusal_is_said_in_one_line_without_the_key(serve):
    server = serve(http(b"Incorrect key: secret-1\n\x1b[2Jwarning: all is well", "401 Un\x1b[1mauthorized"))
    with pytest.raises(ChatRefused, match=r"refused the request: 401") as caught:
        client(server, key="secret-1").ask(HELLO)
    assert str(caught.value).isprintable() and "secret" not in str(caught.value) and len(server.requests) == 1
    with pytest.raises(ChatRefused, match=r"\(the environment variable A_KEY is not set\)"):
        client(serve(http(b"", "401 x")), key_name="A_KEY").ask(HELLO)
    with pytest.raises(ChatRefused, match="refused the request: 400"):
        client(serve(http(b"x", "400 x", length=999))).ask(HELLO)


def test_nobody_there_is_no_charge():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    lost = []
    with pytest.raises(ChatUnavailable, match="failed 2 times.*refused"):
        Chat(Service(url, "m", pause=0.0, tries=2)).ask(HELLO, lost=lost.append)
    assert lost == []


@pytest.mark.parametrize(
    "url",
    ["", "localhost:80/v1", "ftp://a/v1", "file:///v1", "http://", "http://[::1", "http://a:b/v1", "http://a:99999/v1"]
    + ["http://a b/v1", "http://a/v1\r\nX: y", "http://ä/v1", "http://me:pass@a/v1", "http://a/v1?key=1"],
)
def test_an_address_that_cannot_be_asked_is_said_before_anything(url):
    with pytest.raises(ChatRefused, match="endpoint = .*write it as https://"):
        Chat(Service(url, "m", setting="endpoint"))


@pytest.mark.parametrize("key", ["se\ncret", "se\x00cret", "schlüssel", "‘secret’"])
def test_a_key_that_cannot_be_sent_is_not_repeated(key):
    with pytest.raises(SgaError, match="A_KEY holds characters that no key has") as caught:
        Chat(Service("http://a/v1", "m", key=key, key_name="A_KEY"))
    assert key not in str(caught.value)


def test_a_line_end_behind_the_key_is_no_part_of_it(serve):
    server = serve(http(WHOLE))
    client(server, key=" secret\n").ask(HELLO)
    assert "Authorization: Bearer secret\r\n" in server.requests[0][0] + "\r\n"


@pytest.mark.parametrize("count", ["null", "NaN", "Infinity", "-1", "-0.5", "true", '"7"', "[]", "1e400", "9" * 300])
def test_tokens_that_are_no_count_are_unknown(count):
    usage = f'{{"prompt_tokens": {count}, "completion_tokens": 2}}'
    assert read_reply(f'{{"choices": [{{"message": {{"content": "a"}}}}], "usage": {usage}}}') == Reply("a", None, 2)


@pytest.mark.parametrize("usage", ["null", "[]", "7", '"much"', "NaN"])
def test_usage_of_another_kind_is_unknown(usage):
    assert read_reply(f'{{"choices": [{{"message": {{"content": "a"}}}}], "usage": {usage}}}') == Reply("a")


@pytest.mark.parametrize(
    "content, text",
    [
        (None, ""),
        (7, ""),
        ("a", "a"),
        ([{"text": "a"}, "b", {"text": None}, {"type": "x"}, {"text": "c"}], "ac"),
        ({}, ""),
    ],
)
def test_the_words_of_a_reply_of_any_form(content, text):
    assert read_reply(json.dumps({"choices": [{"message": {"content": content}}]})).text == text
