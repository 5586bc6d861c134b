"""High dynamic range to what a usual screen shows: reference white stays nearly white, what is brighter is rolled off.

By ITU-R BT.2100 (PQ and HLG), BT.2408 (reference white at 203 cd/m²) and BT.2087 (to BT.709's primaries).
"""

from functools import cache

import cv2
import numpy as np

PQ, HLG = 16, 18
"""Transfer functions by their numbers in ISO/IEC 23091-2."""
NAMES = {PQ: "PQ", HLG: "HLG"}
WHITE, PEAK = 203.0, 1000.0
"""Of reference white and of an HLG screen, in cd/m²."""
KNEE = 0.75
"""Of reference white, from which on brightness is rolled off towards the screen's own white."""
STEPS = 4096
TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)


def to_screen(signal: np.ndarray, transfer: int) -> np.ndarray:
    """signal: (H, W, 3) float32 in [0, 1], RGB of BT.2020 as it is stored. Returns RGB uint8 of sRGB."""
    light = _light(transfer)[np.rint(signal * (STEPS - 1)).astype(np.int32)]
    light = np.maximum(cv2.transform(light, TO_BT709), 0)
    brightest = light.max(2, keepdims=True)
    # One factor for all three colours: else what is rolled off loses its hue.
    light *= rolled_off(brightest) / np.maximum(brightest, 1e-6)
    shown: np.ndarray = _srgb()[np.rint(np.minimum(light, 1) * (STEPS - 1)).astype(np.int32)]
    return shown


def rolled_off(light: np.ndarray) -> np.ndarray:
    """light: of reference white, at least 0. The same up to the knee, below 1 whatever it is."""
    beyond = np.maximum(light - KNEE, 0)
    return np.where(light <= KNEE, light, 1 - (1 - KNEE) * np.exp(-beyond / (1 - KNEE)))


@cache
def _light(transfer: int) -> np.ndarray:
    """For each of STEPS values of the signal, the light of a grey of it, in parts of reference white."""
    values = np.linspace(0, 1, STEPS)
    if transfer == PQ:
        root = values ** (1 / 78.84375)
        nits = 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
        nits = PEAK * scene**1.2
    return (nits / WHITE).astype(np.float32)


@cache
def _srgb() -> np.ndarray:
    light = np.linspace(0, 1, STEPS)
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * signal).astype(np.uint8)
