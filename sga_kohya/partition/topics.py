"""Caption topics: by the user's keywords, or by clustering the captions' words."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from sga_kohya.errors import SgaError

VOCABULARY = 1000
"""The most frequent words that are told apart; bounds memory to 4 kB a caption."""
STARTS, ROUNDS = 4, 50
COMMON = {"and", "are", "but", "for", "from", "has", "have", "her", "his", "into", "its", "not", "one", "over", "the"}
COMMON |= {"their", "there", "this", "very", "was", "with"}


def by_keywords(captions: Sequence[str], labels: Sequence[str], keywords: Mapping[str, Sequence[str]]) -> list[int]:
    """The first label one of whose keywords, whole words, is in the caption; else the one label without keywords.

    Raises SgaError when captions are left over.
    """
    patterns = {
        i: re.compile(r"\b(?:" + "|".join(map(re.escape, keywords[label])) + r")\b", re.IGNORECASE)
        for i, label in enumerate(labels)
        if label in keywords
    }
    rest = [i for i in range(len(labels)) if i not in patterns]
    found = [next((i for i, p in patterns.items() if p.search(caption)), None) for caption in captions]
    if None in found and len(rest) != 1:
        lost = [caption for caption, i in zip(captions, found, strict=True) if i is None]
        raise SgaError(
            f"{len(lost)} captions hold no keyword, such as {lost[0][:60]!r}: leave one label without keywords for them"
        )
    return [rest[0] if i is None else i for i in found]


def by_clusters(captions: Sequence[str], count: int, seed: int) -> tuple[list[int], list[list[str]]]:
    """Topics of captions by k-means on TF-IDF, largest first, and the words that mark each. Deterministic.

    Raises SgaError where the captions do not differ enough.
    """
    vectors, vocabulary = tf_idf(captions)
    if len({row.tobytes() for row in vectors}) < count:
        raise SgaError(f"the captions do not make {count} topics: use fewer labels, or another --by")
    random = np.random.default_rng(seed)
    # The first of the best: min is stable.
    starts = tqdm(range(STARTS), desc="topics", disable=None, leave=False)
    numbers, _ = min((k_means(vectors, count, random) for _ in starts), key=lambda result: result[1])
    order = sorted(range(count), key=lambda i: (-int((numbers == i).sum()), int(np.argmax(numbers == i))))
    rank = {cluster: i for i, cluster in enumerate(order)}
    mean = vectors.mean(0)
    distinct = [vectors[numbers == cluster].mean(0) - mean for cluster in order]
    words = [[vocabulary[i] for i in np.argsort(-values, kind="stable")[:5] if values[i] > 0] for values in distinct]
    return [rank[int(number)] for number in numbers], words


def tf_idf(captions: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(captions, words) float32 rows of length 1 (0 without a known word), and the words.

    Words that are in every caption, such as a trigger word, tell nothing and weigh nothing.
    """
    documents = [
        Counter(w for w in re.findall(r"[^\W\d_]{3,}", text.casefold()) if w not in COMMON) for text in captions
    ]
    frequency = Counter(word for document in documents for word in document)
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))
    vocabulary = [word for word in ranked if frequency[word] < len(captions)][:VOCABULARY]
    column = {word: i for i, word in enumerate(vocabulary)}
    vectors = np.zeros((len(captions), max(1, len(vocabulary))), np.float32)
    for row, document in enumerate(documents):
        for word, times in document.items():
            if word in column:
                vectors[row, column[word]] = (1 + np.log(times)) * np.log(len(captions) / frequency[word])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1), vocabulary


def k_means(vectors: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """Lloyd's algorithm from k-means++ seeds. Returns cluster numbers, none of them empty, and the squared error."""
    centres = _spread(vectors, count, random)
    numbers = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        distances = _squared_distances(vectors, centres)
        new = distances.argmin(1)
        for empty in set(range(count)) - set(new.tolist()):
            # The point that fits its own cluster worst founds one of its own, unless it is alone there.
            alone = np.bincount(new, minlength=count)[new] == 1
            new[np.where(alone, -1, distances[np.arange(len(new)), new]).argmax()] = empty
        if (new == numbers).all():
            break
        numbers = new
        centres = np.stack([vectors[numbers == i].mean(0) for i in range(count)])
    error = float(_squared_distances(vectors, centres)[np.arange(len(vectors)), numbers].sum())
    return numbers, round(error, 6)


def _spread(vectors: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    chosen = [int(random.integers(len(vectors)))]
    while len(chosen) < count:
        nearest = _squared_distances(vectors, vectors[chosen]).min(1).astype(np.float64)
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        chosen.append(int(random.choice(len(vectors), p=weights)))
    return vectors[chosen]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, k). clamp: rounding can make them negative."""
    return np.maximum(0, (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T)
