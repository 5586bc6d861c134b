"""sga_kohya.hsd by several processes: what they write is what one writes, whoever dies in between."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sga_kohya.errors import SgaError
from sga_kohya.hsd import HsdConfig, devices, run, team, together
from sga_kohya.hsd import __main__ as command
from sga_kohya.hsd.__main__ import main
from sga_kohya.hsd.arguments import usual_workers
from sga_kohya.hsd.captioners.captioning import SILENT
from sga_kohya.hsd.clips import cutting
from sga_kohya.hsd.detectors.onnx.model import PROVIDERS, choose_providers
from sga_kohya.hsd.memory import usual_size
from sga_kohya.hsd.out.ledger import JOURNAL, SHARES
from sga_kohya.hsd.run import Result
from sga_kohya.hsd.team import Process, split
from sga_kohya.kit.pictures import CLIPS, SUFFIXES, is_clip
from tests import clips
from tests.forked import python
from tests.test_hsd_clips_odd import sound
from tests.test_hsd_resume import CONFIG, SLOW, decoded, photos, picture, reasons, thumbnail
from tests.test_hsd_run import snapshot

__all__ = ["decoded", "photos"]

ROOT = Path(__file__).parents[1]
ARGUMENTS = ["--resolution", "256", "--min_size", "128", "--min_detail", "0"]


@pytest.fixture
def many(photos: Path) -> Path:
    """Photos with copies of all kinds, captions, and files that cannot be read."""
    for i in range(4):
        source = next(photos.rglob(f"p{i}.png"))
        thumbnail(source, photos / f"a{i}.png", 200 + 100 * i, 150 + 75 * i)
        thumbnail(source, photos / "sub" / f"z{i}.png", 320, 240)
    (photos / "p4.txt").write_text("a cat, a garden\nand a second line")
    (photos / "broken.png").write_bytes((photos / "p0.png").read_bytes()[:3000])
    (photos / "none.jpg").write_bytes(b"nothing")
    return photos


def by(size: int, photos: Path, out: Path, config: HsdConfig = CONFIG) -> Result:
    """As many processes as `size`, here threads, which hold each other's locks no less."""
    with ThreadPoolExecutor(size) as pool:
        arguments = photos, out, lambda: config, 1
        others = [pool.submit(together.work, Process(rank, size, size), *arguments) for rank in range(1, size)]
        result = together.lead(Process(0, size, size), photos, out, config, 1)
        for other in others:
            other.result()
    return result


def by_one(photos: Path, out: Path, config: HsdConfig = CONFIG) -> dict[str, str]:
    """What one process writes into this very folder, which is then away again."""
    run(photos, out, config)
    made = snapshot(out)
    out.rename(out.with_name(f"one-{len(list(out.parent.iterdir()))}"))
    return made


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_write_what_one_writes(many, tmp_path, size):
    out = tmp_path / "out"
    made = by_one(many, out)
    result = by(size, many, out)
    assert snapshot(out) == made and len(reasons(out)) == 10
    assert not (out / SHARES).exists()
    assert (result.tally.photos, result.tally.used, result.tally.reused, result.edited) == (16, 6, 0, [])
    again = by(size, many, out)
    assert snapshot(out) == made and (again.tally.reused, again.swept.removed) == (6, 0)


def test_what_others_have_finished_is_not_read_again(photos, tmp_path, decoded, monkeypatch):
    read: list[str] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), whole(path))[1])
    by(2, photos, tmp_path / "out")
    assert len(decoded) == 6
    assert {read.count(f"p{i}.png") for i in range(6)} == {1}


def test_masks_captions_and_files_that_are_not_ours_are_as_with_one(many, tmp_path, monkeypatch):
    masks, out = tmp_path / "masks", tmp_path / "out"
    (masks / "sub").mkdir(parents=True)
    Image.new("L", (400, 300), 255).save(masks / "sub" / "p1.png")
    Image.new("L", (10, 300), 255).save(masks / "p2.png")
    config = replace(CONFIG, masks=str(masks), captioner="tests.test_hsd_processes:words", near_duplicates=2)
    theirs = out / "1_macro"

    def prepared() -> None:
        theirs.mkdir(parents=True)
        picture(50).save(theirs / "p0.png")
        (theirs / "p0.txt").write_text("mine")

    prepared()
    made = by_one(many, out, config)
    prepared()
    result = by(3, many, out, config)
    assert snapshot(out) == made and "1_macro/photos-p0.png" not in made
    assert result.foreign == ["1_macro/p0.png", "1_macro/p0.txt"]
    assert result.tally.lost["unreadable mask"] >= 1
    edited = out / "1_micro" / "p4.txt"
    edited.write_text("my own words\n")
    before = snapshot(out)
    changed = replace(config, caption="other words")
    result = by(3, many, out, changed)
    assert result.edited == ["1_micro/p4.txt"] and edited.read_text() == "my own words\n"
    after = snapshot(out)
    (many / "p5.png").unlink(missing_ok=True)
    assert run(many, out, changed).edited == ["1_micro/p4.txt"] and snapshot(out) == after != before


def words(piece) -> str:
    """A captioner."""
    return f"a {piece.level} of {Path(piece.source).stem}"


def test_what_was_noted_of_a_copy_that_was_cut_for_nothing_goes_with_its_slices(many, tmp_path):
    out, config = tmp_path / "out", replace(CONFIG, captioner="tests.test_hsd_processes:silent")
    made = by_one(many, out, config)
    result = by(2, many, out, config)
    assert snapshot(out) == made and result.tally.notes[SILENT] == result.tally.used == 6


def silent(piece) -> str:
    """A captioner."""
    return ""


def test_a_process_that_dies_is_told_of_and_its_share_is_done(many, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    made = by_one(many, out)
    cut = together.cut_share

    def dying(pipeline, items, workers, *done):
        cut(pipeline, items if done else items[: len(items) // 2], workers, *done)
        if not done:  # it is not process 0
            raise SgaError("no room on this machine")

    monkeypatch.setattr(together, "cut_share", dying)
    with pytest.raises(SgaError, match="no room on this machine"):
        by(2, many, out)
    assert "process 1 of 2 ended before its share was done: this one does it" in capsys.readouterr().err
    assert snapshot(out) == made


def started(out: Path, photos: Path, size: int, *arguments: str, code: str = "") -> list[subprocess.Popen]:
    """As torchrun starts them. code: run in front of the command."""
    begin = f"import sys\n{code}\nfrom sga_kohya.hsd.__main__ import main\nsys.exit(main())"
    command = [sys.executable, "-c", begin, str(photos), str(out), *ARGUMENTS, *arguments]
    own = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **own, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def test_killed_processes_are_gone_on_from_by_one_and_by_others(many, tmp_path, decoded):
    out = tmp_path / "out"
    assert main([str(many), str(out), *ARGUMENTS]) == 0
    made = snapshot(out)
    out.rename(tmp_path / "one")
    finished = killed(out, many, 2)
    assert 1 <= finished < 16
    decoded.clear()
    assert main([str(many), str(out), *ARGUMENTS]) == 0
    # Two are damaged, and are tried again.
    assert snapshot(out) == made and 16 - finished <= len(decoded) <= 18 - finished
    # One that was killed alone, gone on from by two.
    shutil.rmtree(out)
    assert killed(out, many, 1) >= 1
    processes = started(out, many, 2)
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert snapshot(out) == made and said[1] == ""


def killed(out: Path, photos: Path, size: int) -> int:
    """Processes that have each finished a photo or more, all killed. Returns how many photos those are."""
    processes = started(out, photos, size, "--workers", "1", code=SLOW)
    deadline, journals = time.monotonic() + 120, []
    try:
        while not (journals and all("[{" in journal.read_text() for journal in journals)):
            assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
            journals = [*(out / SHARES).glob("*.jsonl")] if size > 1 else [*out.glob(JOURNAL)]
            journals = journals if len(journals) == size else []
            time.sleep(0.02)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    return sum(line.startswith("[") for journal in journals for line in journal.read_text().splitlines())


GOOD = ("a.mp4", "p0.mp4", "sub/b.mkv", "sub/p0.mp4")
BAD = ("none.avi", "short.mkv", "sound.mp4", "sub/gone.webm")
OF_CLIPS = replace(CONFIG, clip_frames=9, clip_resolution=128, min_size=64, near_duplicates=-1)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two photos, clips that give slices, two of them named as a photo, one with a caption, and some that give none."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i in range(2):
        picture(i).save(folder / f"p{i}.png")
    for i, name in enumerate(GOOD):
        clips.write(folder / name, 10 + i, size=(192, 128), draw=lambda n, i=i: clips.picture(n + 9 * i, (192, 128)))
    (folder / "a.txt").write_text("a square that moves")
    clips.write(folder / "short.mkv", 3, size=(192, 128))
    (folder / "none.avi").write_bytes(bytes(range(256)) * 40)
    (folder / "sub" / "gone.webm").symlink_to(folder / "nowhere")
    sound(folder / "sound.mp4")
    return folder


@pytest.mark.parametrize("size", [2, 4])
def test_clips_are_shared_as_photos_are(mixed, tmp_path, monkeypatch, size):
    out, shares, made_of, read = tmp_path / "out", [], [], []
    (mixed / "aa.mp4").write_bytes((mixed / "a.mp4").read_bytes())
    config = replace(OF_CLIPS, near_duplicates=4)
    alone = by_one(mixed, out, config)
    cut, make, sha256 = together.cut_share, cutting.make, cutting.sha256
    monkeypatch.setattr(together, "cut_share", lambda p, items, *rest: shares.append(items) or cut(p, items, *rest))
    monkeypatch.setattr(cutting, "make", lambda clip, *rest: made_of.append(clip.path) or make(clip, *rest))
    monkeypatch.setattr(cutting, "sha256", lambda path: read.append(path) or sha256(path))
    result = by(size, mixed, out, config)
    assert snapshot(out) == alone and not (out / SHARES).exists()
    clips_there = (*GOOD, *BAD, "aa.mp4")
    handed_out = [[name for name, _ in share if is_clip(Path(name))] for share in shares]
    assert len(handed_out) == size and all(handed_out) and sorted(sum(handed_out, [])) == sorted(clips_there)
    assert sorted(made_of) == sorted(mixed / name for name in (*GOOD, "aa.mp4")), "none is cut twice"
    assert sorted(read) == sorted(mixed / name for name in clips_there), "none is read twice"
    film = result.clips
    assert dict(film.lost) == {"unreadable": 3, "too short": 1, "near-duplicate": 1}
    assert (film.photos, film.used, film.reused) == (9, 4, 0)
    assert (result.tally.photos, result.tally.used) == (2, 2)


def test_what_the_user_has_edited_of_a_clip_is_said_whoever_cuts_it(mixed, tmp_path):
    out = tmp_path / "out"
    run(mixed, out, OF_CLIPS)
    edited = sorted(f"{path.parent.name}/{path.name}" for path in out.glob("macro_*/*.txt"))
    for file in edited:
        (out / file).write_text("my own words\n")
    result = by(2, mixed, out, replace(OF_CLIPS, caption="other words"))
    assert len(edited) == 4 and result.edited == edited and result.clips.reused == 1, "the one that was too short"
    assert {(out / file).read_text() for file in edited} == {"my own words\n"}


def test_photos_and_clips_have_a_bar_each(mixed, tmp_path, monkeypatch):
    counted, bar_of = {}, together.progress_bar

    def watched(unit, total, shown):
        bar = bar_of(unit, total, shown)
        counted[unit] = [total, 0]
        monkeypatch.setattr(bar, "update", lambda n=1: counted[unit].__setitem__(1, counted[unit][1] + n))
        return bar

    monkeypatch.setattr(together, "progress_bar", watched)
    by(2, mixed, tmp_path / "out", OF_CLIPS)
    assert counted == {"photo": [2, 2], "clip": [8, 8]}


def test_who_is_killed_among_clips_leaves_them_to_process_0(mixed, tmp_path):
    out = tmp_path / "out"
    settings = ["--clip_resolution", "128", "--clip_frames", "9", "--min_size", "64", "--workers", "1"]
    assert main([str(mixed), str(out), *ARGUMENTS, *settings]) == 0
    alone = snapshot(out)
    out.rename(tmp_path / "one")
    processes = started(out, mixed, 2, *settings, code=DYING)
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL], said
    assert "process 1 of 2 ended before its share was done: this one does it" in said[0]
    assert snapshot(out) == alone


DYING = """
import os, signal
from sga_kohya.hsd.out import output
from sga_kohya.kit.files import PART
write, stems = output.write_whole, set()
def dying(path, data):
    stems.update([path.stem] if path.suffix == ".mp4" else [])
    if len(stems) == 2 and os.environ["RANK"] == "1":
        path.with_name(path.name + PART).write_bytes(data[:9])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)
output.write_whole = dying
"""
"""Process 1 dies as it writes the first slice of its second clip, of which a part is there."""


def test_no_suffix_is_of_photos_and_clips():
    assert not SUFFIXES & CLIPS


def test_an_error_is_said_once(photos, tmp_path, monkeypatch, capsys):
    impatient = "from sga_kohya.hsd import team\nteam.GRACE = 0"
    processes = started(tmp_path / "out", photos, 2, "--detector_arg", "nothing=1", code=impatient)
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert said[0].startswith("sga_kohya.hsd: error: detector heuristic: ") and "nothing" not in said[1]
    assert "process 0 has ended, and told why" in said[1]
    monkeypatch.setattr(command, "PROCESS", Process(1, 2, 2))
    assert main([str(photos), str(tmp_path / "out"), "--nothing"]) == 2
    assert capsys.readouterr() == ("", "")


def test_torchrun_starts_them_and_process_0_alone_speaks(many, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "out"
    assert main([str(many), str(out), *ARGUMENTS]) == 0
    made = snapshot(out)
    out.rename(tmp_path / "one")
    command = [*python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "sga_kohya.hsd", str(many), str(out), *ARGUMENTS]
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert snapshot(out) == made and done.stdout.count("photos   16 found") == 1


def test_a_preview_is_of_process_0_alone(photos, tmp_path, monkeypatch):
    arguments = [str(photos), str(tmp_path / "out"), *ARGUMENTS, "--preview", "3"]
    monkeypatch.setattr(command, "PROCESS", Process(1, 2, 2))
    assert main(arguments) == 0 and not (tmp_path / "out").exists()
    monkeypatch.setattr(command, "PROCESS", Process(0, 2, 2))
    assert main(arguments) == 0 and {path.name for path in (tmp_path / "out").iterdir()} == {"preview"}


def test_who_is_not_there_is_not_waited_for_for_ever(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(team, "PATIENCE", 0)
    with pytest.raises(SgaError, match="process 1 of 2 has not come to .*; to start one alone, unset WORLD_SIZE"):
        together.lead(Process(0, 2, 2), photos, tmp_path / "out", CONFIG)
    with pytest.raises(SgaError, match="process 0 has not come to "):
        together.work(Process(1, 2, 2), photos, tmp_path / "other", lambda: CONFIG)
    assert not (tmp_path / "other").exists()


def test_while_a_process_of_an_earlier_run_still_cuts_no_other_begins(photos, tmp_path):
    out = tmp_path / "out"
    (out / SHARES).mkdir(parents=True)
    with team._alive(out / SHARES, 1), pytest.raises(SgaError, match="process 1 of an earlier run still writes into"):
        run(photos, out, CONFIG)
    assert run(photos, out, CONFIG).tally.photos == 6 and not (out / SHARES).exists()


def test_shares_are_whole_and_have_large_and_small_photos_alike():
    for count, size in ((0, 2), (1, 4), (7, 2), (1000, 3), (5000, 4)):
        items = [(f"p{i}", f"p{i}") for i in range(count)]
        shares = split(items, size)
        assert len(shares) == size and sorted(sum(shares, [])) == sorted(items)
        assert max(map(len, shares)) - min(map(len, shares)) <= max(1, min(team.BLOCK, count // (4 * size)))


def test_each_process_has_its_part_of_the_machine(monkeypatch):
    assert Process.of({}) is None and Process.of({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert Process.of({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}) == Process(3, 4, 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert [usual_workers(process) for process in (None, Process(0, 4, 4), Process(0, 99, 99))] == [8, 3, 1]
    assert usual_size(1000) * 999 < usual_size() * 1000
    available = list(PROVIDERS.values())
    assert (devices.own("cuda"), devices.own("cpu"), devices.own("cuda:0")) == ("cuda", "cpu", "cuda:0")
    assert choose_providers("", available)[0] == (PROVIDERS["cuda"], {"device_id": 0})
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (devices.own("cuda"), devices.own("cpu"), devices.own("cuda:0")) == ("cuda:3", "cpu", "cuda:0")
    assert [choose_providers(name, available)[0][1] for name in ("", "cuda", "cuda:1")] == [
        {"device_id": 3},
        {"device_id": 3},
        {"device_id": 1},
    ]
