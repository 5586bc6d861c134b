"""What any host is asked to draw with a trained model, and the words that the scripts of both share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sga_kohya.errors import SgaError
from sga_kohya.kit.toml_file import merge_sections, read_toml

TRAINER, INTERACTIVE, LISTED = "trainer", "interactive", "listed"
"""Protocols. A training script draws its sample images of step 0; or prompts are read one by one from standard input;
or all of them from a file."""


@dataclass(frozen=True)
class Sampling:
    """How images are made. width, height: pixels. scale: classifier-free guidance. config: training TOML."""

    script: str = "flux_minimal_inference.py"
    config: str = ""
    weights_as: str = ""
    width: int = 1024
    height: int = 1024
    steps: int = 20
    guidance: float = 3.5
    scale: float = 1.0
    negative: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One image to make. number: its place in this process's list, from 0."""

    number: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Script:
    """protocol: see above. folder: its option for the output folder. weights: its option for a trained adapter.

    end: what ends an interactive one. sizes: the letters of guidance and scale in a prompt's line. file_option: whether
    a prompt's line may name the file. refused: what no prompt may hold, because an option would begin there.
    """

    protocol: str
    folder: str = ""
    weights: str = ""
    end: str = ""
    sizes: Mapping[str, str] = field(default_factory=dict)
    file_option: bool = False
    refused: str = " --"

    @property
    def names_jobs(self) -> bool:
        """Whether the name of an image tells its job."""
        return self.protocol == TRAINER or self.file_option


class Sampler(Protocol):
    """What draws on one host. Modules are such: samplers.py of each host's folder."""

    @property
    def SCRIPTS(self) -> Mapping[str, Script]:  # noqa: N802
        """By the names of their files, which are in one folder of the host."""

    def check(self, sampling: Sampling) -> None:
        """Raises SgaError for what files alone show: nothing can be drawn."""

    def refuse_weights(self, sampling: Sampling, weights: Path) -> None:
        """Raises SgaError where the script would fail, minutes later, on a network that it does not know."""

    def arguments_of(
        self, sampling: Sampling, further: Mapping[str, Any], weights: Path | None, jobs: Sequence[Job], work: Path
    ) -> list[str]:
        """The command line behind the script's name. Writes what it refers to into `work`; see `finished`.

        further: the variant's own arguments, over those of [generate.arguments].
        """

    def finished(self, sampling: Sampling, jobs: Sequence[Job], work: Path) -> list[tuple[Job, Path]]:
        """The images that lie there, each with its job, in their order.

        Where names do not tell the job, only after the script has ended. Raises SgaError when they are not those asked
        for.
        """


def line_of(script: Script, sampling: Sampling, job: Job) -> str:
    """A prompt with its options, as interactive and listed scripts read it."""
    options: dict[str, Any] = {"w": sampling.width, "h": sampling.height, "s": sampling.steps, "d": job.seed}
    options |= {letter: getattr(sampling, name) for name, letter in script.sizes.items()}
    if sampling.negative:
        options["n"] = sampling.negative
    if script.file_option:
        options["f"] = f"{job.number:06d}.png"
    return " ".join([job.prompt, *(f"--{letter} {value}" for letter, value in options.items())])


def words_of_lines(
    script: Script, sampling: Sampling, arguments: Mapping[str, Any], jobs: Sequence[Job], work: Path
) -> list[str]:
    """For an interactive or a listed script, whose images will be in work/images."""
    arguments = {**arguments, script.folder: str(work / "images")}
    if script.protocol == INTERACTIVE:
        return to_words({**arguments, "interactive": True})
    lines = "".join(f"{line_of(script, sampling, job)}\n" for job in jobs)
    (work / "prompts.txt").write_text(lines, encoding="utf-8")
    return to_words({**arguments, "from_file": str(work / "prompts.txt")})


def to_words(arguments: Mapping[str, Any]) -> list[str]:
    """{"fp16": true, "n": 3, "list": [1, 2]} as --fp16 --n 3 --list 1 2; false leaves it out."""
    words = []
    for key, value in arguments.items():
        if value is not False:
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{key}", *map(str, values)]
    return words


def by_seeds(sampling: Sampling, jobs: Sequence[Job], work: Path) -> list[tuple[Job, Path]]:
    """The images of a listed script that names them time_seed.png or time_seed_000.png.

    All are decoded at the end, in the order of the list.
    """
    paths = sorted((work / "images").glob("*.png"))
    if not paths:
        return []  # it failed, and what it said tells why
    seeds = [(*path.stem.split("_"), "")[1] for path in paths]
    if seeds != [str(job.seed) for job in jobs]:
        raise SgaError(f"{sampling.script} made images of the seeds {seeds}, not the {len(jobs)} asked for")
    return list(zip(jobs, paths, strict=True))


def training_of(sampling: Sampling) -> tuple[Path, dict[str, Any]]:
    """The TOML of a training, and its settings. Raises SgaError where there is none."""
    if not sampling.config:
        raise SgaError(f"[generate]: config is missing: {sampling.script} needs the TOML of the training")
    path = Path(sampling.config)
    return path, merge_sections(read_toml(path, "[generate]: config"))
