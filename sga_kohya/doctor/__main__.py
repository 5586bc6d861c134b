"""The command line: python -m sga_kohya.doctor CONFIG [--script NAME] [any option of the door]"""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sga_kohya.config import SgaConfig
from sga_kohya.doctor.findings import Findings
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.advice import advice
from sga_kohya.hosts.sd_scripts.checkout import Checkout, find_checkout
from sga_kohya.hosts.sd_scripts.checks import data_problems, problems
from sga_kohya.hosts.sd_scripts.families import SCRIPTS, guess_script
from sga_kohya.kit.cli import CORRECT, FOUND, OK, run_command
from sga_kohya.options import read_options

USAGE = """usage: python -m sga_kohya.doctor CONFIG.toml [--script NAME.py] [OPTIONS]

Checks a set-up without training or loading a model, and says all of it at once. CONFIG.toml is what you give to a door
as --config_file, OPTIONS what else you give to it. --script names the trainer where the settings do not tell.
The exit status is 1 when something cannot work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 when there are errors, 2 when it was called in a wrong way, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command("sga_kohya.doctor", lambda: _run(words), "nothing was changed")


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return OK if words else CORRECT
    if not words[0].startswith("--"):
        words[:1] = ["--config_file", words[0]]
    findings = examine(words)
    print(*findings.lines(), sep="\n")
    errors, warnings = findings.count("error"), findings.count("warning")
    print(f"\n{errors} errors, {warnings} warnings" + ("" if errors else ": this can train"))
    return FOUND if errors else OK


def examine(words: Sequence[str]) -> Findings:
    """All that can be said of a command line, as it would be given to a door. Nothing is raised."""
    findings = Findings()
    options: dict[str, Any] = {}
    with findings.about("options"):
        options = read_options(words)
    if findings.found:
        return findings  # without the settings there is nothing to examine
    config = SgaConfig()
    with findings.about("options"):
        config = SgaConfig.from_options(options)
    with findings.about("settings"):
        for problem in problems(options, config):
            findings.error(problem)
        for text in advice(options):
            findings.warning(text)
    script, checkout = "", None
    with findings.about("trainer"):
        script = _script(options)
    with findings.about("sd-scripts"):
        checkout = find_checkout(options.get("sd_scripts"))
        findings.ok(f"{checkout.version()} in {checkout.root}")
        if script:
            findings.ok(f"{checkout.script(script).name} and its training loop")
    from sga_kohya.doctor import environment  # torch only from here on

    if checkout is not None:
        with findings.about("packages"):
            environment.check_packages(checkout.root / "requirements.txt", options, findings)
    with findings.about("GPU"):
        environment.check_gpu(options, findings)
    if script and checkout is not None and (checkout.root / script).is_file():
        print(f"sga_kohya: asking {script} and reading the images …", file=sys.stderr, flush=True)
        _ask_the_host(checkout, script, words, config, findings)
    return findings


def _script(options: dict[str, Any]) -> str:
    script = str(options.get("script") or guess_script(options))
    script = script if script.endswith(".py") else f"{script}.py"
    if script not in SCRIPTS:
        raise SgaError(f"--script {script}: write one of {', '.join(SCRIPTS)}")
    if SCRIPTS[script] and options.get("network_module"):
        return str(SCRIPTS[script])  # as the door does
    return script


def _ask_the_host(checkout: Checkout, script: str, words: Sequence[str], config: SgaConfig, findings: Findings) -> None:
    """Everything for which sd-scripts must be imported; what it says meanwhile is kept from the page."""
    from sga_kohya.doctor import data, environment, settings
    from sga_kohya.hosts.sd_scripts.families import check_modulation
    from sga_kohya.hosts.sd_scripts.install import install_for
    from sga_kohya.hosts.sd_scripts.settings import host_parser, parse
    from sga_kohya.hosts.toml_keys import settings_of_file, wrong_settings

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.ExitStack() as stack:
        installation = None
        with findings.about("seams"):
            installation = stack.enter_context(install_for(config, checkout, script))
            findings.ok("every place where SGA enters sd-scripts is as expected")
        if installation is None:
            return
        args = None
        with findings.about("options"):
            parser = host_parser(checkout.root / script)
            given = _without_script(words)
            in_toml = settings_of_file(read_options(given).get("config_file"))
            for level, text in wrong_settings(parser, in_toml):
                getattr(findings, level)(text)
            args = parse(parser, in_toml, given)
            check_modulation(config, args)
            findings.ok(f"{script} reads them: {len(in_toml)} keys of the TOML, {len(given)} words")
        if args is None:
            return
        with findings.about("models"):
            settings.check_models(script, args, findings)
        with findings.about("network"):
            settings.check_network(args, findings)
        steps = 0
        with findings.about("data"):
            if any(data_problems(read_options(words))):
                findings.warning("not looked at, because of the errors above")
            else:
                steps = data.check_data(checkout.root / script, args, config, installation.session, findings)
        with findings.about("disk"):
            count = data.count_checkpoints(args, steps)
            environment.check_disk(Path(args.output_dir or "."), settings.checkpoint_size(args), count, findings)


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
