"""Multistep solvers in data prediction: a step's columns, from the signal and noise at its two ends. NumPy only.

With λ = log(α/σ) and h = λ_s − λ_t, x_s = σ_s/σ_t·x + σ_s·∫ e^λ·x0(λ) dλ (Lu et al. 2022, arXiv 2211.01095, eq. 9).
Each solver has its own polynomial for x0(λ), through this step's x0 and up to three earlier ones.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.schedules import Vector
from models.step import HISTORY

Columns = dict[str, Vector]
Rows = NDArray[np.int64]
UNTIL = 15  # steps: with fewer, the last steps of DPM-Solver++ are of lower order, as in its authors' code


class Ends(NamedTuple):
    """α and σ where each step starts and ends, (steps,) each. Only the last may end at σ = 0."""

    alpha_t: Vector
    sigma_t: Vector
    alpha_s: Vector
    sigma_s: Vector

    @property
    def lambda_t(self) -> Vector:
        return np.log(self.alpha_t / self.sigma_t)

    @property
    def h(self) -> Vector:
        with np.errstate(divide="ignore"):
            return np.log(self.alpha_s / self.sigma_s) - self.lambda_t

    @property
    def gain(self) -> Vector:
        """What the first order has before x0."""
        return self.alpha_s * -np.expm1(-self.h)


def dpmpp_3m(ends: Ends) -> Columns:
    """DPM-Solver++(3M), the multistep third order of Lu et al. 2022 (arXiv 2211.01095, section 4.2).

    With r0 = h_prev/h, r1 = h_prev_prev/h, D1 and D2 the differences of x0 for the first two derivatives:
    x_s = σ_s/σ_t·x + α_s·[(1 − e^−h)·x0 + (1 − (1 − e^−h)/h)·D1 + (½ − (e^−h − 1 + h)/h²)·D2].
    """
    steps = len(ends.h)
    weights = np.zeros((steps, 1 + len(HISTORY)))
    weights[:, 0] = ends.gain
    order = orders(steps, 3, last_falls=steps < UNTIL)
    rows = np.flatnonzero(order == 2)
    slope = ends.gain[rows] * ends.h[rows] / (2 * ends.h[rows - 1])
    weights[rows, 0] += slope
    weights[rows, 1] -= slope
    rows = np.flatnonzero(order == 3)
    h, alpha_s = ends.h[rows], ends.alpha_s[rows]
    r0, r1 = ends.h[rows - 1] / h, ends.h[rows - 2] / h
    first, second = alpha_s * (1 + np.expm1(-h) / h), alpha_s * (0.5 - (np.expm1(-h) + h) / h**2)
    newer = (first * (1 + r0 / (r0 + r1)) + second / (r0 + r1)) / r0  # before x0 − x0_prev
    older = (first * r0 / (r0 + r1) + second / (r0 + r1)) / r1  # before x0_prev2 − x0_prev
    weights[rows, 0] += newer
    weights[rows, 1] -= newer + older
    weights[rows, 2] += older
    return _columns(ends, weights)


def deis(ends: Ends) -> Columns:
    """DEIS for a network that predicts x0: the polynomial in λ is integrated exactly, through up to four x0.

    With Lagrange's L_j the weights are ∫ e^(λ − λ_s)·L_j(λ) dλ (Zhang & Chen 2022, arXiv 2204.13902, eq. 15).
    The first steps have fewer x0, and so have the last, of which the very last goes to σ = 0.
    """
    steps = len(ends.h)
    weights = np.zeros((steps, 1 + len(HISTORY)))
    order = orders(steps, 4, last_falls=True)
    weights[:, 0] = ends.gain
    for points in range(2, 5):
        rows = np.flatnonzero(order == points)
        h = ends.h[rows]
        moments = [-np.expm1(-h)]  # ∫ e^(u − h)·u^k du over [0, h]
        for k in range(1, points):
            moments.append(h**k - k * moments[-1])
        scaled = np.stack([moment / h**k for k, moment in enumerate(moments)], axis=-1)
        nodes = np.column_stack([np.zeros(len(rows)), _nodes(ends, rows, points)])
        weights[rows, :points] = ends.alpha_s[rows, None] * _solved(nodes, scaled)
    return _columns(ends, weights)


def unipc(ends: Ends) -> Columns:
    """UniPC-3 with B(h) = e^−h − 1 (Zhao et al. 2023, arXiv 2302.04867, algorithms 1 and 2, in data prediction).

    Its corrector moves the x at which x0 was predicted, at no further evaluation. The network saw the uncorrected x, so
    the step's row has both: the correction of x, which is linear in the last x0, and the prediction from there.
    """
    steps = len(ends.h)
    order = orders(steps, 3, last_falls=True)
    predicted = np.zeros((steps, 1 + len(HISTORY)))
    corrected = np.zeros_like(predicted)
    for points in range(1, 4):
        rows = np.flatnonzero(order == points)
        nodes = _nodes(ends, rows, points)
        predicted[rows, :points] = _unified(ends, rows, nodes)
        rows, nodes = rows[rows < steps - 1], nodes[rows < steps - 1]
        weights = _unified(ends, rows, np.column_stack([nodes, np.ones(len(rows))]))
        corrected[rows + 1, 0] = weights[:, -1]
        corrected[rows + 1, 1 : points + 1] = weights[:, :-1]
    corrected[1:, 1:] -= predicted[:-1, :-1]
    return _columns(ends, predicted + (ends.sigma_s / ends.sigma_t)[:, None] * corrected)


def orders(steps: int, most: int, *, last_falls: bool) -> Rows:
    """The order of each step: 1, 2, … `most`, and down again to 1 at the end, or only there 1."""
    step = np.arange(steps)
    left = steps - step
    return np.minimum(np.minimum(step + 1, most), left if last_falls else np.where(left == 1, 1, most))


def _nodes(ends: Ends, rows: Rows, points: int) -> Vector:
    """(λ − λ_t)/h of the `points` − 1 x0 before each step's own, the last first."""
    lambda_t = ends.lambda_t
    nodes = [(lambda_t[rows - j] - lambda_t[rows]) / ends.h[rows] for j in range(1, points)]
    return np.array(nodes).reshape(points - 1, len(rows)).T


def _solved(nodes: Vector, moments: Vector) -> Vector:
    """The weights w with Σ_j w_j·node_j^k = moment_k for each step, (steps, nodes)."""
    powers = nodes[:, None, :] ** np.arange(nodes.shape[1])[:, None]
    solved: NDArray[Any] = np.linalg.solve(powers, moments[..., None])[..., 0]
    return solved


def _unified(ends: Ends, rows: Rows, nodes: Vector) -> Vector:
    """The weights of x0 and of the x0 at `nodes`, (steps, 1 + nodes), by eq. 5 of UniPC's paper."""
    h, count = ends.h[rows], nodes.shape[1]
    shares = np.full((len(rows), count), 0.5)  # the paper's own choice for one
    if count > 1:
        phi, moments = np.expm1(-h), []
        for k in range(count):
            phi = -phi / h - 1 / math.factorial(k + 1)
            moments.append(phi * math.factorial(k + 1) / np.expm1(-h))
        shares = _solved(nodes, np.array(moments).T)
    shares /= nodes
    weights: NDArray[Any] = ends.gain[rows, None] * np.column_stack([1 - shares.sum(axis=1), shares])
    return weights


def _columns(ends: Ends, weights: Vector) -> Columns:
    names = ("x_from_x0", *HISTORY)
    return {"x_from_x": ends.sigma_s / ends.sigma_t, **dict(zip(names, weights.T, strict=True))}
