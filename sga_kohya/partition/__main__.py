"""The command line: python -m sga_kohya.partition DATASET OUT --by CRITERION"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import Parser, run_command, shell_word
from sga_kohya.kit.files import only_writer
from sga_kohya.kit.text import safe
from sga_kohya.partition import criteria, topics
from sga_kohya.partition.dataset import Dataset, Sample, read_dataset
from sga_kohya.partition.output import DATASET_TOML, GROUPINGS, check_folder, write
from sga_kohya.words import DEFAULT_LABELS, MANIFEST_NAME

CRITERIA = ("frequency", "resolution", "caption", "random")
Labelled = tuple[list[int | None], list[object], list[str]]
"""Part, value of each sample, and a remark on each part."""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sga_kohya.partition",
        description="Label the images of an existing kohya dataset, without cutting or touching them.",
    )
    add = parser.add_argument
    add("dataset", type=Path, metavar="DATASET", help="folder of images, of folders such as 10_dog, or a dataset TOML")
    add("out", type=Path, metavar="OUT", help="folder for dataset.toml and sga_manifest.jsonl")
    add("--by", choices=CRITERIA, required=True, help="share of high frequencies, pixels, caption topic, or chance")
    default = "(default: %(default)s)"
    labels = ",".join(DEFAULT_LABELS)
    add("--labels", default=labels, metavar="NAME,NAME", help=f"names, coarse to fine, two or more {default}")
    add(
        "--keywords",
        action="append",
        default=[],
        metavar="LABEL=WORD,WORD",
        help="for --by caption, repeatable; a label without keywords takes the rest (default: topics are clustered)",
    )
    add("--group_by", choices=GROUPINGS, default=GROUPINGS[0], help=f"which images are siblings {default}")
    add("--seed", type=int, default=0, metavar="N", help=f"for --by random and --by caption {default}")
    size = f"for a folder; a TOML has its own {default}"
    add("--resolution", type=int, default=1024, metavar="PIXELS", help=size)
    add("--batch_size", type=int, default=1, metavar="N", help=size)
    return parser


def run(args: argparse.Namespace) -> str:
    """Writes OUT and returns the report. Raises SgaError for what the user can correct."""
    labels = parse_labels(args.labels)
    keywords = parse_keywords(args.keywords, labels, args.by)
    if args.resolution < 64 or args.batch_size < 1 or args.seed < 0:
        raise SgaError("--resolution must be 64 or more, --batch_size 1 or more, --seed 0 or more")
    out = args.out.resolve()
    check_folder(out)
    dataset = read_dataset(args.dataset, args.resolution, args.batch_size)
    unreadable = _unreadable(dataset)
    if unreadable and args.by == "caption":
        raise SgaError(unreadable[0])
    parts, values, remarks = label(dataset.samples, args.by, labels, keywords, args.seed)
    named = [None if part is None else labels[part] for part in parts]
    with only_writer(out, "give another OUT"):
        check_folder(out)
        aside = write(out, dataset, named, values, args.by, args.group_by)
    notes = [f"what was edited by hand is in {place} now: start from a copy" for place in aside]
    if dataset.untrained:
        such = f"{len(dataset.untrained)} pictures get no label, such as {dataset.untrained[0]}"
        notes.append(f"{such}: sd-scripts does not read their format; convert them to PNG or JPEG")
    if dataset.dropped:
        notes.append(
            f"{dataset.dropped} granularities of the TOML itself are left out: they would win over the manifest"
        )
    return report(labels, parts, remarks, out, args.by, [*notes, *unreadable])


def _unreadable(dataset: Dataset) -> list[str]:
    """What to say of captions in an unknown encoding, nothing without any."""
    found = dataset.unreadable
    return [f"{len(found)} captions cannot be read and stop sd-scripts, such as {found[0]}"] if found else []


def label(
    samples: Sequence[Sample], by: str, labels: Sequence[str], keywords: Mapping[str, Sequence[str]], seed: int
) -> Labelled:
    captions = [sample.caption for sample in samples]
    nothing = [""] * len(labels)
    if by == "random":
        return list(criteria.by_chance(len(samples), len(labels), seed)), [seed] * len(samples), nothing
    if by == "caption":
        if not any(captions):
            raise SgaError("no image has a caption: use another --by, or caption the images")
        if keywords:
            parts = topics.by_keywords(captions, labels, keywords)
            remarks = [", ".join(keywords.get(name, ["the rest"])) for name in labels]
        else:
            parts, words = topics.by_clusters(captions, len(labels), seed)
            remarks = [", ".join(found) for found in words]
        return list(parts), list(captions), remarks
    return _ordered(samples, {"frequency": criteria.frequency, "resolution": criteria.resolution}[by], labels)


def _ordered(samples: Sequence[Sample], measure: Callable[[Path], float], labels: Sequence[str]) -> Labelled:
    """Parts by a number that is measured in each file. An image that cannot be read is named and takes no part."""

    def measured(sample: Sample) -> float | None:
        try:
            return float(f"{measure(sample.path):.6g}")
        # On damaged files Pillow's decoders raise almost anything: SyntaxError, struct.error, zlib.error, …
        except Exception as error:
            tqdm.write(f"warning: {safe(str(sample.path))} gets no label, it cannot be read: {error}", file=sys.stderr)
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = tqdm(pool.map(measured, samples), total=len(samples), unit="image", disable=None)
        values = list(progress)
    numbers = [value for value in values if value is not None]
    found = iter(criteria.equal_parts(numbers, len(labels)))
    parts = [None if value is None else next(found) for value in values]
    ranges = []
    for part in range(len(labels)):
        ours = [value for value, p in zip(values, parts, strict=True) if p == part and value is not None]
        ranges.append(f"{min(ours):.4g} to {max(ours):.4g}")
    return parts, values, ranges


def parse_labels(text: str) -> list[str]:
    labels = [name.strip() for name in text.split(",")]
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(name.replace("-", "").isalnum() for name in labels):
        raise SgaError(f"--labels {text}: write two or more different names of letters, digits and '-', such as a,b,c")
    return labels


def parse_keywords(items: Sequence[str], labels: Sequence[str], by: str) -> dict[str, list[str]]:
    if items and by != "caption":
        raise SgaError("--keywords is for --by caption")
    keywords = {}
    for item in items:
        name, equals, words = item.partition("=")
        keywords[name] = [word.strip() for word in words.split(",") if word.strip()]
        if name not in labels or not equals or not keywords[name]:
            raise SgaError(f"--keywords {item}: write LABEL=WORD,WORD with one of {', '.join(labels)}")
    return keywords


def report(
    labels: Sequence[str], parts: Sequence[int | None], remarks: Sequence[str], out: Path, by: str, notes: Sequence[str]
) -> str:
    counts = Counter(parts)
    lines = [f"{'label':<12}{'images':>8}  {by}"]
    lines += [f"{name:<12}{counts[i]:>8}  {remarks[i]}".rstrip() for i, name in enumerate(labels)]
    notes = [*notes, *(f"no image is {name}" for i, name in enumerate(labels) if not counts[i])]
    lines += [f"warning: {safe(note)}" for note in notes]
    return "\n".join([*lines, "", "next:", f"  {next_command(labels, out, by)}"])


def next_command(labels: Sequence[str], out: Path, by: str) -> str:
    """With noise levels that fall from coarse to fine, as the paper's do, where the labels have such an order."""
    options = f"--sga_manifest {shell_word(out / MANIFEST_NAME)}"
    ordered = by in ("frequency", "resolution")
    if tuple(labels) != DEFAULT_LABELS or not ordered:
        steps = [0.5 - i / (len(labels) - 1) if ordered else 0 for i in range(len(labels))]
        shifts = ",".join(f"{name}:{step:.3g}" for name, step in zip(labels, steps, strict=True))
        options += f" --sga_granularities {','.join(labels)} --sga_timestep_shift {shifts}"
    dataset = shell_word(out / DATASET_TOML)
    door = "accelerate launch -m sga_kohya.flux_train_network --config_file your.toml"
    return f"{door} --dataset_config {dataset} {options}"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct, 130 after Ctrl-C."""
    return run_command(
        "sga_kohya.partition", lambda: print(run(build_parser().parse_args(argv))), "nothing was written"
    )


if __name__ == "__main__":
    sys.exit(main())
