"""Two ways to ask a vision-language model, with OpenAI's messages: over HTTP, or by transformers on this machine."""

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sga_kohya.errors import SgaError
from sga_kohya.hsd.detectors.transformer import load_pretrained
from sga_kohya.hsd.devices import torch_device
from sga_kohya.kit.extras import library

HTTP_RETRIES = 5
BUSY = (408, 429, 500, 502, 503, 504, 529)
"""Statuses that are worth another attempt, after the pause that the server asks for or else 1, 2, 4, … seconds."""

Message = Mapping[str, Any]


class Client(Protocol):
    model: str
    parallel: int
    """Questions at once."""

    def ask(self, messages: Sequence[Message]) -> str: ...


class HttpClient:
    """Any server with OpenAI's /chat/completions."""

    def __init__(
        self, endpoint: str, model: str, key_variable: str, timeout: float, parallel: int, request: Mapping[str, Any]
    ) -> None:
        """endpoint: up to and with /v1. key_variable: environment variable that holds the key; no key, no header.

        request: added to every request's body, such as temperature or max_completion_tokens.
        """
        requests, adapters = library("requests", "vlm", "detector vlm"), library("requests.adapters", "vlm", "vlm")
        retry = library("urllib3", "vlm", "detector vlm").Retry(
            HTTP_RETRIES,
            connect=2,
            read=1,
            status_forcelist=BUSY,
            allowed_methods=None,
            backoff_factor=1,
            raise_on_status=False,
            other=0,
        )
        self._session = requests.Session()
        self._session.trust_env = True
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapters.HTTPAdapter(pool_maxsize=parallel, max_retries=retry))
        key = os.environ.get(key_variable)
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"
        self.url, self.model, self.parallel = f"{endpoint.rstrip('/')}/chat/completions", model, parallel
        self._timeout, self._request = timeout, request

    def ask(self, messages: Sequence[Message]) -> str:
        """Raises SgaError when the server refuses or stays away: the next photo would fare no better."""
        body = {"model": self.model, "messages": list(messages), "temperature": 0, **self._request}
        try:
            response = self._session.post(self.url, json=body, timeout=self._timeout)
        except OSError as error:  # what requests raises is one
            reason = getattr(error.args[0], "reason", error) if error.args else error
            raise SgaError(f"detector vlm: {self.url} does not answer: {reason}; what was answered is kept") from error
        if not response.ok:
            said = " ".join(response.text.split())[:300]
            raise SgaError(
                f"detector vlm: {self.url} answers {response.status_code}: {said}; what was answered is kept"
            )
        try:
            return str(response.json()["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError):
            raise SgaError(f"detector vlm: {self.url} does not answer as OpenAI's chat completions do") from None


class LocalClient:
    """An image-text-to-text model of transformers, decoded greedily."""

    parallel = 1

    def __init__(self, model: str, device: str, max_new_tokens: int) -> None:
        classes = ("AutoProcessor", "AutoModelForImageTextToText")
        self._processor, loaded = load_pretrained(classes, model, "vlm", "vlm")
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


def picture_message(text: str, jpeg: bytes) -> Message:
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    picture, words = {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}
    return {"role": "user", "content": [picture, words]}


def _as_transformers(message: Message) -> Message:
    """transformers wants content as a list of parts, and says "image" for OpenAI's "image_url"."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": [{"type": "text", "text": content}]}
    parts = [
        {"type": "image", "url": part["image_url"]["url"]} if part["type"] == "image_url" else part for part in content
    ]
    return {**message, "content": parts}
