"""A mixture of Gaussians, fitted by expectation maximisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlfp_ros.dynamics.linear_gaussian import LOG_TWO_PI, symmetric
from rlfp_ros.schema import ConfigurationError


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of K Gaussians in D dimensions.

    Parameters
    ----------
    weights
        [K], with sum 1.
    means
        [K, D].
    covariances
        [K, D, D].
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def log_densities(self, points: np.ndarray) -> np.ndarray:
        """Return the logarithms of the weighted densities of points [N, D] in each Gaussian, [N, K]."""
        roots = np.linalg.cholesky(self.covariances)
        densities = np.empty((len(points), len(self.weights)))
        for k, root in enumerate(roots):
            whitened = np.linalg.solve(root, (points - self.means[k]).T)
            constant = points.shape[1] * LOG_TWO_PI + 2 * np.log(np.diag(root)).sum()
            densities[:, k] = np.log(self.weights[k]) - 0.5 * (np.square(whitened).sum(axis=0) + constant)
        return densities

    def responsibilities(self, points: np.ndarray) -> tuple[np.ndarray, float]:
        """Return how probable it is that each Gaussian made each point [N, K], and the mean log-likelihood."""
        densities = self.log_densities(points)
        largest = densities.max(axis=1, keepdims=True)
        shares = np.exp(densities - largest)
        sums = shares.sum(axis=1, keepdims=True)
        return shares / sums, float((largest + np.log(sums)).mean())

    def moments(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean [D] and covariance [D, D] of the mixture, weighted as it explains points [N, D]."""
        weights = self.responsibilities(points)[0].mean(axis=0)
        mean = weights @ self.means
        apart = self.means - mean
        covariance = np.einsum("k,kij->ij", weights, self.covariances) + np.einsum("k,ki,kj->ij", weights, apart, apart)
        return mean, symmetric(covariance)


def fit_mixture(
    points: np.ndarray, clusters: int, rng: np.random.Generator, floor: float = 1e-6, passes: int = 30
) -> GaussianMixture:
    """Fit a mixture to points by expectation maximisation.

    Parameters
    ----------
    points
        [N, D], in units in which their deviations are near 1.
    clusters
        Number of Gaussians.
    rng
        Chooses where the Gaussians begin.
    floor
        Variance that is added in every direction, so that no covariance collapses.
    passes
        Largest number of passes; fewer if the likelihood no longer rises.

    Raises
    ------
    ConfigurationError
        If there are fewer points than Gaussians, or if a value is not finite.
    """
    if len(points) < max(clusters, 2):
        raise ConfigurationError(
            f"Gaussian mixture: there are {len(points)} points for {clusters} Gaussians, expected at least "
            f"{max(clusters, 2)}; play more trajectories"
        )
    if not np.isfinite(points).all():
        raise ConfigurationError("Gaussian mixture: a point is not finite, expected finite states and actions")
    shares = _shares_of_centres(points, clusters, rng)
    before = -np.inf
    for _ in range(passes):
        mixture = _maximise(points, shares, floor)
        shares, likelihood = mixture.responsibilities(points)
        if likelihood - before < 1e-3:
            break
        before = likelihood
    return mixture


def _shares_of_centres(points: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Assign each point to the nearest of `clusters` points that are far from each other, [N, K] (k-means++)."""
    centres = [points[rng.integers(len(points))]]
    distances = np.square(points - centres[0]).sum(axis=1)
    while len(centres) < clusters:
        total = float(distances.sum())
        chosen = rng.choice(len(points), p=distances / total) if total > 0 else rng.integers(len(points))
        centres.append(points[chosen])
        distances = np.minimum(distances, np.square(points - centres[-1]).sum(axis=1))
    apart = np.square(points[:, None] - np.stack(centres)[None]).sum(axis=2)
    return np.eye(clusters)[apart.argmin(axis=1)]


def _maximise(points: np.ndarray, shares: np.ndarray, floor: float) -> GaussianMixture:
    """Return the mixture that explains points best if these shares [N, K] of them belong to each Gaussian.

    Each Gaussian also gets one point's worth of the covariance of all points, so that one with few points has a
    covariance of full rank.
    """
    counts = shares.sum(axis=0)
    overall = np.cov(points.T, bias=True)
    means = (shares.T @ points + points.mean(axis=0)) / (counts + 1)[:, None]
    covariances = np.empty((len(counts), points.shape[1], points.shape[1]))
    for k, count in enumerate(counts):
        apart = points - means[k]
        covariances[k] = ((shares[:, k, None] * apart).T @ apart + overall) / (count + 1)
    covariances += floor * np.eye(points.shape[1])
    return GaussianMixture((counts + 1) / (counts + 1).sum(), means, symmetric(covariances))
