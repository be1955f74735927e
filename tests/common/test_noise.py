"""The noise has the distribution that the accounting assumes, and nobody can repeat it."""

import os

import numpy as np
import pytest
from scipy.stats import kstest, norm

from cohortium.common.privacy.noise import BLOCK, NoiseSource, gaussian, poisson_sample

N = 1_000_000


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return gaussian((N,), 2.5).astype(np.float64) / 2.5


def test_mean_and_scale_are_right_within_five_standard_errors(values: np.ndarray) -> None:
    assert abs(values.mean()) < 5 / np.sqrt(N)
    assert abs(values.std() - 1) < 5 / np.sqrt(2 * N)


def test_the_distribution_is_normal(values: np.ndarray) -> None:
    assert kstest(values, norm.cdf).pvalue > 1e-5


@pytest.mark.parametrize("limit", [2.0, 3.0, 4.0])
def test_the_tails_are_as_heavy_as_they_should_be(values: np.ndarray, limit: float) -> None:
    for beyond in ((values > limit).sum(), (values < -limit).sum()):
        expected = N * norm.sf(limit)
        assert abs(beyond - expected) < 5 * np.sqrt(expected)


def test_a_single_draw_is_normal_too() -> None:
    assert kstest(NoiseSource().normals(200_000), norm.cdf).pvalue > 1e-5


def test_neighbouring_values_and_blocks_are_uncorrelated(values: np.ndarray) -> None:
    for lag in (1, 2, BLOCK // 2, BLOCK):
        product = values[:-lag] * values[lag:]
        assert abs(product.mean()) < 5 / np.sqrt(len(product))
        # Not even in size, as cosine and sine of one pair would be if their radius were kept.
        squares = values[:-lag] ** 2 * values[lag:] ** 2 - 1
        assert abs(squares.mean()) < 5 * np.sqrt(8 / len(squares))


def test_two_sources_have_nothing_in_common() -> None:
    first, second = NoiseSource(), NoiseSource()
    a, b = first.gaussian((N // 4,), 1.0), second.gaussian((N // 4,), 1.0)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(N / 4)
    assert not set(first.uniform(10_000)) & set(second.uniform(10_000))


def test_one_source_never_repeats_itself() -> None:
    source = NoiseSource()
    drawn = np.concatenate([source.uniform(1000) for _ in range(20)])
    assert len(set(drawn)) == len(drawn)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_draw_its_parents_noise() -> None:
    source = NoiseSource()
    source.uniform(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, source.uniform(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(read, 32))
    os.close(read)
    os.close(write)
    assert not set(theirs) & set(source.uniform(4))


def test_each_value_is_the_sum_of_four_draws() -> None:
    class Counting(NoiseSource):
        drawn = 0

        def normals(self, pairs: int) -> np.ndarray:
            self.drawn += 2 * pairs
            return super().normals(pairs)

    source = Counting()
    source.gaussian((BLOCK + 1000,), 1.0)
    assert source.drawn == 4 * (BLOCK + 1000)


def test_shape_and_type_are_kept_for_any_size() -> None:
    for shape in [(), (0,), (1,), (3, 5), (BLOCK + 1,)]:
        noise = gaussian(shape, 1.0)
        assert noise.shape == shape
        assert noise.dtype == np.float32


def test_no_noise_is_exactly_zero() -> None:
    assert not gaussian((100,), 0.0).any()


def test_uniforms_fill_the_unit_interval() -> None:
    uniforms = NoiseSource().uniform(N // 4)
    assert kstest(uniforms, "uniform").pvalue > 1e-5
    assert uniforms.min() >= 0
    assert uniforms.max() < 1


def test_batch_sizes_vary_as_independent_coins_make_them() -> None:
    source, n, rate, steps = NoiseSource(), 400, 0.1, 4000
    sizes = np.array([len(poisson_sample(n, rate, source)) for _ in range(steps)])
    variance = n * rate * (1 - rate)
    assert abs(sizes.mean() - n * rate) < 5 * np.sqrt(variance / steps)
    assert abs(sizes.var() / variance - 1) < 5 * np.sqrt(2 / steps)


def test_each_patient_is_drawn_at_the_same_rate() -> None:
    source, steps = NoiseSource(), 4000
    counts = np.zeros(50)
    for _ in range(steps):
        counts[poisson_sample(50, 0.2, source)] += 1
    assert np.abs(counts - 0.2 * steps).max() < 6 * np.sqrt(0.16 * steps)


def test_a_rate_of_one_takes_everybody() -> None:
    assert poisson_sample(5, 1.0, NoiseSource()).tolist() == [0, 1, 2, 3, 4]
    assert poisson_sample(0, 0.5, NoiseSource()).tolist() == []
