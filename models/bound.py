"""The variational bound on −log p(x), as terms that are an evaluation of the network each. Float64; NumPy only.

−log p(x) ≤ prior + diffusion + reconstruction, here in nats an image (Ho et al. 2020, arXiv 2006.11239, eq. 5; Kingma
et al. 2021, arXiv 2107.00630, eq. 11). The diffusion is a sum over timesteps or an integral over time. It is estimated
at a few of them, evenly spaced from one random start (appendix I.1 of the latter). An image lies in [−1, 1], and its
pixels have LEVELS values, evenly spread.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.gaussian.chain import Chain, clipped_variance
from models.schedules import Vector
from models.step import Step

LEVELS = 256
HALF_LEVEL = 1 / (LEVELS - 1)  # half the distance between two values
NODES = np.linspace(-8, 8, 161)  # of the trapezoidal rule over a standard normal variable
DENSITY = np.exp(-(NODES**2) / 2) / math.sqrt(2 * math.pi) * (NODES[1] - NODES[0])
LAST = (0, 0)  # timesteps of the reconstruction: two draws of the step to the data, for its standard error
LEAST_MASS = 1e-290  # of an interval; a smaller one is taken from the tail's expansion

_erfc = np.frompyfunc(math.erfc, 1, 1)


class Terms(NamedTuple):
    """Where an image's bound is evaluated, (K,) each. Term k takes the state alpha[k]·image + sigma[k]·noise.

    Its step's x0 is the network's image. The noise of its update is 1 everywhere, so x_new is the deviation of the
    model's own step over that of the posterior. No step reads the one before it.
    """

    table: NDArray[np.float32]  # (K, columns): a `Step` each
    alpha: Vector
    sigma: Vector
    weight: Vector  # that makes each term an estimate of the whole diffusion
    timesteps: NDArray[np.int64]  # of a discrete bound
    of_diffusion: int  # how many of them are of the diffusion


class Parts(NamedTuple):
    """The bound of an image in nats, and the standard error of the estimate; NaN for that of a single term."""

    prior: float
    diffusion: float
    reconstruction: float
    standard_error: float


class Bound(Protocol):
    """What `models/FAMILY/plan.py` gives as `bound(schedule)`, where its models have one."""

    @property
    def most(self) -> int:
        """Terms that an estimate of the diffusion can have."""
        ...

    def terms(self, start: float, count: int) -> Terms:
        """`count` terms of the diffusion from a start in [0, 1), and behind them what the reconstruction needs."""
        ...

    def nats(self, terms: Terms, k: int, image: Vector, x0: Vector, ratio: Vector) -> float:
        """Term k of an image, from the x0 and the x_new of its step, all of one shape."""
        ...

    def parts(self, image: Vector, nats: Vector) -> Parts:
        """The bound from all of its terms."""
        ...


@dataclass(frozen=True)
class ContinuousBound:
    """In continuous time, for a network that predicts ε (Kingma et al. 2021, eqs. 13, 15 and 17).

    `gamma`: γ = −log SNR at evenly spaced times from 0 to 1, rising, and linear between them.
    """

    gamma: Vector

    @property
    def most(self) -> int:
        """One for each piece of the schedule."""
        return len(self.gamma) - 1

    def terms(self, start: float, count: int) -> Terms:
        place = (start + np.arange(count)) / count * self.most
        piece = np.minimum(place.astype(np.int64), self.most - 1)
        rise = np.diff(self.gamma)[piece]
        gamma = self.gamma[piece] + (place - piece) * rise
        alpha, sigma = np.sqrt(1 / (1 + np.exp(gamma))), np.sqrt(1 / (1 + np.exp(-gamma)))
        table = rows(t=gamma, x0_from_x=1 / alpha, x0_from_out=-sigma / alpha)
        # ½·γ'(t)·‖ε − ε̂‖² (eq. 17), with ε − ε̂ = (x0 − x)·α/σ
        weight = 0.5 * rise * self.most * np.exp(-gamma)
        return Terms(table, alpha, sigma, weight, piece, count)

    def nats(self, terms: Terms, k: int, image: Vector, x0: Vector, ratio: Vector) -> float:
        return float(terms.weight[k] * np.square(x0 - image).sum())

    def parts(self, image: Vector, nats: Vector) -> Parts:
        values = ((image + 1) / (2 * HALF_LEVEL)).round().astype(np.int64)
        reconstruction = float(self.reconstruction_by_value[values].sum())
        last = 1 / (1 + math.exp(self.gamma[-1]))
        return Parts(prior(image, last), float(nats.mean()), reconstruction, standard_error(nats))

    @cached_property
    def reconstruction_by_value(self) -> Vector:
        """The mean of −log p(x | z_0) over z_0 for each value x of a pixel, (LEVELS,).

        p(x | z_0) is a softmax over the values of the densities q(z_0 | value) (eq. 8). z_0/α_0 = x + e^{γ_0/2}·ε.
        """
        deviation = math.exp(0.5 * self.gamma[0])
        values = np.linspace(-1, 1, LEVELS)
        means = []
        for value in values:
            away = (value + deviation * NODES[:, None] - values) / deviation
            means.append(DENSITY @ (np.logaddexp.reduce(-0.5 * away**2, axis=1) + 0.5 * NODES**2))
        return np.array(means)


@dataclass(frozen=True)
class DiscreteBound:
    """Over the T timesteps of a chain, for any prediction type (Ho et al. 2020, eqs. 5, 8 and 13).

    The variance of a step is the chain's; a learned one is between its two bounds (Nichol & Dhariwal 2021, arXiv
    2102.09672, eqs. 4 and 15). The last step, to the data, takes the variance of the step before it, as OpenAI's code.
    """

    chain: Chain

    @property
    def most(self) -> int:
        """All steps but the last one."""
        return len(self.chain.times) - 1

    def terms(self, start: float, count: int) -> Terms:
        """Timesteps are drawn in proportion to expm1(γ_t − γ_s), the weight of ‖ε − ε̂‖² in their terms.

        All of them are each taken once.
        """
        place, share = (start + np.arange(count)) / count, self.shares
        if count == self.most:
            timesteps, weight = np.arange(1, count + 1), np.full(count, float(count))
        else:
            timesteps = 1 + np.searchsorted(np.cumsum(share)[:-1], place, side="right")
            weight = 1 / share[timesteps - 1]
        visited, weight = np.append(timesteps, LAST), np.append(weight, np.ones(len(LAST)))
        abar = self.chain.alphas_cumprod[visited]
        return Terms(self._table(visited), np.sqrt(abar), np.sqrt(1 - abar), weight, visited, count)

    def nats(self, terms: Terms, k: int, image: Vector, x0: Vector, ratio: Vector) -> float:
        timestep = terms.timesteps[k]
        variance = self.least[timestep]
        if timestep == 0:
            return -float(log_mass(image, x0, math.sqrt(variance) * ratio).sum())
        # KL of q(x_s | x_t, x) from p(x_s | x_t): two normal distributions, whose means are apart by gain·(x0 − x)
        error = self.gain[timestep] ** 2 / variance * np.square(x0 - image)
        return float(terms.weight[k] * (np.log(ratio) + (1 + error) / (2 * np.square(ratio)) - 0.5).sum())

    def parts(self, image: Vector, nats: Vector) -> Parts:
        diffusion, (first, second) = nats[: -len(LAST)], nats[-len(LAST) :]
        error = math.hypot(standard_error(diffusion), (first - second) / 2)
        last = self.chain.alphas_cumprod[-1]
        return Parts(prior(image, last), float(diffusion.mean()), float(first + second) / 2, error)

    def _table(self, timesteps: NDArray[np.int64]) -> NDArray[np.float32]:
        chain, abar = self.chain, self.chain.alphas_cumprod[timesteps]
        ratio, log_ratio_from_v = self.ratio
        p, q = chain.x0_columns(abar)
        return rows(
            t=chain.times[timesteps],
            x0_from_x=p,
            x0_from_out=q,
            clip=chain.clip,
            noise_std=ratio[timesteps],
            log_std_from_v=log_ratio_from_v[timesteps],
        )

    @cached_property
    def ends(self) -> tuple[Vector, Vector]:
        """ᾱ_t and ᾱ_s of the steps that start at each timestep, the lowest first."""
        return self.chain.alphas_cumprod, np.append(1.0, self.chain.alphas_cumprod[:-1])

    @cached_property
    def betas(self) -> Vector:
        abar_t, abar_s = self.ends
        return 1 - abar_t / abar_s

    @cached_property
    def least(self) -> Vector:
        """β̃, the variance of the posterior; at the step to the data that of the step before it."""
        abar_t, abar_s = self.ends
        return clipped_variance((abar_t[::-1], abar_s[::-1]))[::-1]

    @cached_property
    def gain(self) -> Vector:
        """The factor of x0 in the mean of the posterior (Ho et al. 2020, eq. 7)."""
        abar_t, abar_s = self.ends
        return np.sqrt(abar_s) * self.betas / (1 - abar_t)

    @cached_property
    def ratio(self) -> tuple[Vector, Vector]:
        """N and M: the model's deviation over √`least` is N·exp(M·v)."""
        largest = 0.5 * np.log(self.betas / self.least)
        match self.chain.variance:
            case "learned_range":
                return np.ones_like(largest), largest
            case "learned":  # out is the logarithm of the variance, and v = (out + 1)/2
                return np.exp(-0.5) / np.sqrt(self.least), np.ones_like(largest)
            case "fixed_large" | "fixed_large_log":
                largest[0] = 0.0
                return np.exp(largest), np.zeros_like(largest)
            case _:
                return np.ones_like(largest), np.zeros_like(largest)

    @cached_property
    def shares(self) -> Vector:
        """Probabilities of the timesteps from 1 on."""
        abar = self.chain.alphas_cumprod
        noise_to_signal = (1 - abar) / abar
        weight = noise_to_signal[1:] / noise_to_signal[:-1] - 1
        share: Vector = weight / weight.sum()
        return share


def rows(t: Vector, **columns: Vector | float) -> NDArray[np.float32]:
    """A `Step` for each t, (K, columns)."""
    table = np.tile(np.array(Step(t=0.0), dtype=np.float32), (len(t), 1))
    for name, values in {"t": t, **columns}.items():
        table[:, Step._fields.index(name)] = values
    return table


def prior(image: Vector, alphas_cumprod: float) -> float:
    """KL(q(x_T | x) ‖ N(0, I))."""
    variance = 1 - alphas_cumprod
    return float(0.5 * (alphas_cumprod * np.square(image) + variance - 1 - math.log(variance)).sum())


def standard_error(values: Vector) -> float:
    """Of the mean of terms that are evenly spaced from a random start; NaN for one term.

    Neighbours differ by their noise (Wolter 2007, "Introduction to Variance Estimation", eq. 8.2.4). The start moves
    the mean of a function f of time by (f(1) − f(0))·(start − ½)/K, whose variance is the second part.
    """
    count = len(values)
    if count < 2:
        return math.nan
    noise = np.square(np.diff(values)).sum() / (2 * count * (count - 1))
    return math.sqrt(noise + (values[-1] - values[0]) ** 2 / (12 * count**2))


def log_mass(image: Vector, mean: Vector, std: Vector) -> Vector:
    """log of a normal distribution's mass between the halves to the next values; at ±1 of all beyond (eq. 13)."""
    low = np.where(image < -1 + HALF_LEVEL, -np.inf, (image - HALF_LEVEL - mean) / std)
    high = np.where(image > 1 - HALF_LEVEL, np.inf, (image + HALF_LEVEL - mean) / std)
    swapped = low + high > 0  # the tail on the left keeps its digits
    low, high = np.where(swapped, -high, low), np.where(swapped, -low, high)
    mass = 0.5 * np.asarray(_erfc(-high / math.sqrt(2)) - _erfc(-low / math.sqrt(2)), dtype=np.float64)
    far = np.minimum(high, -1.0)
    tail = -0.5 * far**2 - np.log(-far * math.sqrt(2 * math.pi))
    log: Vector = np.where(mass > LEAST_MASS, np.log(np.maximum(mass, LEAST_MASS)), tail)
    return log
