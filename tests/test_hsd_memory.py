"""Memory is bounded by the bytes of the photos in flight, not by their number; what is written is the same."""

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, LevelConfig, run
from sga_kohya.hsd import pipeline as pipeline_module
from sga_kohya.hsd.memory import MOST, Memory, parse_size, shown_size, usual_size
from sga_kohya.hsd.out.summary import summarise
from sga_kohya.hsd.photos.images import OTHER_BYTES, PLAIN_BYTES, decode_image, read_header

from .test_hsd_run import picture, snapshot

CONFIG = HsdConfig((LevelConfig("macro", 256), LevelConfig("meso", 256, tau_up=2.0)), min_size=128, near_duplicates=-1)
SIDES = [400, 600, 200, 600, 400, 1000, 200, 600, 400, 600, 1000, 400, 200, 600]
LARGE = PLAIN_BYTES * 600 * 600
"""Bytes for two of the photos of 600 pixels once they are decoded, and far from enough for one of 1000."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, side in enumerate(SIDES):
        picture(side, side).save(folder / f"{i:02d}.png")
    return folder


class Flight:
    """Counts the bytes that are there: those of decoded pixels until the last that knows them has let go of them, and
    for each photo that is being decoded what that may take."""

    def __init__(self) -> None:
        self.bytes, self.most, self.alone = 0, 0, 0
        self._photos, self._lock = 0, threading.Lock()

    def add(self, size: int, photos: int = 0) -> None:
        with self._lock:
            self.bytes, self._photos = self.bytes + size, self._photos + photos
            if self._photos > 1:
                self.most = max(self.most, self.bytes)
            else:
                self.alone = max(self.alone, self.bytes)

    def decode(self, data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
        pixels, notes = decode_image(data)
        decoding = PLAIN_BYTES * pixels[..., 0].size
        self.add(decoding, 1)
        own = pixels.copy()
        weakref.finalize(own, self.add, -own.nbytes, -1)
        self.add(own.nbytes - decoding)
        return own, notes


@pytest.fixture
def flight(monkeypatch) -> Flight:
    counted = Flight()
    monkeypatch.setattr(pipeline_module, "decode_image", counted.decode)
    return counted


@pytest.mark.parametrize("workers", [1, 4])
def test_photos_in_flight_stay_within_the_memory_and_one_above_it_goes_alone(photos, tmp_path, flight, workers):
    run(photos, tmp_path / "out", CONFIG, workers, memory=LARGE)
    assert 0 < flight.most <= LARGE
    assert flight.alone == PLAIN_BYTES * 1000 * 1000
    assert flight.bytes == 0


def test_no_photo_is_held_longer_than_until_it_is_saved(photos, tmp_path, flight, monkeypatch):
    """What the loop itself still knows of a batch would come on top of what is counted."""
    left = []

    def hold(self, source, size):
        before(self, source, size)
        if not size and not self._held:
            left.append(flight.bytes)

    before = Memory.hold
    monkeypatch.setattr(Memory, "hold", hold)
    run(photos, tmp_path / "out", CONFIG, workers=1, memory=1)
    assert left
    assert not any(left)


def test_what_is_written_does_not_depend_on_the_memory(photos, tmp_path):
    made = {}
    for memory in (1, LARGE, 10**9):
        out = tmp_path / "out"
        result = run(photos, out, CONFIG, workers=3, memory=memory)
        assert ("photos waited until others had made room" in summarise(result, CONFIG)) == (memory < 10**9)
        made[memory] = snapshot(out)
        out.rename(tmp_path / str(memory))
    assert made[1] == made[LARGE] == made[10**9]


@pytest.mark.parametrize(
    ("mode", "suffix", "each"),
    [
        ("RGB", "jpg", PLAIN_BYTES),
        ("L", "png", PLAIN_BYTES),
        ("LA", "png", OTHER_BYTES),
        ("I;16", "png", OTHER_BYTES),
    ],
)
def test_the_header_says_how_much_decoding_takes(tmp_path, mode, suffix, each):
    path = tmp_path / f"photo.{suffix}"
    Image.new(mode, (300, 200)).save(path)
    assert read_header(path) == (60_000, 60_000 * each)
    path.write_bytes(b"no picture")
    assert read_header(path) == (0, 0)


def test_a_thread_waits_for_room_and_a_photo_that_is_gone_makes_some():
    memory = Memory(100)
    memory.take("a", 60)
    assert memory.fits(40)
    assert not memory.fits(41)
    waiting = threading.Thread(target=memory.take, args=("b", 1000), daemon=True)
    waiting.start()
    memory.hold("a", 3)
    assert not memory.fits(1000)
    memory.hold("a", 0)
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    assert not memory.fits(1)


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1.5GB", 1_500_000_000)])
def test_a_size_is_read_as_it_is_shown(text, size):
    assert parse_size(text) == size
    assert parse_size(shown_size(size)) == size


@pytest.mark.parametrize("text", ["2", "0GB", "GB", "-1GB", "2TB", "lots"])
def test_what_is_no_size_is_named_with_the_remedy(text):
    with pytest.raises(SgaError, match="--memory .* such as 2GB"):
        parse_size(text)


def container(root: Path, lines: str, limits: dict[str, str]) -> Path:
    """A root whose process is in these control groups. limits: content by file below /sys/fs/cgroup."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(lines)
    for name, limit in limits.items():
        path = root / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    return root


OLD = "memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("lines", "limits", "size"),
    [
        ("0::/\n", {"memory.max": "2000000000"}, 5 * 10**8),
        ("0::/\n", {"memory.max": "max"}, MOST),
        ("0::/\n", {f"memory/{OLD}": "1200000000"}, MOST),  # a file of version 1 is none of 2
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "4000000000"}, 10**9),
        ("0::/a/b\n", {"a/b/memory.max": "800000000", "a/memory.max": "4000000000"}, 2 * 10**8),
        ("0::/not/mounted\n", {"memory.max": "2000000000"}, 5 * 10**8),
        ("3:cpu,cpuacct:/a\n7:memory:/docker/b:c\n", {f"memory/{OLD}": "1200000000"}, 3 * 10**8),
        ("7:hugetlb,memory:/a\n0::/\n", {f"memory/a/{OLD}": "1200000000"}, 3 * 10**8),
        ("7:memory:/a\n", {f"memory/a/{OLD}": "9223372036854771712"}, MOST),  # no bound, as version 1 spells it
        ("7:memory_new:/a\n", {f"memory/a/{OLD}": "1200000000"}, MOST),
    ],
)
def test_in_a_container_its_own_bound_counts_and_not_the_machine_s(tmp_path, monkeypatch, lines, limits, size):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 25 * 10**6}.__getitem__)
    assert usual_size(root=tmp_path / "no such place") == MOST, "100 GB of a machine"
    assert usual_size(root=container(tmp_path, lines, limits)) == size


def test_where_a_machine_does_not_say_what_it_has_a_fixed_bound_is_taken(monkeypatch):
    monkeypatch.delattr("os.sysconf")
    assert shown_size(usual_size()) == "2GB" and shown_size(usual_size(2)) == "1GB"
