"""Complete settings to start from: python -m sga_kohya.presets list | show NAME | copy NAME DIR"""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sga_kohya.errors import SgaError
from sga_kohya.kit.cli import Parser, run_command, shell_word
from sga_kohya.kit.files import write_whole
from sga_kohya.kit.hints import closest
from sga_kohya.kit.shipped import shipped
from sga_kohya.kit.toml_file import toml_string

_EXAMPLES = {"plan": "run", "study": "study"}
"""Files of examples/evaluate that are given out like presets, and the command of evaluate that takes each."""
_MUSUBI = "sga_kohya.musubi "
_PROMPTS = re.compile(r'^sample_prompts = "(.+?)"', re.MULTILINE)


def preset_files() -> dict[str, Path]:
    """Name -> file: presets and dataset TOMLs by their stem, those for musubi-tuner behind those for sd-scripts; plans
    for evaluate; the kohya_ss GUI's configurations as NAME.json, sample prompts as NAME.txt.

    Raises SgaError when the installation has lost them.
    """
    folder, examples = shipped("presets"), shipped("examples")
    found = {path.stem: path for path in (*sorted(folder.glob("*.toml")), *sorted(folder.glob("musubi/*.toml")))}
    found |= {name: examples / "evaluate" / f"{name}.toml" for name in _EXAMPLES}
    return found | {
        path.name: path for path in (*sorted((folder / "gui").glob("*.json")), *sorted(folder.glob("*.txt")))
    }


def find_preset(name: str) -> Path:
    """The file of a preset. Raises SgaError naming the closest when there is none of that name."""
    files = preset_files()
    path = files.get(name.removesuffix(".toml"))
    if path is None:
        close = closest(name, files)
        hint = f"did you mean {close}?" if close else "see `python -m sga_kohya.presets list`"
        raise SgaError(f"no preset {name!r}: {hint}")
    return path


def title(path: Path) -> str:
    """The first line of a preset's own comment."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def door(path: Path) -> str | None:
    """What a preset's comment says to run, such as sga_kohya.flux_train_network; None for a dataset.

    For musubi-tuner it is a module and a script, such as `sga_kohya.musubi zimage_train_network`.
    """
    command = r"^#.*accelerate launch -m (sga_kohya\.\w+(?: \w+)?) --config_file"
    match = re.search(command, path.read_text(encoding="utf-8"), re.MULTILINE)
    return match.group(1) if match else None


def copy(name: str, folder: Path, force: bool = False) -> Path:
    """Copy a preset into a folder, which is made where there is none; whole or not at all.

    The sample prompts that it names come along, unless such a file is there, and are named in full: trainers seek them
    from where they are started. Raises SgaError when its own file exists there and force is not given.
    """
    source = find_preset(name)
    target = folder / source.name
    if target.exists() and not force:
        raise SgaError(f"{target} exists: name another folder, or overwrite it with --force")
    folder.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8")
    write_whole(target, _PROMPTS.sub(partial(_beside, folder), text) if source.suffix == ".toml" else text)
    return target


def _beside(folder: Path, line: re.Match[str]) -> str:
    """The line that names sample prompts, with those of the folder."""
    prompts = folder.resolve() / line[1]
    if not prompts.exists():
        write_whole(prompts, find_preset(line[1]).read_bytes())
    return f"sample_prompts = {toml_string(str(prompts))}"


def _next_step(target: Path) -> str:
    if target.suffix == ".json":
        return f"open {target} in the LoRA tab of the kohya_ss GUI, and fill in its paths"
    if target.stem in _EXAMPLES:
        return (
            f"fill in what is yours, then\n  python -m sga_kohya.evaluate {_EXAMPLES[target.stem]} {shell_word(target)}"
        )
    module, path = door(target), shell_word(target)
    if target.suffix == ".txt":
        return f"put your own words into it, and name it in your preset: sample_prompts = {toml_string(str(target))}"
    if module is None:
        return f"fill in its folders, and name it in your preset: dataset_config = {toml_string(str(target))}"
    caches = ", run the two commands at its top that cache" if module.startswith(_MUSUBI) else ""
    return (
        f"fill in the paths in {target}{caches}, then\n  python -m sga_kohya.doctor {path}\n"
        f"  accelerate launch -m {module} --config_file {path}"
    )


def _list() -> None:
    files = preset_files()
    shown = {name: path for name, path in files.items() if path.suffix == ".toml"}
    width = max(map(len, shown))
    for name, path in shown.items():
        print(f"  {name:<{width}}  {title(path)}")
    print("\nEach preset of sd-scripts but those for a card is there as NAME.json too, for the kohya_ss GUI.")
    print("Take one: python -m sga_kohya.presets copy NAME DIR")


def _build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sga_kohya.presets", description="Complete settings to start from.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is")
    show = commands.add_parser("show", help="print one")
    show.add_argument("name")
    take = commands.add_parser("copy", help="copy one into a folder, to fill in your paths")
    take.add_argument("name")
    take.add_argument("folder", type=Path, metavar="DIR")
    take.add_argument("--force", action="store_true", help="overwrite what is there")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.command == "list":
        _list()
    elif options.command == "show":
        print(find_preset(options.name).read_text(encoding="utf-8"), end="")
    else:
        target = copy(options.name, options.folder, options.force)
        print(f"{target} is written. Next: {_next_step(target)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for what the user can correct."""
    return run_command("sga_kohya.presets", lambda: _run(_build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
