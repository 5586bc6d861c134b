"""Every test starts from the same seeds, and from Pillow's and torch's own functions."""

import os
import random

# On the processor, whatever there is: numbers and messages are expected to be the same everywhere. See also
# tests/host/run.py.
os.environ.update(CUDA_VISIBLE_DEVICES="", ACCELERATE_USE_CPU="true")

import numpy as np
import pytest
import torch
from PIL import Image

os.environ["SGA_PACE_TABLE"] = "none"  # what tests train is no measurement for whoever runs them
_OPEN, _SAVE = Image.open, torch.save


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Sums are then in the same order every time, and a busy machine is not slower for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_functions() -> None:
    """Importing ultralytics replaces these two for the whole process, all further tests included."""
    Image.open, torch.save = _OPEN, _SAVE
