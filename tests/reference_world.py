"""What the tests of the reference trainer share: photos cut into slices, and the gradient of a first step."""

import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from PIL import Image

from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.reference.trainer import Trainer

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg")


def cut_photos(folder: Path, resolution: int = 128) -> Path:
    """Five photos through H-SD, in buckets of several sizes. Returns the dataset.toml.

    Of more than 128 pixels, photos are enlarged first, so that nothing is left out as too small.
    """
    import skimage

    photos, out = folder / "photos", folder / "slices"
    photos.mkdir()
    for name in PHOTOS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, photos)
        if resolution > 128:
            photo = Image.open(photos / name).convert("RGB")
            photo.resize([side * resolution // 128 for side in photo.size]).save(photos / name)
    levels = tuple(LevelConfig(name, resolution=resolution) for name in ("macro", "meso", "micro"))
    every = {"threshold": 0}  # a part of each photo, however poor
    run(photos, out, HsdConfig(levels=levels, min_size=64, batch_size=2, detector_options=every), workers=1)
    return out / "dataset.toml"


def gradients(trainer: Trainer) -> list[torch.Tensor]:
    """What the optimizer is given in the first step, before clipping."""
    found: list[torch.Tensor] = []

    class Done(Exception):
        pass

    def capture(parameters, *_):
        found.extend(p.grad.clone() for p in parameters if p.grad is not None)
        raise Done

    trainer.accelerator.clip_grad_norm_ = capture
    with pytest.raises(Done):
        trainer.run()
    return found


def expected_gradients(trainer: Trainer) -> list[torch.Tensor]:
    """Eq. 6 of the first step, from the same losses summed by hand."""
    config = trainer.config
    step, generator = trainer.dataset.plan(0)[0], trainer.seeded(0)
    losses = defaultdict(list)
    for sub_batch in step:
        _, loss = trainer.losses(trainer.dataset.load(sub_batch), sub_batch, generator)
        losses[sub_batch.granularities[0]] += list(loss)
    assert len(step) > len(losses), "the step should have a level in more than one bucket"
    levels = [config.loss_weight.get(k, 1.0) * torch.stack(values).mean() for k, values in losses.items()]
    objective = sum(levels) / (len(levels) if config.tuple_reduction == "mean" else 1)
    parameters = [p for p in trainer.stack.denoiser.parameters() if p.requires_grad]
    return [g for g in torch.autograd.grad(objective, parameters, allow_unused=True) if g is not None]


def assert_gradient_is_eq_6(trainer: Trainer) -> None:
    expected = expected_gradients(trainer)
    torch.testing.assert_close(gradients(trainer), expected, rtol=1e-4, atol=1e-6)
    assert any(g.abs().max() > 1e-4 for g in expected)
