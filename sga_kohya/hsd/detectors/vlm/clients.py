"""Two ways to ask a vision-language model, with OpenAI's messages: over HTTP, or by transformers on this machine."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sga_kohya.hsd.detectors.transformer import load_pretrained
from sga_kohya.hsd.devices import torch_device
from sga_kohya.kit.chat import Chat, Message, Service, picture_part, text_part

PAUSE = 1.0
"""Seconds before the second attempt, doubled at each further one; the server may ask for up to a minute."""


class Client(Protocol):
    model: str
    parallel: int
    """Questions at once."""

    def ask(self, messages: Sequence[Message]) -> str:
        """Raises ChatRefused, ChatUnavailable."""
        ...

    def end(self) -> None:
        """The run ends: who waits to ask again need not."""
        ...


class HttpClient:
    """Any server with OpenAI's /chat/completions."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        key_variable: str,
        timeout: float,
        parallel: int,
        request: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        """endpoint: up to and with /v1. key_variable: environment variable that holds the key; no key, no header.

        timeout: seconds of one attempt, all of it. request: added to every request's body, such as temperature or
        max_completion_tokens. say: gets one line where a pause is made. Raises ChatRefused for a bad address.
        """
        key, body = os.environ.get(key_variable, ""), {"temperature": 0, **request}
        service = Service(endpoint, model, key, key_variable, timeout, pause=PAUSE, body=body, setting="endpoint")
        self._chat, self._say = Chat(service), say
        self.url, self.model, self.parallel = self._chat.url, model, parallel

    def ask(self, messages: Sequence[Message]) -> str:
        return self._chat.ask(messages, waiting=self._wait).text

    def end(self) -> None:
        self._chat.end()

    def _wait(self, seconds: float, problem: str) -> None:
        self._say(f"{self.url}: {problem}; the next attempt is in {seconds:g} seconds")


class LocalClient:
    """An image-text-to-text model of transformers, decoded greedily."""

    parallel = 1

    def __init__(self, model: str, device: str, max_new_tokens: int, who: str) -> None:
        """who: wants it, for messages."""
        classes = ("AutoProcessor", "AutoModelForImageTextToText")
        self._processor, loaded = load_pretrained(classes, model, who, "vlm")
        self._device, self.model, self._max_new_tokens = torch_device(device), model, max_new_tokens
        self._model = loaded.eval().to(self._device)

    def ask(self, messages: Sequence[Message]) -> str:
        import torch

        inputs = self._processor.apply_chat_template(
            [_as_transformers(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._device, self._model.dtype)
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
        return self._processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]

    def end(self) -> None:
        pass


def picture_message(text: str, jpeg: bytes) -> Message:
    return {"role": "user", "content": [picture_part(jpeg, "jpeg"), text_part(text)]}


def _as_transformers(message: Message) -> Message:
    """transformers wants content as a list of parts, and says "image" for OpenAI's "image_url"."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": [{"type": "text", "text": content}]}
    parts = [
        {"type": "image", "url": part["image_url"]["url"]} if part["type"] == "image_url" else part for part in content
    ]
    return {**message, "content": parts}
