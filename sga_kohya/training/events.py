"""What happens in a training step, said alike by every host, and what may hear it.

A host's wrappers only translate between its functions and these; what SGA does stands once, in parts. The order in
which parts hear is that of `parts.parts_of`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sga_kohya.equations.interference import GaussianPath, flow_path
from sga_kohya.tuples.step import SubBatch


@dataclass(frozen=True)
class Run:
    """What a host says of a run before it loads a model.

    modulation: the option whose table modulates this model, timestep_shift (Eq. 29-31) or snr_gamma (Eq. 32-33).
    """

    modulation: str


@dataclass(frozen=True)
class Draw:
    """What is known of a batch before its noise levels are drawn.

    sub_batch: None outside a training step. scale: s of sigmoid(s * z) where the host's mode has one. offsets: (B,),
    the host's own shifts of the logit, which win where they are not 0. low, high: the range that the host keeps sigma
    in. weighted: granularities weight this model's loss and do not move its noise levels.
    """

    sub_batch: SubBatch | None
    scale: float = 1.0
    offsets: Tensor | None = None
    low: float = 0.0
    high: float = 1.0
    weighted: bool = False


@dataclass
class Noised:
    """A batch at its noise levels, as the host made it and as it takes it back.

    latents, noise, x: (B, C, …). sigma: (B,), in [0, 1], of a U-Net its share of the timesteps. target: what the host
    will compare with, None where no part asks. sign: 1 where the model predicts noise - latents, -1 where latents -
    noise. offset: what the host adds to the prediction and to a target of its own making, None for nothing. velocity:
    (B, C, …), float32, what a path puts in the target's place. path: what x is made of at a noise level, and what the
    model predicts there, None where the loss compares something else.
    """

    draw: Draw
    latents: Tensor
    noise: Tensor
    x: Tensor
    sigma: Tensor
    target: Tensor | None = None
    sign: int = 1
    offset: Tensor | None = None
    velocity: Tensor | None = None
    path: Callable[[Tensor], GaussianPath] | None = flow_path

    @property
    def sub_batch(self) -> SubBatch | None:
        return self.draw.sub_batch

    def column(self, value: Tensor) -> Tensor:
        """(B,) so that it multiplies the latents, sample by sample."""
        return value.view(-1, *[1] * (self.latents.ndim - 1))


class Part:
    """Hears what happens; each method may be left as it is. Methods are called in every process.

    needs: the events that a run with this part must have reached when its first step ends, or it would not be SGA.
    """

    needs: frozenset[str] = frozenset()

    def started(self, run: Run) -> None:
        """Arguments are parsed, no model is loaded: refuse here what does not fit, by SgaError."""

    def moves(self, draw: Draw) -> bool:
        """Whether `noised` will change x or sigma of a batch drawn so. The host then computes in float32."""
        return False

    def noised(self, batch: Noised) -> None:
        """A batch has its noise levels. Change x, sigma and velocity in place."""

    def compared(self, batch: Noised, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss is about to be taken. Returns what it is taken of, each (B, C, …)."""
        return prediction, target

    def weighed(self, batch: Noised | None, sub_batch: SubBatch, loss: Tensor) -> Tensor:
        """The loss of a training batch before the host weights, masks and averages it, (B, …) or already a number."""
        return loss

    def metadata(self) -> dict[str, str]:
        """`ss_sga_*` entries for a saved model."""
        return {}
