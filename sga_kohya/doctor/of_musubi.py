"""musubi-tuner, as the doctor sees it."""

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sga_kohya.config import SgaConfig
from sga_kohya.doctor.patient import Files, Maker, Pins
from sga_kohya.errors import SgaError
from sga_kohya.hosts.musubi.checkout import Tuner, find_tuner
from sga_kohya.hosts.musubi.checks import MODELS, advice, data_problems, problems
from sga_kohya.hosts.musubi.families import HOST, SCRIPTS, check_mode, refuse, script_of_network

if TYPE_CHECKING:
    from sga_kohya.hosts.seam import Installation
    from sga_kohya.training.host import Levels
    from sga_kohya.training.session import Session

# Read for sample images alone; the cache scripts have options of their own.
_FOR_SAMPLES: tuple[str, ...] = ("vae", "t5", "clip", "byt5", "image_encoder", "turbo_dit", "unconditional_dit")
_FOR_SAMPLES += ("text_encoder", "text_encoder1", "text_encoder2", "text_encoder_qwen", "text_encoder_clip")
_CREATE = ("create_arch_network", "create_network")  # the second of LyCORIS


class Musubi:
    """See Patient. What needs torch is imported where it is asked for."""

    name = HOST
    model = "dit"
    tuner: Tuner

    def script(self, options: Mapping[str, Any]) -> str:
        script = Path(str(options.get("script") or script_of_network(options.get("network_module")) or "")).stem
        if not script:
            raise SgaError("which trainer is this for? Add --script, such as --script flux_2_train_network")
        refuse(script)
        return script

    def problems(self, script: str, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        return problems(script, options, config)

    def data_problems(self, options: Mapping[str, Any]) -> Iterator[str]:
        return data_problems(options)

    def advice(self, options: Mapping[str, Any], config: SgaConfig) -> Iterator[str]:
        return advice(options, config)

    def find(self, options: Mapping[str, Any]) -> str:
        self.tuner = find_tuner(options.get("musubi_tuner"))
        return f"{self.tuner.version()} in {self.tuner.modules}"

    def has(self, script: str) -> str:
        return self.tuner.module(script)

    def pins(self) -> tuple[str, Pins]:
        from sga_kohya.doctor.environment import pins_in

        name, lines = self.tuner.requirements()
        return name, pins_in(lines)

    def install(self, config: SgaConfig, script: str) -> "Installation":
        from sga_kohya.hosts.musubi.examine import install_to_examine

        # With all of SGA off no seam would see the data.
        seen = config if config.active else replace(config, enabled=True, tuples=True)
        return install_to_examine(seen, self.tuner, script)

    def parser(self, script: str) -> argparse.ArgumentParser:
        from sga_kohya.hosts.musubi.examine import host_parser

        return host_parser(self.tuner.module(script))

    def check(self, script: str, config: SgaConfig, args: argparse.Namespace) -> None:
        check_mode(config, args, SCRIPTS[script])

    def files(self, script: str, args: argparse.Namespace) -> Files:
        samples = _FOR_SAMPLES if args.sample_prompts else ()
        return Files([self.model], [*MODELS, *samples], frozenset(samples))

    def network(self, args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
        name = str(getattr(args, "network_module", None) or "")
        return (f"musubi_tuner.{name}" if name.startswith("networks.") else name), _CREATE

    def makers(self) -> tuple[Maker, Maker]:
        trainer = importlib.import_module("musubi_tuner.hv_train_network").NetworkTrainer()
        return trainer.get_optimizer, trainer.get_lr_scheduler

    def data(self, script: str, args: argparse.Namespace, words: Sequence[str], session: "Session") -> tuple[int, int]:
        from sga_kohya.hosts.musubi.examine import run_to_models

        run_to_models(self.tuner.module(script), words, args)
        group: Any = vars(session.data())["group"]
        return group.num_train_items, len(group)

    def levels(self, script: str, args: argparse.Namespace, config: SgaConfig) -> "Levels":
        from sga_kohya.hosts.musubi.levels import Levels

        return Levels(args, config, SCRIPTS[script])
