"""One short run of every door on every version of sd-scripts found here, as a table.

    python tests/host/matrix.py [--only WORD ...] [--write-readme]

Versions are the default checkout and those beside it (`sd-scripts-NAME`). Results go to tests/host/matrix.json, from
which --write-readme writes the README's table of doors, running nothing.
A run passes when it trains two tuple steps with every seam reached, and saves a file that says how it was made.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import date
from pathlib import Path

from safetensors import safe_open
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.forked import python  # noqa: E402
from tests.host import conftest  # noqa: E402
from tests.host.data import LEVELS, write_dataset  # noqa: E402
from tests.host.doors import DOORS, SNR, Door  # noqa: E402

RESULTS = Path(__file__).with_name("matrix.json")
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- doors: tests/host/matrix.py -->", "<!-- /doors -->"
PASSED, ABSENT = "passed", "no such script"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="doors and versions whose name has it")
    parser.add_argument("--write-readme", action="store_true", help="write the README's table from the last results")
    options = parser.parse_args()
    if not options.write_readme:
        results = run_all(options.only)
        print(as_markdown(results))
        failed = [(d, v) for d, row in results["doors"].items() for v, r in row.items() if r not in (PASSED, ABSENT)]
        for door, version in failed:
            print(f"\n{door} on {version}: {results['doors'][door][version]}")
        return 1 if failed else 0
    write_readme(json.loads(RESULTS.read_text(encoding="utf-8")))
    return 0


def run_all(only: list[str]) -> dict:
    """Run what is asked for and keep earlier results of the rest. The file is written after each run."""
    checkouts = {name_of(path): path for path in (conftest.default_checkout(), *conftest.other_checkouts()) if path}
    if not checkouts:
        sys.exit(conftest.NO_CHECKOUT)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"doors": {}}
    chosen = [(d, v) for d in DOORS for v in checkouts if all(word in f"{d.name} {v}" for word in only)]
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder), checkouts)
        for number, (door, version) in enumerate(bar := tqdm(chosen, unit="run", file=sys.stdout)):
            bar.set_description(f"{door.name} {version}")
            place = Path(folder) / str(number)
            place.mkdir()
            result = run_one(door, checkouts[version], models, place)
            results["doors"].setdefault(door.name, {})[version] = result
            results["date"] = date.today().isoformat()
            write(RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def write_models(folder: Path, checkouts: dict[str, Path]) -> dict[str, Path]:
    checkout = next(iter(checkouts.values()))
    command = [*python(), str(conftest.RUNNER), "--checkout", str(checkout), "--write_models", str(folder)]
    conftest.start(command, folder, 180)
    return conftest.model_paths(folder)


def run_one(door: Door, checkout: Path, models: dict[str, Path], folder: Path) -> str:
    """PASSED, ABSENT or the reason."""
    if not (checkout / door.script).exists():
        return ABSENT
    dataset = write_dataset(folder / "data", [LEVELS, ("macro", "micro")])
    arguments = door.arguments(models, dataset, folder / "out", max_train_steps=2)
    command = [*python(), str(conftest.RUNNER), "--checkout", str(checkout), "--script", door.script]
    command += ["--door", "sga", "--", *conftest.to_arguments(arguments)]
    run = conftest.start(command, folder, 300, check=False)
    if run.returncode != 0:
        return (run.output.strip().splitlines() or [f"exit status {run.returncode}"])[-1][:200]
    with safe_open(folder / "out" / "tiny.safetensors", "pt") as file:
        said = file.metadata().get("ss_sga_modulated_by")
    return PASSED if said == door.modulation else f"the saved file says ss_sga_modulated_by = {said}"


def name_of(checkout: Path) -> str:
    """`v0.11.1` of a checkout named sd-scripts-v0.11.1, or what git or the default says."""
    suffix = checkout.name.partition("sd-scripts-")[2]
    return suffix or os.environ.get("SD_SCRIPTS_VERSION", "v0.11.1")


def as_markdown(results: dict) -> str:
    """The README's table of doors. `all` are the versions named below it."""
    versions = sorted({version for row in results["doors"].values() for version in row}, key=_order)
    lines = ["| door | trains | what it gets | tested on |", "|---|---|---|---|"]
    for door in DOORS:
        row = results["doors"].get(door.name, {})
        passed = [version for version in versions if row.get(version) == PASSED]
        kind = "tuples, loss weight (Eq. 32-33)" if door.modulation == SNR else "tuples, noise level (Eq. 29-31)"
        option = f" --model_type {door.model.lower()}" if door.model else ""
        module = f"`-m sga_kohya.{door.script.removesuffix('.py')}{option}`"
        lines.append(f"| {module} | {door.trains} | {kind} | {_ranges(passed, versions)} |")
    return "\n".join(lines)


def _order(version: str) -> tuple:
    numbers = tuple(int(part) for part in version.lstrip("v").split(".") if part.isdigit())
    return (not numbers, numbers)


def _ranges(passed: list[str], versions: list[str]) -> str:
    if passed == versions:
        return "all"
    if passed and passed == versions[-len(passed) :]:
        return f"{passed[0]} and newer"
    return ", ".join(passed) or "none"


def write_readme(results: dict) -> None:
    """Put the table between the two comments of the README."""
    text = README.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"README.md needs the lines {BEGIN} and {END}, once each")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    versions = sorted({v for row in results["doors"].values() for v in row}, key=_order)
    note = f"Versions tested: {', '.join(versions)}, on {results['date']}."
    write(README, f"{head}{BEGIN}\n{as_markdown(results)}\n\n{note}\n{END}{tail}")


def write(path: Path, text: str) -> None:
    unfinished = path.with_suffix(path.suffix + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
