"""Captions to what a model is conditioned on: hashed words, or the text encoders of a local diffusers folder."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WORDS_DIM, MAX_WORDS = 64, 16

Text = tuple[Tensor, Tensor | None]
"""tokens (B, L, D) and the pooled embedding (B, P), None for models without one."""


class HashedWords:
    """Captions without a text encoder: every word is a fixed random vector seeded by its CRC-32. Nothing is trained."""

    def __init__(self, dim: int = WORDS_DIM, pooled_dim: int | None = WORDS_DIM):
        self.dim, self.pooled_dim = dim, pooled_dim

    def __call__(self, captions: Sequence[str]) -> Text:
        tokens = torch.stack([self._caption(caption) for caption in captions])
        if self.pooled_dim is None:
            return tokens, None
        return tokens, torch.stack([self._word(caption, self.pooled_dim) for caption in captions])

    def _caption(self, caption: str) -> Tensor:
        words = caption.lower().replace(",", " ").split()[:MAX_WORDS]
        rows = [self._word(word, self.dim) for word in words]
        return torch.stack(rows + [torch.zeros(self.dim)] * (MAX_WORDS - len(rows)))

    def _word(self, word: str, dim: int) -> Tensor:
        return torch.randn(dim, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))

    def to(self, device: torch.device) -> None:
        """There is nothing to move."""


class PipelineText:
    """The text encoders of a diffusers pipeline; each caption is encoded once."""

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self.known: dict[str, Text] = {}

    def __call__(self, captions: Sequence[str]) -> Text:
        for caption in captions:
            if caption not in self.known:
                self.known[caption] = self._encode(caption)
        tokens, pooled = zip(*(self.known[caption] for caption in captions), strict=True)
        return torch.cat(tokens), None if pooled[0] is None else torch.cat(pooled)

    def to(self, device: torch.device) -> None:
        for name in ("text_encoder", "text_encoder_2"):
            if (encoder := getattr(self.pipeline, name, None)) is not None:
                encoder.requires_grad_(False).to(device)

    @torch.no_grad()
    def _encode(self, caption: str) -> Text:
        kind = type(self.pipeline).__name__
        if kind == "FluxPipeline":
            return self.pipeline.encode_prompt(caption, None)[:2]
        options = {"device": None, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        found = self.pipeline.encode_prompt(caption, **options)
        return found[0], found[2] if kind == "StableDiffusionXLPipeline" else None


TextEncoder = HashedWords | PipelineText
