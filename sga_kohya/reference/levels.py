"""The schedulers of diffusers from which noise levels come: Euler's of a flow, DDIM's of a noise schedule."""

from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler


def euler(scheduler: Any) -> Any:
    """The scheduler of a flow, or Euler's over its noise levels."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return scheduler
    return FlowMatchEulerDiscreteScheduler(shift=scheduler.config.get("flow_shift", 1.0))


def ddim(config: Any, schedule: dict[str, Any]) -> Any:
    """schedule: what the user asked for, over the model's own. The last step must be sampled for zero terminal SNR."""
    return DDIMScheduler.from_config(config, clip_sample=False, timestep_spacing="trailing", **schedule)
