"""sga_kohya.hsd: why a photo is left out before anything is sought in it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sga_kohya.hsd import FILTERS, Detection, Photo, View, run
from sga_kohya.hsd.detect import DETECTORS
from sga_kohya.hsd.kits import make_kits
from sga_kohya.hsd.out.summary import summarise
from sga_kohya.hsd.photos import filters
from sga_kohya.hsd.photos.filters.near_duplicates import NearDuplicates, Neighbours
from sga_kohya.hsd.photos.filters.too_small import too_small
from tests.test_hsd_report import data_of
from tests.test_hsd_resume import CONFIG, LEVELS, Corner, decoded, photos, picture, slices
from tests.test_hsd_run import rows_of

__all__ = ["decoded", "photos"]


def dark(photo: Photo) -> str | None:
    """What somebody could write."""
    mean = float(np.mean(photo.pixels))
    return f"dark: {mean:.0f} of 255 on average" if mean < 40 else None


def test_a_filter_of_one_s_own_is_one_function_and_one_entry(photos, tmp_path, monkeypatch, decoded):
    picture(7).point(lambda value: value // 8).save(photos / "night.png")
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    assert run(photos, out, CONFIG).tally.used == 7
    with monkeypatch.context() as patch:
        patch.setattr(filters, "FILTERS", [*FILTERS, dark])
        result = run(photos, out, CONFIG)
        (row,) = (row for row in rows_of(out) if row["source"] == "night.png")
        assert row["reason"].startswith("dark: ") and row["reason"].endswith("of 255 on average")
        assert (row["file"], row["group"], row["granularity"]) == (None, None, "macro")
        assert not list(out.rglob("night*")), "its slices of the run before are gone"
        assert (result.tally.used, result.tally.lost, result.tally.levels["macro"].dropped) == (6, {"dark": 1}, 0)
        report = summarise(result, CONFIG)
        assert "photos   7 found, 6 used, 1 skipped" in report and "1 dark" in report
        assert "1 photo was skipped, dark: night.png (" in report
        (discard,) = data_of(out / "report.html")["discards"]["dark"]
        assert discard[0] == "night.png"
        decoded.clear()
        run(photos, out, CONFIG)
        assert decoded == [], "what a filter has said of a photo is not asked again"
    run(photos, out, CONFIG)
    run(photos, fresh, CONFIG)
    assert slices(out) == slices(fresh) and (out / "1_macro" / "night.png").exists()


def test_of_a_photo_that_is_too_small_for_any_region_no_detector_is_asked(photos, tmp_path, monkeypatch):
    asked: list[str] = []

    class Listening(Corner):
        def detect(self, views: Sequence[View], level: str) -> list[list[Detection]]:
            asked.extend(view.source for view in views)
            return super().detect(views, level)

    monkeypatch.setitem(DETECTORS, "listening", lambda options, photos: Listening())
    picture(8, 120, 90).save(photos / "tiny.png")
    out = tmp_path / "out"
    result = run(photos, out, replace(CONFIG, mode="split", detector="listening"))
    (row,) = (row for row in rows_of(out) if row["source"] == "tiny.png")
    assert row["reason"] == "too small: 120x90 takes 1.42x to reach 128x128, above tau_up 1" and row["group"] is None
    assert "tiny.png" not in asked and "p0.png" in asked
    assert result.tally.lost["too small"] >= 1


def test_a_photo_is_too_small_where_no_region_of_it_could_be_large_enough(tmp_path):
    kit = make_kits(CONFIG, tmp_path)[""]
    for width, height, left_out in ((128, 128, False), (1000, 118, False), (1000, 116, True), (116, 400, True)):
        found = too_small(Photo("a.png", "a", kit, size=(width, height)))
        assert bool(found) == left_out, (width, height, found)
    assert LEVELS[0].tau_up == 1, "the tenth above it is what no photo is lost for"


def test_near_duplicates_by_values(tmp_path):
    kit = make_kits(CONFIG, tmp_path)[""]

    def photo(phash: str, source: str = "x") -> Photo:
        return Photo(source, source, kit, phash=phash)

    found = NearDuplicates(3)
    found.used(photo("0000000000000000", "a"))
    found.used(photo("00000000000000ff", "b"))
    assert found(photo("0000000000000007")) == "near-duplicate: of a, 3 of 64 bits differ"
    assert found(photo("000000000000000f")) is None, "a and b are four bits away"
    found.used(photo("000000000000000f", "d"))
    assert found(photo("000000000000000e")) == "near-duplicate: of d, 1 of 64 bits differ", "the nearest"
    found.used(photo("f0000000000000ff", "f"))
    for i in range(1, 400):
        found.used(photo(f"{i * 0x0123456789ABCDEF % 2**64:016x}", f"{i}"))
    assert found(photo("f0000000000000ff")) == "near-duplicate: of f, 0 of 64 bits differ"
    assert found.alike(photo("07"), photo("03")) and not found.alike(photo("07"), photo("ff"))
    off = NearDuplicates(-1)
    off.used(photo("0" * 16))
    assert off(photo("0" * 16)) is None and not off.alike(photo("0" * 16), photo("0" * 16))
    found.used(photo("", "blank"))
    assert found(photo("")) is None and not found.alike(photo(""), photo("")), "blank pictures are like nothing"
    assert not found.alike(photo(""), photo("0" * 16))


@pytest.mark.parametrize("distance", [0, 4, 7, 13, 64])
def test_near_duplicates_are_found_as_if_all_were_looked_at(distance):
    random = np.random.default_rng(distance)
    centres = random.integers(0, 2**64, 12, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in random.choice(64, count % 17, replace=False)) for count in range(600)]
    hashes = [int(centres[i % 12]) ^ flip for i, flip in enumerate(flips)]
    kit = make_kits(CONFIG, Path())[""]
    judge, used = NearDuplicates(distance), []
    for number, hashed in enumerate(hashes):
        photo = Photo(f"{number}.png", str(number), kit, phash=f"{hashed:016x}")
        far = [(earlier ^ hashed).bit_count() for _, earlier in used]
        nearest = min(range(len(far)), key=far.__getitem__, default=0)
        if far and far[nearest] <= distance:
            said = f"near-duplicate: of {used[nearest][0]}.png, {far[nearest]} of 64 bits differ"
            assert judge(photo) == said
        else:
            assert judge(photo) is None
        if number % 5:
            used.append((number, hashed))
            judge.used(photo)


def test_of_many_photos_only_a_few_are_compared():
    random = np.random.default_rng(0)
    near = Neighbours(4)
    for hashed in random.integers(0, 2**64, 20000, dtype=np.uint64):
        near.add(int(hashed))
    counts = [len(near.candidates(int(hashed))) for hashed in random.integers(0, 2**64, 50, dtype=np.uint64)]
    assert max(counts) < 20000 / 500
