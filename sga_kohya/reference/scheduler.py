"""A diffusers scheduler for models trained on another path than the straight one (arXiv:2605.15193)."""

from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
)
from torch import Tensor

from sga_kohya.equations.paths import PATHS, as_it_came, tokens_of


class PathScheduler(FlowMatchEulerDiscreteScheduler):
    """diffusers' flow-matching scheduler, noise levels and all, with the step of a path: its config's `path`.

    Latents may be (B, C, H, W), (B, C, F, H, W) or packed as FluxPipeline has them, (B, L, C * 2 * 2). A pipeline shows
    the model its latents before the first step, so a spherical path needs them from `prior`: pass what it returns as
    the pipeline's argument `latents`.
    """

    @register_to_config
    def __init__(
        self,
        path: str = "spherical-slerp",
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
    ):
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            shift=shift,
            use_dynamic_shifting=use_dynamic_shifting,
            base_shift=base_shift,
            max_shift=max_shift,
            base_image_seq_len=base_image_seq_len,
            max_image_seq_len=max_image_seq_len,
        )
        self.path = PATHS[path]

    def prior(self, noise: Tensor) -> Tensor:
        """Where sampling starts, for Gaussian noise of the latents' shape, (B, C, H, W) or packed (B, tokens, C)."""
        return as_it_came(self.path.prior(tokens_of(noise)), noise)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        *args: Any,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]:
        """One step along the path, of samples as in `prior`; the last one ends at what is to be decoded.

        Other arguments are not used.
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        index = self.step_index
        sigma, after = self.sigmas[index], self.sigmas[index + 1]
        x = self.path.step(tokens_of(sample), (after - sigma) * tokens_of(model_output).float())
        if after == 0:
            x = self.path.end(x)
        self._step_index = index + 1
        moved = as_it_came(x, sample)
        if not return_dict:
            return (moved,)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=moved)  # type: ignore[arg-type]  # any device and dtype
