"""Options that were given and that a run would pass over: an error, because whoever gave them meant something."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from sga_kohya.config import SgaConfig
from sga_kohya.errors import SgaError
from sga_kohya.reference.folders import has_vae
from sga_kohya.reference.models import learns_flow
from sga_kohya.reference.options import RunOptions
from sga_kohya.words import SNR_GAMMA, TIMESTEP_SHIFT


class _Run(NamedTuple):
    """from_scratch: no --model. flow: it learns a velocity. pooled: its latents are averaged pixels."""

    from_scratch: bool
    flow: bool
    pooled: bool


# Options, when a run uses them, and what to say where it does not.
_Rule = tuple[tuple[str, ...], Callable[[_Run], bool], str]

_OWN: tuple[_Rule, ...] = (
    (("width", "depth"), lambda run: run.from_scratch, "is of a model from scratch, and --model has its own"),
    (
        ("network_dim", "network_alpha"),
        lambda run: not run.from_scratch,
        "is of an adapter on a --model, and here is none",
    ),
    (("pool",), lambda run: run.pooled, "averages pixels where there is no VAE, and this run has one"),
)
_HOSTS = "is for sd-scripts and musubi-tuner, not for this trainer"
_SGA: tuple[_Rule, ...] = (
    ((TIMESTEP_SHIFT,), lambda run: run.flow, "moves a flow's noise levels; this model takes --sga_snr_gamma"),
    ((SNR_GAMMA,), lambda run: not run.flow, "weighs a noise schedule's loss; this flow takes --sga_timestep_shift"),
    (("flow_snr_weight", "show_timesteps", "save_at_hours", "stop_at_hours"), lambda run: False, _HOSTS),
)


def refuse_unused(given: Collection[str], options: RunOptions, config: SgaConfig) -> None:
    """given: names of the options on the command line. Raises SgaError that names all of those that the run has no use
    for. With SGA off its own are no concern, so that a baseline is the same command with --sga=false."""
    pooled = options.vae is None and not (options.model and has_vae(options.model))
    run, changed = _Run(options.model is None, learns_flow(options), pooled), _changed(config)
    problems = [f"--{name} {why}" for names, used, why in _OWN if not used(run) for name in names if name in given]
    problems += [
        f"--sga_{name} {why}" for names, used, why in _SGA if not used(run) for name in names if name in changed
    ]
    if problems:
        raise SgaError(f"{'; '.join(problems)}: leave {'them' if len(problems) > 1 else 'it'} out")


def _changed(config: SgaConfig) -> set[str]:
    """Settings of SGA that differ from the default."""
    default: Any = SgaConfig()
    return {name for name, value in vars(config).items() if config.enabled and value != getattr(default, name)}
