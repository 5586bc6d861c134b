"""The command line: python -m sga_kohya.doctor CONFIG [--script NAME] [any option of the door]"""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.doctor.findings import Findings
from sga_kohya.doctor.of_musubi import Musubi
from sga_kohya.doctor.of_sd_scripts import SdScripts
from sga_kohya.doctor.patient import Patient
from sga_kohya.errors import SgaError
from sga_kohya.hosts.musubi.families import REFUSED, script_of_network
from sga_kohya.hosts.musubi.families import SCRIPTS as MUSUBI_SCRIPTS
from sga_kohya.kit.cli import CORRECT, FOUND, OK, run_command
from sga_kohya.kit.hints import command_meant
from sga_kohya.kit.text import counted
from sga_kohya.options import read_options, words_of

MUSUBI = "musubi"
USAGE = """usage: python -m sga_kohya.doctor CONFIG.toml [--script NAME.py] [OPTIONS]
       python -m sga_kohya.doctor musubi SCRIPT [OPTIONS]

Checks a set-up without training or loading a model, and says all of it at once. CONFIG.toml is what you give to a door
as --config_file, OPTIONS what else you give to it. --script names the trainer where the settings do not tell; `musubi`
is for musubi-tuner, as in its door. The exit status is 1 when something cannot work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 when there are errors, 2 when it was called in a wrong way, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command("sga_kohya.doctor", lambda: _run(words), "nothing was changed")


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return OK if words else CORRECT
    if words[0] != MUSUBI and not words[0].startswith("--"):
        if not Path(f"{words[0]}.toml").exists() and command_meant(words[0], [MUSUBI]):
            raise SgaError(f"there is no file {words[0]}: did you mean {MUSUBI}?")
        words[:1] = ["--config_file", words[0]]
    findings = examine(words)
    print(*findings.lines(), sep="\n")
    errors, warnings = findings.count("error"), findings.count("warning")
    print(f"\n{counted(errors, 'error')}, {counted(warnings, 'warning')}" + ("" if errors else ": this can train"))
    return FOUND if errors else OK


def examine(words: Sequence[str]) -> Findings:
    """All that can be said of a command line, as it would be given to a door. Nothing is raised."""
    findings, words, patient = Findings(), *_patient(list(words))
    options: dict[str, Any] = {}
    with findings.about("options"):
        options = read_options(words, patient.name)
    if findings.found:
        return findings  # without the settings there is nothing to examine
    config = SgaConfig()
    with findings.about("options"):
        config = SgaConfig.from_options(options)
    if script_of_network(options.get("network_module")):
        patient = Musubi()
    script, found = "", False
    with findings.about("trainer"):
        script = patient.script(options)
    with findings.about("settings"):
        for problem in patient.problems(script, options, config):
            findings.error(problem)
        for text in patient.advice(options, config):
            findings.warning(text)
    fits = False
    with findings.about(patient.name):
        findings.ok(patient.find(options))
        found = True
        if script:
            findings.ok(patient.has(script))
            fits = True
    from sga_kohya.doctor import environment  # torch only from here on

    if found:
        with findings.about("packages"):
            environment.check_packages(patient.name, patient.pins(), options, findings)
    with findings.about("GPU"):
        environment.check_gpu(options, findings)
    if fits:
        print(f"sga_kohya: asking {script} and reading the images …", file=sys.stderr, flush=True)
        _ask_the_host(patient, script, words, config, findings)
    return findings


def _patient(words: list[str]) -> tuple[list[str], Patient]:
    """The words without what only says which trainer is meant, and that trainer."""
    if words[:1] == [MUSUBI]:
        return [*(["--script", words[1]] if len(words) > 1 else []), *words[2:]], Musubi()
    given = words_of(words)
    script = Path(str(given.get("script", ""))).stem
    return words, Musubi() if "musubi_tuner" in given or script in {**MUSUBI_SCRIPTS, **REFUSED} else SdScripts()


def _ask_the_host(patient: Patient, script: str, words: Sequence[str], config: SgaConfig, findings: Findings) -> None:
    """Everything for which the trainer must be imported; what it says meanwhile is kept from the page."""
    from sga_kohya.doctor import data, environment, settings
    from sga_kohya.hosts.toml_keys import parse, settings_of_file, wrong_settings

    said, given = io.StringIO(), _without_script(words)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.ExitStack() as stack:
        installation = None
        with findings.about("seams"):
            installation = stack.enter_context(patient.install(config, script))
            findings.ok(f"every place where SGA enters {patient.name} is as expected")
        if installation is None:
            return
        args = None
        with findings.about("options"):
            parser = patient.parser(script)
            in_toml = settings_of_file(read_options(given).get("config_file"), patient.name)
            for level, text in wrong_settings(parser, in_toml, f"{Path(script).stem}.py"):
                getattr(findings, level)(text)
            args = parse(parser, in_toml, given)
            patient.check(script, config, args)
            findings.ok(f"{script} reads them: {len(in_toml)} keys of the TOML, {len(given)} words")
        if args is None:
            return
        with findings.about("models"):
            settings.check_models(script, args, patient.files(script, args), findings)
        with findings.about("network"):
            settings.check_network(*patient.network(args), args, findings)
        with findings.about("optimizer"):
            settings.check_optimizer(patient.makers(), args, findings)
        steps = 0
        with findings.about("data"):
            if any(patient.data_problems(read_options(words))):
                findings.warning("not looked at, because of the errors above")
            else:
                steps = data.check_data(patient, script, args, given, config, installation.session, findings)
        with findings.about("disk"):
            size = settings.checkpoint_size(getattr(args, patient.model), args)
            folder, count = Path(args.output_dir or "."), data.count_checkpoints(args, steps)
            environment.check_disk(folder, size, count, findings)


def _without_script(words: Sequence[str]) -> list[str]:
    """The door's words: --script is the doctor's own."""
    kept, skip = [], False
    for word in words:
        if skip or word.partition("=")[0] == "--script":
            skip = not skip and word == "--script"
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
