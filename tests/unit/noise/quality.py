"""Statistics of random values, as p-values that are even in (0, 1) when the values are what they should be.

A test asks for ALPHA <= p <= 1 - ALPHA: values that are too regular are as wrong as those that are not regular enough.
With fixed keys each such test has one answer for ever; a generator that is right fails it with a chance of 2 ALPHA.

B images, N values of each.
"""

import numpy as np
from scipy import stats

ALPHA = 1e-4


def is_fair(p_value: float) -> bool:
    return ALPHA <= p_value <= 1 - ALPHA


def flatness(values: np.ndarray, *, num_cells: int = 1024) -> float:
    """Chi-square over equal cells of (0, 1)."""
    return float(stats.chisquare(np.histogram(values, bins=num_cells, range=(0, 1))[0]).pvalue)


def pair_flatness(first: np.ndarray, second: np.ndarray, *, num_cells: int = 32) -> float:
    """Chi-square over equal cells of the unit square."""
    counts = np.histogram2d(first.ravel(), second.ravel(), bins=num_cells, range=[[0, 1], [0, 1]])[0]
    return float(stats.chisquare(counts.ravel()).pvalue)


def serial(values_BN: np.ndarray, *, num_lags: int = 64) -> float:
    """Autocorrelations within the images at lags 1 to `num_lags`, summed up as chi-square with one degree each."""
    z_BN = standard(values_BN)
    scores = [(z_BN[:, lag:] * z_BN[:, :-lag]).sum() / z_BN[:, lag:].size ** 0.5 for lag in range(1, num_lags + 1)]
    return float(stats.chi2.sf(np.square(scores).sum(), num_lags))


def between(values_BN: np.ndarray, *, num_lags: int = 3) -> float:
    """Correlations of each image with its neighbour at lags -`num_lags` to `num_lags`, as chi-square."""
    z_BN = standard(values_BN)
    length = z_BN.shape[1] - 2 * num_lags
    middle = z_BN[:-1, num_lags : num_lags + length]
    scores = [(middle * z_BN[1:, lag : lag + length]).sum() / middle.size**0.5 for lag in range(2 * num_lags + 1)]
    return float(stats.chi2.sf(np.square(scores).sum(), len(scores)))


def all_pairs(values_BN: np.ndarray) -> float:
    """Correlations of all pairs of images, as chi-square with one degree for each pair."""
    matrix = np.corrcoef(values_BN)
    upper = matrix[np.triu_indices(len(matrix), 1)]
    # The variance of r is 1 / (N - 1) for independent normal or uniform values.
    return float(stats.chi2.sf((np.square(upper) * (values_BN.shape[1] - 1)).sum(), len(upper)))


def standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
