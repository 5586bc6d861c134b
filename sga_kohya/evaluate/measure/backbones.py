"""Embeddings of images and texts by the models of transformers, cached on disk by the content of the file."""

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.evaluate.sample.images import load


class Backbone:
    """A model by its name on the hub or its folder. All embeddings are unit vectors, float32.

    A model with text (CLIP, SigLIP) gives its projected image features; a plain vision transformer the last hidden
    state of its class token, as DINO-I of DreamBooth takes it.
    """

    def __init__(self, name: str, device: str, batch_size: int) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self.name, self.device, self.batch_size = name, device, batch_size
        try:
            self.model = AutoModel.from_pretrained(name).to(device).eval()
            self.processor = AutoImageProcessor.from_pretrained(name, use_fast=False)
            self.has_text = hasattr(self.model, "get_text_features")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name) if self.has_text else None
        except (OSError, ValueError, RuntimeError, torch.cuda.OutOfMemoryError) as error:
            first = str(error).strip().splitlines()[0]
            raise SgaError(
                f"backbone {name!r} cannot be loaded ({first}): write its name on huggingface.co or its folder"
            ) from None

    def describe(self) -> dict[str, Any]:
        """Model and preprocessing, for the record."""
        config = self.model.config
        return {
            "model": self.name,
            "class": type(self.model).__name__,
            "revision": getattr(config, "_commit_hash", None),
            "preprocessing": {k: v for k, v in self.processor.to_dict().items() if not k.startswith("_")},
        }

    def images(self, files: Sequence[Path], cache: Path) -> dict[Path, np.ndarray]:
        """{file: its embedding, (features,)}. cache: an .npz by the hash of the file, saved after every 32 batches."""
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        known = _read_cache(cache)
        missing = {digest: file for digest, file in zip(digests, files, strict=True) if digest not in known}
        if missing:
            with tqdm(total=len(missing), desc=self.name, unit="image") as bar:
                for number, batch in enumerate(_batches(list(missing), self.batch_size), 1):
                    features = self._embed_images([missing[digest] for digest in batch])
                    known.update(zip(batch, features, strict=True))
                    bar.update(len(batch))
                    if number % 32 == 0:
                        _write_cache(cache, known)
            _write_cache(cache, known)
        return {file: known[digest] for file, digest in zip(files, digests, strict=True)}

    def texts(self, prompts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """(prompts, features), and the prompts of which the model sees only the beginning."""
        import torch

        limit = min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)
        long = [prompt for prompt in prompts if len(self.tokenizer(prompt)["input_ids"]) > limit]
        features = []
        for batch in _batches(list(prompts), self.batch_size):
            tokens = self.tokenizer(batch, padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
            with torch.no_grad():
                features.append(_units(self.model.get_text_features(**tokens.to(self.device))))
        return np.concatenate(features), long

    def _embed_images(self, files: Sequence[Path]) -> np.ndarray:
        import torch

        pixels = self.processor([load(file) for file in files], return_tensors="pt")["pixel_values"].to(self.device)
        with torch.no_grad():
            if hasattr(self.model, "get_image_features"):
                return _units(self.model.get_image_features(pixel_values=pixels))
            return _units(self.model(pixel_values=pixels).last_hidden_state[:, 0])


def cache_file(folder: Path, name: str) -> Path:
    """A file for the embeddings of one model; the hash keeps a/b and a_b apart."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")[-60:]
    return folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.npz"


def _units(features: Any) -> np.ndarray:
    """Unit vectors. Some versions of transformers wrap features in an output object."""
    features = getattr(features, "pooler_output", features).float()
    return (features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)).cpu().numpy()


def _batches(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _read_cache(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with np.load(path) as stored:
            return dict(zip(stored["digests"].tolist(), stored["features"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        print(f"warning: {path} is damaged ({type(error).__name__}): its pictures are embedded anew", flush=True)
        return {}


def _write_cache(path: Path, known: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, digests=np.array(list(known)), features=np.stack(list(known.values())))
    os.replace(partial, path)
