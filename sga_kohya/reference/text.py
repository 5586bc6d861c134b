"""Captions to what a model is conditioned on: hashed words, or the text encoders of a local diffusers folder."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.training_utils import free_memory
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

    def learn(self, captions: Iterable[str], device: torch.device) -> None:
        """There is nothing to load."""
        for _ in captions:
            pass


class PipelineText:
    """The text encoders of a diffusers pipeline, there only while they are needed: what they make of a caption stays.

    load: what gives the pipeline. encode: (pipeline, caption) -> its text, with B = 1, and a mask if captions differ in
    length. known: the texts so far, on the CPU in the encoders' type.
    """

    def __init__(self, load: Callable[[], Any], encode: Callable[[Any, str], Text]):
        self.load, self.encode = load, encode
        self.known: dict[str, Text] = {}

    def __call__(self, captions: Sequence[str]) -> Text:
        """On the CPU; so are the encoders, where they must be loaded for a caption that was not learned."""
        self.learn(captions, torch.device("cpu"))
        found = [self.known[caption] for caption in captions]
        longest = max(text.tokens.shape[1] for text in found)
        parts = zip(*(text.padded(longest) for text in found), strict=True)
        return Text._make(None if part[0] is None else torch.cat(part) for part in parts).float()

    @torch.no_grad()
    def learn(self, captions: Iterable[str], device: torch.device) -> None:
        """Load the encoders onto that device, encode the captions that are not known, and let the encoders go."""
        pipeline = None
        for caption in captions:
            if caption not in self.known:
                pipeline = pipeline or self._loaded(device)
                self.known[caption] = self.encode(pipeline, caption).to(torch.device("cpu"))
        if pipeline is not None:  # in a step no caption is new, and to look for garbage takes longer than the step
            del pipeline
            free_memory()

    def _loaded(self, device: torch.device) -> Any:
        pipeline = self.load()
        for name, part in pipeline.components.items():
            if name.startswith("text_encoder") and part is not None:
                part.requires_grad_(False).to(device)
        return pipeline


def encoder_device(pipeline: Any) -> torch.device:
    """Where captions are encoded; a pipeline's own guess may be another part's device."""
    return pipeline.text_encoder.device


def unguided(pipeline: Any, caption: str, *others: Any, **options: Any) -> Any:
    """What a pipeline's own encode_prompt gives of a caption, without what only guidance needs."""
    more = {"do_classifier_free_guidance": False, "device": encoder_device(pipeline)}
    return pipeline.encode_prompt(caption, *others, **more, **options)


TextEncoder = HashedWords | PipelineText
