"""One short run of every script with a tiny model, on every musubi-tuner found here, as a table.

    python tests/musubi/matrix.py [--only WORD ...] [--write-readme]

Versions are the default checkout and those beside it (`musubi-tuner-NAME`). Results go to tests/musubi/matrix.json,
from which --write-readme writes the README's table, running nothing.
"""

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2]))

from sga_kohya.hosts.musubi.families import SCRIPTS  # noqa: E402
from tests.host.matrix import _order, _ranges, write  # noqa: E402
from tests.musubi import conftest  # noqa: E402
from tests.musubi.stacks import RUNS, STACKS  # noqa: E402

RESULTS = Path(__file__).with_name("matrix.json")
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- scripts: tests/musubi/matrix.py -->", "<!-- /scripts -->"
TRAINED, INSTALLED, ABSENT = "trained", "installed", "absent"
KINDS = {"_train_network": "adapter", "_train": "full fine-tune"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="versions whose name has it")
    parser.add_argument("--write-readme", action="store_true", help="write the README's table from the last results")
    options = parser.parse_args()
    if options.write_readme:
        write_readme(json.loads(RESULTS.read_text(encoding="utf-8")))
        return 0
    results = run_all(options.only)
    print(as_markdown(results))
    return 0


def run_all(only: list[str]) -> dict:
    """Run what is asked for and keep earlier results of the rest. The file is written after each version."""
    tuners = {name_of(path): path for path in (conftest.default_tuner(), *conftest.other_tuners()) if path}
    if not tuners:
        sys.exit(conftest.NO_TUNER)
    if conftest.own_transformers() is None:
        sys.exit(conftest.NO_TRANSFORMERS)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"versions": {}}
    chosen = [version for version in tuners if all(word in version for word in only)]
    for version in (bar := tqdm(chosen, unit="version", file=sys.stdout)):
        bar.set_description(version)
        with tempfile.TemporaryDirectory() as folder:
            results["versions"][version] = of_version(tuners[version], Path(folder))
        results["date"] = date.today().isoformat()
        write(RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def of_version(tuner: Path, folder: Path) -> dict[str, str]:
    """Script -> TRAINED, INSTALLED (its seams alone), ABSENT, or what went wrong."""
    server = conftest.Server(tuner)
    answer = folder / "seams.json"
    server.do(folder, [{"check": "seams", "out": answer, "tuner": str(tuner)}])
    found = {script: result for script, (result, _) in json.loads(answer.read_text()).items()}
    for script, options in RUNS.items():
        if found[script] == INSTALLED:
            found[script] = train(server, folder, script, options)
    server.close()
    return found


def train(server: conftest.Server, folder: Path, script: str, options: dict[str, Any]) -> str:
    stack, out = options["stack"], folder / script
    job = {"write": folder / stack, "stack": stack, "groups": conftest.GROUPS, "sizes": conftest.SIZES}
    arguments = {**conftest.COMMON, **STACKS[stack].arguments(folder / stack), "output_dir": out}
    arguments |= {"max_train_steps": 2, "max_train_epochs": None}
    arguments |= {name: value for name, value in options.items() if name != "stack"}
    try:
        server.do(folder, [job, {"door": "sga", "stack": stack, "script": script, "args": arguments}])
    except pytest.fail.Exception as error:
        return str(error).strip().splitlines()[-1][:200]
    with safe_open(out / "tiny.safetensors", "pt") as file:
        said = file.metadata().get("ss_sga_modulated_by")
    return TRAINED if said == "timestep_shift" else f"the saved file says ss_sga_modulated_by = {said}"


def name_of(tuner: Path) -> str:
    return tuner.name.partition("musubi-tuner-")[2] or "v0.3.4"


def as_markdown(results: dict) -> str:
    """The README's table. `all` are the versions named below it."""
    versions = sorted(results["versions"], key=_order)
    lines = ["| script | trains | on | a tiny model trained on |", "|---|---|---|---|"]
    for script, family in SCRIPTS.items():
        trained = [version for version in versions if results["versions"][version].get(script) == TRAINED]
        kind = next(text for end, text in KINDS.items() if script.endswith(end))
        data = "images and clips" if STACKS[RUNS[script]["stack"]].videos else "images"
        lines.append(f"| `{script}` | {family.name} {kind} | {data} | {_ranges(trained, versions)} |")
    return "\n".join(lines)


def write_readme(results: dict) -> None:
    """Put the table between the two comments of the README."""
    text = README.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"README.md needs the lines {BEGIN} and {END}, once each")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    versions = sorted(results["versions"], key=_order)
    note = f"Versions tested: {', '.join(versions)} (of 2026-07-14), on {results['date']}."
    write(README, f"{head}{BEGIN}\n{as_markdown(results)}\n\n{note}\n{END}{tail}")


if __name__ == "__main__":
    sys.exit(main())
