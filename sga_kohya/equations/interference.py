"""Who pulls at a point: alpha_xi, u_xi, Delta_xi and Omega of Appendix A and B of arXiv:2603.10785, in log space.

The data are N latents z_k in R^d with a label each; any labelling is a partition (0.A.3). Two facts to say wherever
these figures are shown. (1) alpha is one-hot below a noise level, see `one_hot_sigma`, that is close to 1 for latents
of real size, so that the cross terms of a single point vanish over most of training. (2) Latents of different shape
live in different spaces: a posterior is over latents of one shape.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianPath:
    """A Gaussian path x = mean z + std eps and what the model predicts on it, from_x x + from_z z; (B,) each."""

    mean: Tensor
    std: Tensor
    from_x: Tensor
    from_z: Tensor


def flow_path(sigma: Tensor) -> GaussianPath:
    """sd-scripts' x = (1 - s) z + s eps and its velocity u(x|z) = eps - z = (x - z) / s. sigma: (B,), in (0, 1]."""
    return GaussianPath(1 - sigma, sigma, 1 / sigma, -1 / sigma)


def diffusion_path(alphas_cumprod: Tensor, v_prediction: bool = False) -> GaussianPath:
    """SDXL's: mean sqrt(abar) z, variance 1 - abar; eps = (x - mean z) / std, or v = mean eps - std z.

    alphas_cumprod: (B,), abar of each timestep, in [0, 1).
    """
    mean, std = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    return (
        GaussianPath(mean, std, mean / std, -1 / std) if v_prediction else GaussianPath(mean, std, 1 / std, -mean / std)
    )


def log_likelihood(x: Tensor, latents: Tensor, path: GaussianPath) -> Tensor:
    """l_k = -|x - mean z_k|^2 / (2 std^2), the exponent of Eq. 10. x: (B, d). latents: (n, d). Returns (B, n).

    The difference is taken before it is squared; |x|^2 expanded would drown it. Where x was made from a known latent,
    `relative_log_likelihood` costs less.
    """
    rows = [
        (point - mean * latents).square().sum(1) / (-2 * std * std)
        for point, mean, std in zip(x, path.mean, path.std, strict=True)
    ]
    return torch.stack(rows)


def relative_log_likelihood(
    noise: Tensor, source: Tensor, latents: Tensor, path: GaussianPath, squared: Tensor | None = None
) -> Tensor:
    """l_k - l_i for x = mean z_i + std eps: -(r^2 |z_i - z_k|^2 / 2 + r <eps, z_i - z_k>), r = mean / std.

    noise, source: (B, d), eps and z_i. latents: (n, d). Returns (B, n), 0 at the source; nothing as large as |x|^2 has
    to cancel. squared: (B, n), |z_i - z_k|^2 where it is known for many points at once; then all that is left is one
    (B, d) x (d, n) product, a little less exact.
    """
    ratio = (path.mean / path.std)[:, None]
    if squared is None:
        squared = squared_distances(source, latents)
        ahead = torch.stack([(point - latents) @ eps for point, eps in zip(source, noise, strict=True)])
    else:
        ahead = (noise * source).sum(1, keepdim=True) - noise @ latents.T
    return -(ratio.square() * squared / 2 + ratio * ahead)


def squared_distances(source: Tensor, latents: Tensor) -> Tensor:
    """|z_i - z_k|^2. source: (B, d). latents: (n, d). Returns (B, n); exactly 0 between equal latents."""
    return torch.stack([(point - latents).square().sum(1) for point in source])


class Posterior:
    """Streams latents in chunks of any size and keeps, by label, the logarithm of Z_xi and the mean latent of Eq. 13.

    An online logsumexp: nothing of size N is held. groups: how many labels there are.
    """

    def __init__(self, groups: int):
        self.groups = groups
        self._peak: Tensor | None = None  # (B, G): the largest l so far
        self._mass: Tensor  # (B, G): sum of exp(l - peak)
        self._tilt: Tensor  # (B, G): sum of exp(l - peak) (l - peak), for the entropy
        self._sum: Tensor  # (B, G, d): sum of exp(l - peak) z

    def add(self, log_likelihood: Tensor, latents: Tensor, labels: Tensor, repeats: Tensor | None = None) -> None:
        """log_likelihood: (B, n), up to a constant for each point. latents: (n, d). labels, repeats: (n,)."""
        if repeats is not None:
            log_likelihood = log_likelihood + repeats.to(log_likelihood).log()
        if self._peak is None:
            shape = (len(log_likelihood), self.groups)
            self._peak = log_likelihood.new_full(shape, -math.inf)
            self._mass, self._tilt = log_likelihood.new_zeros(shape), log_likelihood.new_zeros(shape)
            self._sum = log_likelihood.new_zeros(*shape, latents.shape[1])
        for label in labels.unique().tolist():
            chosen = labels == label
            self._add_group(label, log_likelihood[:, chosen], latents[chosen].to(log_likelihood))

    def _add_group(self, label: int, values: Tensor, latents: Tensor) -> None:
        before = self._known[:, label]
        peak = torch.maximum(before, values.amax(1))
        kept = (before - peak).exp()
        # 0 and not -inf * 0 where there was nothing before.
        moved = torch.where(kept > 0, before - peak, torch.zeros_like(peak))
        weights = (values - peak[:, None]).exp()
        tilt = torch.where(weights > 0, weights * (values - peak[:, None]), torch.zeros_like(weights)).sum(1)
        self._tilt[:, label] = kept * (self._tilt[:, label] + moved * self._mass[:, label]) + tilt
        self._mass[:, label] = kept * self._mass[:, label] + weights.sum(1)
        self._sum[:, label] = kept[:, None] * self._sum[:, label] + weights @ latents
        self._known[:, label] = peak

    @property
    def _known(self) -> Tensor:
        if self._peak is None:
            raise ValueError("no latents were added")
        return self._peak

    @property
    def log_density(self) -> Tensor:
        """log Z_xi of Eq. 13, (B, G), up to a constant for each point; -inf for a label without latents."""
        return self._known + self._mass.log()

    @property
    def log_alpha(self) -> Tensor:
        """log alpha_xi of Eq. 14, (B, G)."""
        return self.log_density.log_softmax(1)

    @property
    def alpha(self) -> Tensor:
        """alpha_xi, (B, G), each row sums to 1."""
        return self.log_alpha.exp()

    @property
    def means(self) -> Tensor:
        """The latent each label would answer with, zbar_xi, (B, G, d). Raises ValueError when a label has none."""
        if bool((self._mass == 0).any()):
            raise ValueError("a label has no latents of this shape, so it has no field here: leave it out")
        return self._sum / self._mass[..., None]

    @property
    def effective(self) -> Tensor:
        """N_eff, (B,): exp(entropy of softmax l), how many latents share a point, from 1 to N."""
        alpha, log_density = self.alpha, self.log_density
        total = log_density.logsumexp(1, keepdim=True)
        present = self._mass > 0
        mass = self._mass.clamp(min=torch.finfo(self._mass.dtype).tiny)
        surprise = torch.where(present, total - self._known - self._tilt / mass, torch.zeros_like(mass))
        return (alpha * surprise).sum(1).exp()


def group_fields(x: Tensor, posterior: Posterior, path: GaussianPath) -> Tensor:
    """u_xi of Eq. 13, (B, G, d): the field that each label's latents alone would have. x: (B, d)."""
    return path.from_x[:, None, None] * x[:, None] + path.from_z[:, None, None] * posterior.means


def marginal_field(alpha: Tensor, fields: Tensor) -> Tensor:
    """u = sum_xi alpha_xi u_xi, Eq. 2, 14 and 34. alpha: (B, G). fields: (B, G, d). Returns (B, d)."""
    return (alpha[..., None] * fields).sum(1)


def residuals(prediction: Tensor, fields: Tensor) -> Tensor:
    """Delta_xi = v - u_xi, Eq. 16 and 35. prediction: (B, d). fields: (B, G, d). Returns (B, G, d)."""
    return prediction[:, None] - fields


def interference_matrix(delta: Tensor) -> Tensor:
    """Omega = Delta Delta^T, Eq. 18. delta: (B, G, d). Returns (B, G, G), symmetric and positive semi-definite."""
    return delta @ delta.mT


def quadratic_form(alpha: Tensor, omega: Tensor) -> Tensor:
    """alpha^T Omega alpha = |v - u|^2, Eq. 3 and 20. alpha: (B, G). omega: (B, G, G). Returns (B,)."""
    return torch.einsum("bg,bgh,bh->b", alpha, omega, alpha)


def half_sigma(nearest: float, count: int) -> float:
    """s*: about where alpha gives half to the latent that a point was made from, D / (D + 2 sqrt(ln N)).

    nearest: D, the distance from a latent to its nearest neighbour. count: N, at least 2. For N equidistant latents the
    others then weigh N exp(r^2 D^2 / 4) against exp(r^2 D^2 / 2), r = (1 - s) / s, in the mean over the noise. Where
    one neighbour is much nearer than all others only that pair matters.
    """
    return nearest / (nearest + 2 * math.sqrt(math.log(count)))


def one_hot_sigma(nearest: float, count: int) -> float:
    """Below about this noise level alpha is one-hot, above 0.95: D / (D + 2 sqrt(2 ln N)), arguments as above.

    The nearest of N latents is then farther away than the best of N draws of noise can bridge.
    """
    return nearest / (nearest + 2 * math.sqrt(2 * math.log(count)))
