"""The grammar of captions made of tags: what separates them, what brackets hold together, what is no tag but prose.

As people write them for sd-scripts: "sks ||| (red shoes, hat:1.2), {smile|grin}, tail \\(animal\\), a;;;b ||| best".
"""

import re
from collections.abc import Callable, Iterator

FIXED = "|||"
"""sd-scripts' keep_tokens_separator: behind the first come the tags that may be shuffled and lost, up to a second."""
TOGETHER = ";;;"
"""sd-scripts' secondary_separator: between tags that are shuffled and dropped as one."""
COMMAS = ",，、"
PAIRS = {"(": ")", "[": "]", "{": "}"}
MAX_NESTED = 8
"""Brackets in brackets that are looked into: a text may hold any number of them."""

MAX_TAG_WORDS = 4
LETTERS_A_WORD = 2
"""Of scripts that write without spaces."""
MOSTLY = 0.8
"""Share of short items above which a line is tags: names of series ("the legend of zelda") are tags, too."""
SENTENCE_STARTS = {
    *("a", "an", "the", "and", "but", "or", "while", "is", "are", "there", "this", "it", "he", "she", "they"),
    *("his", "her", "its", "their", "my", "your", "our"),
}
PLACES = {"with", "in", "on", "at"}
"""Begin a clause in front of an article ("in a garden"), and tags elsewhere ("on back", "in water")."""
LEADING = {"of", "showing", "by", "for", "from", "to", *PLACES, "a", "an", "the"}
"""A text that ends so goes on into what follows it."""


def split_tags(text: str) -> list[str]:
    """The text cut in front of each comma outside brackets: joined again it is the same text."""
    cuts = [at for at, depth in _depths(text) if depth == 0 and text[at] in COMMAS]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def is_tag_list(line: str) -> bool:
    """Whether a line is tags with commas between them, not prose: three or more of them, and few longer items."""
    return is_tags(line) and sum(map(is_tag, _items(line))) >= 3


def is_tags(line: str) -> bool:
    """The same of any number, down to one."""
    items = _items(line)
    prose = line.rstrip().endswith((".", "。")) and not line.rstrip().endswith("...")
    return bool(items) and not prose and sum(map(is_tag, items)) > MOSTLY * len(items)


def is_tag(item: str) -> bool:
    """Whether an item between commas is short and no clause."""
    words = item.strip().casefold().split()
    if not words or item.strip().endswith((".", "!", "?", "。", "！", "？")):
        return False
    starts_clause = words[0] in SENTENCE_STARTS or (words[0] in PLACES and words[1:2] and words[1] in SENTENCE_STARTS)
    dense = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", item))
    return not starts_clause and len(words) + dense // LETTERS_A_WORD <= MAX_TAG_WORDS + bool(dense)


def without(line: str, hidden: Callable[[str], bool]) -> str:
    """A line of tags less those that are hidden, plain as `plain_tag` gives them.

    Its first tag, which often is the trigger word, stays, and so does everything in front of the first FIXED and behind
    the second. Of what a bracket holds together each tag is judged alone, and its weight stays with the rest.
    """
    fixed, *rest = line.split(FIXED, 2)
    if not rest:
        tags = split_tags(line)
        first = next((i for i, tag in enumerate(tags) if tag.strip(COMMAS + " ")), 0) + 1
        return "".join([*tags[:first], *(_shown(tag, hidden) for tag in tags[first:])])
    flexible, *suffix = rest
    kept = _shown_tags(flexible, hidden)
    if kept or flexible == kept or suffix:
        return FIXED.join([fixed, kept or flexible and " ", *suffix])
    return fixed.rstrip(COMMAS + " ") or line


def with_prefix(line: str, prefix: str) -> str:
    """A line of a caption with a level's words.

    A prefix that goes on into the text ("close-up of") stands in front. One that is a tag of its own ("close-up") does
    not push the trigger word off its place: it stands at the end of what FIXED protects, else behind the first tag. A
    sentence gets it in front.
    """
    words, tag = prefix.strip(), prefix.strip(COMMAS + " ")
    if not words:
        return line
    leads = words.endswith(":") or words.split()[-1].casefold() in LEADING
    if not leads and tag and FIXED in line:
        fixed, _, rest = line.partition(FIXED)
        return f"{fixed.rstrip(COMMAS + ' ')}, {tag} {FIXED}{rest}".lstrip(", ")
    if not leads and tag and is_tags(line):
        first, *others = split_tags(line.lstrip(COMMAS + " "))
        return f"{first.rstrip()}, {tag}{''.join(others)}"
    # "close-up of A dog": an article that began a sentence no longer does.
    return f"{words} " + re.sub(r"^(A|An|The)(?= )", lambda article: article.group().lower(), line)


def first_words(line: str) -> str:
    """The trigger word, as far as a line tells: what FIXED protects, with it; else the first of tags; "" of prose."""
    if FIXED in line:
        return f"{line.partition(FIXED)[0].rstrip()} {FIXED}".lstrip()
    return split_tags(line.lstrip(COMMAS + " "))[0].strip() if is_tags(line) else ""


def with_words(front: str, words: str, prefix: str = "") -> str:
    """A line that has `front` first and other words behind it, with a level's prefix between them.

    Of tags those that the front has already are left out. What a second FIXED in the front protects stays last. "" of
    nothing.
    """
    if not (front and words):
        return with_prefix(front or words, prefix) if front or words else ""
    if is_tags(words):
        known = {plain_tag(tag) for tag in split_tags(front.replace(FIXED, ","))}
        words = "".join(tag for tag in split_tags(words) if plain_tag(tag) not in known).lstrip(COMMAS + " ")
        return with_prefix(_behind(front, words), prefix)
    if FIXED in front:
        return with_prefix(_behind(front, words), prefix)
    return _behind(front, with_prefix(words, prefix))


def _behind(front: str, words: str) -> str:
    """Both, with what fits between them."""
    fixed, *rest = front.split(FIXED, 2)
    if len(rest) == 2:
        return FIXED.join([fixed, f"{_behind(rest[0].rstrip(), words)} ", rest[1]])
    front, between = front.rstrip(COMMAS + " "), ", " if words else ""
    if not front.strip() or front.endswith((*".!?。", FIXED)):
        between = " "
    return f"{front}{between}{words}".rstrip()


def plain_tag(tag: str) -> str:
    """Without weight, brackets and underscores: "(red_shoes:1.2)" is "red shoes"."""
    bare = re.sub(r"[\\()\[\]{}]", "", tag).strip(COMMAS + " ")
    return re.sub(r":[\d.]+$", "", bare).strip().replace("_", " ").casefold()


def _items(line: str) -> list[str]:
    """What stands between commas, brackets or not, of alternatives the first."""
    line = re.sub(r"\{([^{}|]*)\|[^{}]*\}", r"\1", line.replace(FIXED, ",").replace(TOGETHER, ","))
    line = re.sub(r"(?<!\\)[()\[\]{}]", "", line)
    return [item.strip() for item in re.split(f"[{COMMAS}]", line) if item.strip()]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """(place, how many brackets it is in) of each character. A bracket without its partner is none, nor is ":(" ."""
    partner = _partners(text)
    depth, closing = 0, set(partner.values())
    for at in range(len(text)):
        depth -= at in closing
        yield at, depth
        depth += at in partner


def _partners(text: str) -> dict[int, int]:
    """Places of opening brackets and of those that close them."""
    found: dict[int, int] = {}
    waiting: list[int] = []
    for match in re.finditer(r"(?:(?<=;;;)|(?<![\\:;=]))[()\[\]{}]", text):
        if match.group() in PAIRS:
            waiting = [*waiting[1 - MAX_NESTED :], match.start()]
            continue
        while waiting and PAIRS[text[waiting[-1]]] != match.group():
            waiting.pop()
        if waiting:
            found[waiting.pop()] = match.start()
    return found


def _shown_tags(text: str, hidden: Callable[[str], bool]) -> str:
    """Tags less the hidden ones; the first that stays takes the place of the first."""
    start = text[: len(text) - len(text.lstrip(COMMAS + " "))]
    kept = "".join(_shown(tag, hidden) for tag in split_tags(text))
    if kept == text:
        return text
    kept = kept.lstrip(COMMAS + " ")
    return start + kept if kept else ""


def _shown(tag: str, hidden: Callable[[str], bool]) -> str:
    """A tag with the comma in front of it; "" where it is hidden, and a part of it where brackets hold several."""
    body = (tag[1:] if tag.startswith(tuple(COMMAS)) else tag).lstrip()
    lead = tag.removesuffix(body)
    if TOGETHER in body:
        kept = _left(body.split(TOGETHER), lambda part: _shown(part, hidden))
        return lead + TOGETHER.join(kept) if kept else ""
    group = re.fullmatch(r"([(\[{])(.*?)((?::\s*[\d.]+)?[)\]}]\s*)", body, re.DOTALL)
    if group and _partners(body).get(0) == len(body.rstrip()) - 1:
        bracket, inner, end = group.groups()
        parts = inner.split("|") if bracket == "{" and "{" not in inner else [inner]
        kept = _left(parts, lambda part: _shown_tags(part, hidden))
        return lead + bracket + "|".join(kept) + end if kept else ""
    return "" if is_tag(plain_tag(body)) and hidden(plain_tag(body)) else tag


def _left(parts: list[str], judge: Callable[[str], str]) -> list[str]:
    """What a judge leaves of parts; blank ones stay beside others, and none is left of blank ones alone."""
    judged = [judge(part) for part in parts]
    if judged == parts:
        return parts
    kept = [new for new, old in zip(judged, parts, strict=True) if new.strip() or not old.strip()]
    return kept if any(map(str.strip, kept)) else []
