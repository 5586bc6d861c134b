"""The captioner `vlm`: a vision-language model is shown each slice and says in a sentence what is in it.

Through any OpenAI-compatible endpoint, or by transformers on this machine; replies are kept by the slice's pixels.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sga_kohya.hsd.captioners.captioner import Slice
from sga_kohya.hsd.detectors.options import Options
from sga_kohya.hsd.detectors.vlm.clients import HttpClient
from sga_kohya.hsd.detectors.vlm.interview import BadReply, Interview, Question, Terms

WHO = "captioner vlm"
LONGEST = 600
"""Characters that a reply may have: a long sentence has 200, and CLIP reads about 300."""
REFUSALS = ("i'm sorry", "i am sorry", "sorry,", "i cannot", "i can't", "i'm unable", "as an ai")
"""How models begin that will not describe a picture; with straight apostrophes."""

WHOLE = (
    "Describe this picture in one sentence of at most 40 words: who or what is shown, doing what, where, and in which "
    "style."
)
PART = (
    "This picture is cut out of a larger one{label}. Describe in one sentence of at most 30 words what can be seen in "
    "it, its details and textures; say nothing of what lies outside."
)
CONTEXT = (
    ' The whole picture has the caption "{caption}": take names of persons and things from it, where they are in this '
    "picture, and nothing that is not."
)
FORM = "with one sentence in plain words, nothing before or behind it"


class VlmCaptioner:
    name = "vlm"

    def __init__(self, interview: Interview, terms: Terms, prompts: Mapping[str, str]) -> None:
        """prompts: by level, as a user writes them: {label} and {caption} stand for the slice's."""
        self._interview, self._terms, self._prompts = interview, terms, prompts

    def describe(self, slices: Sequence[Slice]) -> list[str | None]:
        return self._interview.side_by_side(self._describe, slices)

    def cost(self, slices: int) -> str:
        client = self._interview.client
        place = f"go to {client.url}" if isinstance(client, HttpClient) else "are described on this machine"
        return (
            f"vlm: at most {slices} slices {place} ({client.model}), one call each with a JPEG of at most "
            f"{self._terms.side} pixels, {self._interview.limits}"
        )

    def _describe(self, piece: Slice) -> str | None:
        jpeg, _ = self._terms.jpeg(piece.pixels)
        text = filled(self._prompts[piece.level], piece)
        return self._interview.answer(Question(piece.file, text, jpeg), sentence, FORM)


def filled(prompt: str, piece: Slice) -> str:
    """A prompt for one slice. Not str.format: a prompt may hold any other bracket."""
    caption = " ".join(piece.caption.split())
    if prompt in (WHOLE, PART):
        label = f" and shows {piece.label}" if piece.label else ""
        prompt = prompt.replace("{label}", label) + (CONTEXT if caption else "")
    return prompt.replace("{label}", piece.label).replace("{caption}", caption)


def sentence(reply: str) -> str:
    """A reply as a line of a caption. Raises BadReply for what is none."""
    # What a model thinks aloud is no answer, nor are a heading, quotes or a code fence around it.
    text = re.sub(r"(?s)^.*</think>", "", reply).replace("|||", " ").replace("`", "")
    text = re.sub(r"^(caption|description)\s*:\s*", "", " ".join(text.split()).strip("*# "), flags=re.IGNORECASE)
    text = text.strip('"“”* ')
    if not re.search(r"\w", text):
        raise BadReply("it says nothing")
    if text.casefold().replace("’", "'").startswith(REFUSALS):
        raise BadReply(f"it refuses: {text[:80]!r}")
    if len(text) > LONGEST:
        raise BadReply(f"it has {len(text)} characters, more than {LONGEST}")
    return text


def create(options: Options, photos: Path) -> VlmCaptioner:
    terms = Terms.read(options, max_new_tokens=200)
    coarsest = options.levels[0]
    prompts = options.per_level("prompt", _prompt, lambda level: WHOLE if level == coarsest else PART)
    options.finish()
    return VlmCaptioner(terms.interview(WHO), terms, prompts)


def _prompt(value: object) -> str:
    if not str(value).strip():
        raise ValueError("write what the model is asked")
    return str(value)
