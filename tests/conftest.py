"""Every test starts from the same seeds, and from Pillow's and torch's own functions."""

import gc
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
torch.set_num_threads(1)  # sums are then in the same order every time, and a busy machine is not slower for it
_OPEN, _SAVE = Image.open, torch.save


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for more time than the usual come first: at the end one worker would wait for the other."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _imported_is_no_garbage() -> None:
    """A collection goes through every object that it might free: without torch's, transformers' and diffusers' million,
    which stay to the end, it takes a tenth of the time. What is trained here collects after every caption."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_functions() -> None:
    """Importing ultralytics replaces these two for the whole process, all further tests included."""
    Image.open, torch.save = _OPEN, _SAVE
