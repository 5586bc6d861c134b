"""Captions to what a model is conditioned on: hashed words, or the text encoders of a local diffusers folder."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WORDS_DIM, MAX_WORDS = 64, 16


class Text(NamedTuple):
    """tokens (B, L, D); pooled (B, P) and mask (B, L), 1 where a token counts: None for models without one."""

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device) -> "Text":
        return Text._make(None if part is None else part.to(device) for part in self)

    def float(self) -> "Text":
        """Of encoders in bfloat16 too: what goes into the network is float32, and its autocast decides the rest."""
        return self._replace(tokens=self.tokens.float(), pooled=None if self.pooled is None else self.pooled.float())

    def padded(self, length: int) -> "Text":
        """With so many tokens, of which the mask leaves out what is added."""
        more = length - self.tokens.shape[1]
        if not more:
            return self
        assert self.mask is not None, "captions of different lengths need a mask"
        return self._replace(tokens=F.pad(self.tokens, (0, 0, 0, more)), mask=F.pad(self.mask, (0, more)))


class HashedWords:
    """Captions without a text encoder: every word is a fixed random vector seeded by its CRC-32. Nothing is trained."""

    def __init__(self, dim: int = WORDS_DIM, pooled_dim: int | None = WORDS_DIM):
        self.dim, self.pooled_dim = dim, pooled_dim

    def __call__(self, captions: Sequence[str]) -> Text:
        tokens = torch.stack([self._caption(caption) for caption in captions])
        if self.pooled_dim is None:
            return Text(tokens)
        return Text(tokens, torch.stack([self._word(caption, self.pooled_dim) for caption in captions]))

    def _caption(self, caption: str) -> Tensor:
        words = caption.lower().replace(",", " ").split()[:MAX_WORDS]
        rows = [self._word(word, self.dim) for word in words]
        return torch.stack(rows + [torch.zeros(self.dim)] * (MAX_WORDS - len(rows)))

    def _word(self, word: str, dim: int) -> Tensor:
        return torch.randn(dim, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))

    def to(self, device: torch.device) -> None:
        """There is nothing to move."""


class PipelineText:
    """The text encoders of a diffusers pipeline; each caption is encoded once.

    encode: (pipeline, caption) -> its text, with B = 1, and a mask if captions differ in length.
    """

    def __init__(self, pipeline: Any, encode: Callable[[Any, str], Text]):
        self.pipeline, self.encode = pipeline, encode
        self.known: dict[str, Text] = {}

    def __call__(self, captions: Sequence[str]) -> Text:
        for caption in captions:
            if caption not in self.known:
                self.known[caption] = self._encode(caption)
        found = [self.known[caption] for caption in captions]
        longest = max(text.tokens.shape[1] for text in found)
        parts = zip(*(text.padded(longest) for text in found), strict=True)
        return Text._make(None if part[0] is None else torch.cat(part) for part in parts)

    def to(self, device: torch.device) -> None:
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            if (encoder := getattr(self.pipeline, name, None)) is not None:
                encoder.requires_grad_(False).to(device)

    @torch.no_grad()
    def _encode(self, caption: str) -> Text:
        return self.encode(self.pipeline, caption).float()


def encoder_device(pipeline: Any) -> torch.device:
    """Where captions are encoded; a pipeline's own guess may be another part's device."""
    return pipeline.text_encoder.device


def unguided(pipeline: Any, caption: str, *others: Any, **options: Any) -> Any:
    """What a pipeline's own encode_prompt gives of a caption, without what only guidance needs."""
    more = {"do_classifier_free_guidance": False, "device": encoder_device(pipeline)}
    return pipeline.encode_prompt(caption, *others, **more, **options)


TextEncoder = HashedWords | PipelineText
