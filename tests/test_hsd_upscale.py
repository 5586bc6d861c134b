"""sga_kohya.hsd.photos.upscale: a tiny ESRGAN made on the spot, through spandrel's own loader."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig
from sga_kohya.hsd.photos.upscale import SuperResolver, make_upscaler, tiled

pytest.importorskip("spandrel")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """RRDBNet x2 with one block of 4 features: it sees 20 pixels far at most."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(0)
    net = RRDBNet(in_nc=3, out_nc=3, num_filters=4, num_blocks=1, scale=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    path = tmp_path_factory.mktemp("weights") / "2x_tiny.pth"
    torch.save(net.state_dict(), path)
    return path


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(90, 70), (100, 80), (150, 90), (300, 170)])
def test_the_size_is_exact_also_beyond_the_network_s_factor(weights, size):
    enlarged = make_upscaler(HsdConfig(upscale_model=weights, device="cpu")).enlarge(noise(50, 40), size)
    assert enlarged.shape == (size[1], size[0], 3) and enlarged.dtype == np.uint8


def test_at_its_own_factor_the_result_is_the_network_s(weights, tmp_path):
    from spandrel import ModelLoader

    pixels = noise(50, 40)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        expected = (ModelLoader("cpu").load_from_file(str(weights))(image) * 255).round().clamp(0, 255)
    upscaler = make_upscaler(HsdConfig(upscale_model=weights, device="cpu"))
    assert np.array_equal(upscaler.enlarge(pixels, (100, 80)), expected[0].permute(1, 2, 0).numpy().astype(np.uint8))
    assert upscaler.name == "2x_tiny.pth"
    assert len(np.unique(upscaler.enlarge(pixels, (100, 80)))) > 50, "the network answers with a picture"
    save_file(torch.load(weights), tmp_path / "same.safetensors")
    same = SuperResolver(tmp_path / "same.safetensors", "cpu")
    assert np.array_equal(same.enlarge(pixels, (100, 80)), upscaler.enlarge(pixels, (100, 80)))


def test_tiles_leave_no_seams(weights):
    pixels = noise(150, 110)
    whole, tiles = SuperResolver(weights, "cpu", tile=1000), SuperResolver(weights, "cpu", tile=48)
    # At most one of 255: a convolution's rounding depends on the size of what it is given.
    difference = np.abs(whole.enlarge(pixels, (300, 220)).astype(int) - tiles.enlarge(pixels, (300, 220)))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_without_a_margin_there_would_be_seams(weights):
    network = SuperResolver(weights, "cpu")
    image = torch.from_numpy(noise(150, 110)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        whole, tiles = (tiled(network._forward, image, 2, tile, 0).int() for tile in (1000, 48))
    assert (whole - tiles).abs().max() > 10


def test_savers_may_call_it_at_the_same_time(weights):
    upscaler = SuperResolver(weights, "cpu")
    pictures = [np.roll(noise(40, 40), shift, axis=1) for shift in range(8)]
    alone = [upscaler.enlarge(picture, (80, 80)) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: upscaler.enlarge(picture, (80, 80)), pictures))
    assert all(map(np.array_equal, alone, together))


def test_without_weights_it_is_lanczos():
    upscaler = make_upscaler(HsdConfig())
    flat = np.full((10, 20, 3), 77, np.uint8)
    assert upscaler.name == "lanczos" and (upscaler.enlarge(flat, (50, 30)) == 77).all()


def test_weights_that_cannot_be_used_are_named_in_one_line(tmp_path, weights):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    torch.save({"some": torch.zeros(3)}, tmp_path / "other.pth")
    for name, words in (("broken.pth", "cannot load"), ("other.pth", "cannot load"), ("missing.pth", "no such file")):
        with pytest.raises(SgaError, match=f"{name}.*{words}") as error:
            SuperResolver(tmp_path / name, "cpu")
        assert "\n" not in str(error.value)
    with pytest.raises(SgaError, match="device nonsense"):
        SuperResolver(weights, "nonsense")
