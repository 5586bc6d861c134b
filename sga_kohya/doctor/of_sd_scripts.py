"""sd-scripts, as the doctor sees it."""

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sga_kohya.config import SgaConfig
from sga_kohya.doctor.patient import Files, Maker, Pins
from sga_kohya.errors import SgaError
from sga_kohya.hosts.sd_scripts.advice import advice
from sga_kohya.hosts.sd_scripts.checkout import Checkout, find_checkout
from sga_kohya.hosts.sd_scripts.checks import data_problems, problems
from sga_kohya.hosts.sd_scripts.families import SCRIPTS, WORD, check_modulation, guess_script, needed_options
from sga_kohya.options import HOST

if TYPE_CHECKING:
    from sga_kohya.hosts.seam import Installation
    from sga_kohya.training.host import Levels
    from sga_kohya.training.session import Session


class SdScripts:
    """See Patient. What needs torch is imported where it is asked for."""

    name = HOST
    model = "pretrained_model_name_or_path"
    checkout: Checkout

    def script(self, options: Mapping[str, Any]) -> str:
        script = str(options.get("script") or guess_script(options))
        script = script if script.endswith(".py") else f"{script}.py"
        if script not in SCRIPTS:
            raise SgaError(f"--script {script}: write one of {', '.join(SCRIPTS)}")
        # as the door does
        return str(SCRIPTS[script]) if SCRIPTS[script] and options.get("network_module") else script

    def problems(self, script: str, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        return problems(options, config)

    def data_problems(self, options: Mapping[str, Any]) -> Iterator[str]:
        return data_problems(options)

    def advice(self, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        return advice(options)

    def find(self, options: Mapping[str, Any]) -> str:
        self.checkout = find_checkout(options.get("sd_scripts"))
        return f"{self.checkout.version()} in {self.checkout.root}"

    def has(self, script: str) -> str:
        return f"{self.checkout.script(script).name} and its training loop"

    def pins(self) -> tuple[str, Pins]:
        from sga_kohya.doctor.environment import pins_in

        file = self.checkout.root / "requirements.txt"
        return file.name, pins_in(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [])

    def install(self, config: SgaConfig, script: str) -> "Installation":
        from sga_kohya.hosts.sd_scripts.install import install_for

        return install_for(config, self.checkout, script)

    def parser(self, script: str) -> argparse.ArgumentParser:
        from sga_kohya.hosts.sd_scripts.settings import host_parser

        return host_parser(self.checkout.root / script)

    def check(self, script: str, config: SgaConfig, args: argparse.Namespace) -> None:
        check_modulation(config, args)

    def files(self, script: str, args: argparse.Namespace) -> Files:
        from sga_kohya.hosts.sd_scripts.settings import FILES

        return Files(needed_options(script, args), FILES, frozenset([self.model]), frozenset([WORD]))

    def network(self, args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
        return str(getattr(args, "network_module", None) or ""), ("create_network",)

    def makers(self) -> tuple[Maker, Maker]:
        train_util = importlib.import_module("library.train_util")
        return train_util.get_optimizer, train_util.get_scheduler_fix

    def data(self, script: str, args: argparse.Namespace, words: Sequence[str], session: "Session") -> tuple[int, int]:
        from sga_kohya.hosts.sd_scripts.build import build, check_bucket_steps, check_caches

        group = build(args)
        check_bucket_steps(self.checkout.root / script, group)
        check_caches(self.checkout.root / script, args, group)
        return group.num_train_images, len(group)

    def levels(self, script: str, args: argparse.Namespace, config: SgaConfig) -> "Levels":
        from sga_kohya.hosts.sd_scripts.levels import Levels

        return Levels(args, config)
