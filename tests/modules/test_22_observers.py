"""Module 22: grids, what each observer chooses, histograms that grow, fusing."""

import copy
import math
import pickle
from functools import partial

import numpy as np
import pytest
from scipy import special  # scipy.stats takes seconds to load

from tinytorch.core.activations import ReLU
from tinytorch.core.autograd import no_grad
from tinytorch.core.layers import Dropout, Flatten, Identity, Linear, Module, Sequential
from tinytorch.core.spatial import BatchNorm1d, BatchNorm2d, Conv2d
from tinytorch.core.tensor import Tensor
from tinytorch.optimization.observers import (
    BestOf,
    EntropyObserver,
    Fused,
    Grid,
    HistogramBased,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    PerChannelMinMaxObserver,
    QConfig,
    divergence,
    evened,
    fuse,
    qparams,
    spread,
    squared_error,
)

random = np.random.default_rng(22)
START = random.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_in_any_order():
    random.bit_generator.state = START


PER_TENSOR = [
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PercentileObserver,
    HistogramObserver,
    MSEObserver,
    EntropyObserver,
]
EVERY = [*PER_TENSOR, PerChannelMinMaxObserver]
HISTOGRAMS = PER_TENSOR[2:]


def observed(observer, *batches):
    for batch in batches:
        observer.observe(batch)
    return observer


def restored(observer, x):
    scale, zero_point = observer.calculate_qparams()
    marks = np.clip(np.rint(np.asarray(x) / scale) + zero_point, *observer.grid.limits)
    return (marks - zero_point) * scale


def snr(observer, x):
    """In dB, of everything that the observer saw, on its grid."""
    x = np.asarray(x, np.float64)
    return 10 * math.log10((x**2).sum() / ((restored(observer, x) - x) ** 2).sum())


# --- grids ---
@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scheme", ["affine", "symmetric", "symmetric_full"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_grid_has_its_integers_and_its_zero(bits, signed, scheme, reduce_range):
    if bits == 2 and reduce_range:
        with pytest.raises(ValueError, match="bits must be a whole number, 3 to 16, got 2"):
            Grid(bits, signed, scheme, reduce_range)
        return
    grid = Grid(bits, signed, scheme, reduce_range)
    lowest, highest = grid.limits
    assert highest - lowest + 1 == 2 ** (bits - reduce_range) - (scheme == "symmetric")
    assert lowest == (0 if signed is False else -(2 ** (bits - reduce_range - 1))) + (
        scheme == "symmetric"
    )
    assert np.array([lowest, highest], grid.dtype).tolist() == [lowest, highest]
    assert grid.dtype.kind == ("i" if signed else "u")
    assert grid.dtype.itemsize == (1 if bits - reduce_range <= 8 else 2)
    for low, high in ((-1.5, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)):
        scale, zero_point = qparams(low, high, grid)
        assert (type(scale), type(zero_point)) == (float, int)
        assert lowest <= zero_point <= highest
        marks = np.clip(np.rint(np.array([low, 0.0, high]) / scale) + zero_point, *grid.limits)
        error = np.abs((marks - zero_point) * scale - [low, 0.0, high])
        assert error[1] == 0
        assert error.max() <= scale / 2 + 1e-6  # float32 has no more digits
        if scheme != "affine":
            assert zero_point == (0 if signed else 2 ** (bits - reduce_range - 1))
            assert scale == pytest.approx(
                max(-low, high, 2**-23 * (highest - lowest) / 2) / ((highest - lowest) / 2)
            )


def test_scales_are_computed_in_float32():
    for low, high in ((0.0, 0.1), (-0.7, 0.3), (-1.1, 0.0)):
        ends = np.float32(low), np.float32(high)
        assert qparams(low, high, Grid())[0] == float((ends[1] - ends[0]) / np.float32(255))
        size = max(-ends[0], ends[1])
        assert qparams(low, high, Grid(scheme="symmetric"))[0] == float(size / np.float32(127))


def test_wrong_grids_say_what_is_wrong():
    for bits in (1, 17, 8.5, "8"):
        with pytest.raises(ValueError, match=f"bits must be a whole number, 2 to 16, got {bits}"):
            Grid(bits)
    with pytest.raises(ValueError, match=r'scheme must be "affine", .* got \'linear\''):
        MinMaxObserver(scheme="linear")
    with pytest.raises(TypeError, match="bit"):
        MinMaxObserver(bit=4)
    assert Grid(8) == Grid()
    assert hash(Grid(4)) == hash(Grid(4))


# --- every observer ---
@pytest.mark.parametrize("kind", EVERY)
def test_what_was_not_observed_has_no_grid(kind):
    observer = kind()
    assert repr(observer) == f"{kind.__name__}({Grid()})"
    with pytest.raises(RuntimeError, match=f"{kind.__name__}: nothing was observed"):
        observer.calculate_qparams()
    for empty in (np.zeros(0), np.zeros((0, 3)), Tensor(np.zeros((2, 0)))):
        observer.observe(empty)
    with pytest.raises(RuntimeError, match="nothing was observed"):
        observer.calculate_qparams()
    observer.observe(np.ones((2, 2)))
    before = repr(observer)
    observer.observe(np.zeros((2, 0)))  # nothing changes
    assert repr(observer) == before
    assert before.startswith(f"{kind.__name__}(scale=")


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_numbers_that_no_grid_holds_are_named_and_not_counted(kind, bad):
    observer = observed(kind(), np.ones((2, 2)))
    before = observer.calculate_qparams()
    with pytest.raises(ValueError, match=rf"{kind.__name__}: x holds \S+ at \[1, 0\]: only finite"):
        observer.observe(Tensor([[0.0, 1.0], [bad, 2.0]]))
    np.testing.assert_array_equal(observer.calculate_qparams(), before)


@pytest.mark.parametrize("kind", PER_TENSOR)
@pytest.mark.parametrize(
    "values",
    [
        [0.3, 0.3, 0.3],
        [-7.0],
        [100.0, 101.0, 102.0],
        [-3.0, -2.0, -2.5, -1.0],
        [1.0, np.nextafter(np.float32(1), np.float32(2))],
        [-1.6e38, 1.6e38],
        [-1.0, 0.0, 1.0],
    ],
    ids=str,
)
def test_few_numbers_come_back_within_a_step(kind, values):
    observer = observed(kind(), values)
    low, high = observer.range()
    slack = 1e-3 * np.abs(values).max()
    assert min(values) - slack <= low <= high <= max(values) + slack
    for signed in (True, False):
        for scheme in ("affine", "symmetric", "symmetric_full"):
            grid = Grid(signed=signed, scheme=scheme)
            scale, zero_point = qparams(low, high, grid)
            marks = np.clip(np.rint(np.array(values) / scale) + zero_point, *grid.limits)
            error = np.abs((marks - zero_point) * scale - values)
            if kind is not HistogramObserver:  # which may cut off a bin with half of the numbers
                assert error.max() <= scale * 1.01


@pytest.mark.parametrize("kind", EVERY)
def test_zeros_and_tiny_numbers_get_the_smallest_scale(kind):
    for values in ([[0.0, 0.0]], [[1e-9, -1e-9]], [[1e-9, 0.0]], [[1e-45, 0.0]]):
        observer = observed(kind(), values)
        scale, zero_point = observer.calculate_qparams()
        np.testing.assert_array_equal(scale, 2.0**-23)
        np.testing.assert_array_equal(zero_point, -128)


@pytest.mark.parametrize("kind", EVERY)
def test_it_looks_at_views_floats_of_any_width_and_ints_alike(kind):
    x = np.round(random.standard_normal((6, 8)) * 20)
    wide = np.zeros((12, 8))
    wide[::2] = x
    expected = observed(kind(), x).calculate_qparams()
    views = (x.astype(np.float16), x.astype(np.float32), x.astype(int), Tensor(x))
    for same in (*views, wide[::2], np.asfortranarray(x), Tensor(x.T).T):
        np.testing.assert_array_equal(observed(kind(), same).calculate_qparams(), expected)


@pytest.mark.parametrize("kind", EVERY)
def test_an_observer_hands_on_copies_and_pickles(kind):
    x = Tensor(random.standard_normal((4, 5)))
    before = x.data.copy()
    observer = kind(bits=6, scheme="symmetric")
    assert observer(x) is x
    np.testing.assert_array_equal(x.data, before)
    assert observer.count == 20
    twins = copy.deepcopy(observer), pickle.loads(pickle.dumps(observer))
    for twin in twins:
        np.testing.assert_array_equal(twin.calculate_qparams(), observer.calculate_qparams())
        twin.observe(100 * x.data)
    assert np.max(twins[0].range()) > np.max(observer.range())  # apart from then on


@pytest.mark.parametrize("kind", PER_TENSOR)
@pytest.mark.parametrize("bits", [2, 3, 5, 8, 12, 16])
def test_any_number_of_bits(kind, bits):
    x = random.standard_normal(10_000)
    expected = 6.02 * bits - 11  # the range is about nine times the size of the numbers
    if kind in (PercentileObserver, EntropyObserver):
        expected = min(expected, 30)  # cutting off anything costs more than many bits gain
    assert snr(observed(kind(bits=bits), x), x) > expected


def test_a_new_kind_needs_two_methods():
    class Largest(Observer):
        largest = 0.0

        def see(self, values):
            self.largest = max(self.largest, np.abs(values).max())

        def range(self):
            return -self.largest, self.largest

    assert observed(Largest(), [-127.5, 3.0]).calculate_qparams() == (1.0, 0)
    with pytest.raises(NotImplementedError, match=r"Observer needs a method see"):
        Observer().observe([1.0])
    with pytest.raises(NotImplementedError, match=r"Observer needs a method range"):
        Observer().range()
    with pytest.raises(NotImplementedError, match=r"BestOf needs a method cost"):
        observed(BestOf(), [1.0, 2.0]).range()


# --- extremes ---
def test_min_max_and_moving_average_follow_their_formulas():
    batches = [random.standard_normal((5, 7)) * size for size in (1, 3, 2, 8)]
    lows, highs = ([f(np.float32(b)) for b in batches] for f in (np.min, np.max))
    assert observed(MinMaxObserver(), *batches).range() == (min(lows), max(highs))
    for c in (0.01, 0.3, 1.0):
        low, high = lows[0], highs[0]
        for batch_low, batch_high in zip(lows[1:], highs[1:], strict=True):
            low, high = (1 - c) * low + c * batch_low, (1 - c) * high + c * batch_high
        average = observed(MovingAverageMinMaxObserver(c), *batches)
        np.testing.assert_allclose(average.range(), (low, high), rtol=1e-6)
    for c in (0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="averaging_constant must be above 0, up to 1"):
            MovingAverageMinMaxObserver(c)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_each_channel_is_observed_like_a_tensor_of_its_own(axis, scheme):
    batches = random.standard_normal((3, 3, 4, 5)) * [1.0, 100.0, 0.1, 5.0, 0.0]
    observer = observed(PerChannelMinMaxObserver(axis, scheme=scheme), *batches)
    scale, zero_point = observer.calculate_qparams()
    assert (scale.dtype, zero_point.dtype) == (np.float64, np.int32)
    for i in range(batches[0].shape[axis]):
        own = observed(MinMaxObserver(scheme=scheme), *(b.take(i, axis) for b in batches))
        assert (scale[i], zero_point[i]) == own.calculate_qparams()


def test_channels_must_stay_as_many():
    observer = observed(PerChannelMinMaxObserver(axis=1), np.ones((2, 3)))
    observer.observe(np.ones((7, 3, 2)))
    for shape in ((3, 4), (4, 1)):
        with pytest.raises(ValueError, match=f"{shape[1]} channels after 3"):
            observer.observe(np.ones(shape))
    with pytest.raises(ValueError, match="axis 1 of a tensor with 1 axes"):
        observer.observe(np.ones(3))
    assert observer.calculate_qparams()[0].shape == (3,)


# --- histograms ---
def test_spreading_counts_moves_nothing_by_more_than_a_bin():
    x = random.standard_normal(30_000)
    old, new = (x.min(), x.max()), (-7.0, 9.0)
    counts = np.histogram(x, 128, old)[0]
    moved = spread(counts, old, new)
    right = np.histogram(x, 128, new)[0]
    assert moved.sum() == counts.sum()
    assert np.abs(np.cumsum(moved - right)).max() <= counts.max()
    np.testing.assert_array_equal(spread(counts, old, old), counts)
    assert spread(np.ones(4), (2.0, 2.0), (0.0, 8.0)).tolist() == [0, 4, 0, 0]


def test_a_histogram_grows_and_keeps_its_size():
    observer = HistogramBased(bins=512)
    for size in (0.0, 0.1, 1.0, 0.5, 30.0, 2.0):
        observer.observe(random.standard_normal(1000) * size + 1)
    assert observer.counts.shape == (512,)
    assert observer.counts.sum() == pytest.approx(6000, rel=1e-12)
    assert observer.middles[0] > observer.ends[0]
    assert observer.edges(0, 511) == pytest.approx(observer.ends)
    assert observer.edges(3, 3)[0] < observer.middles[3] < observer.edges(3, 3)[1]
    assert HistogramBased(bins=10, bits=4).bins == 16  # one for each integer at least
    assert HistogramBased(bits=16).bins == 2**16


@pytest.mark.parametrize("kind", HISTOGRAMS)
def test_batches_in_any_order_choose_nearly_the_same(kind):
    batches = [random.standard_normal(4000) * size for size in (1, 2, 3, 4)]
    ranges = [observed(kind(), *order).range() for order in (batches, batches[::-1])]
    ranges.append(observed(kind(), np.concatenate(batches)).range())
    np.testing.assert_allclose(ranges[0], ranges[2], atol=1.5)
    np.testing.assert_allclose(ranges[1], ranges[2], atol=1.5)


@pytest.mark.parametrize("percentile", [60, 90, 99, 99.9, 100])
def test_percentiles_are_numpys(percentile):
    x = random.standard_normal(50_000)
    x[0] = 15.0
    low, high = observed(PercentileObserver(percentile), x).range()
    assert (type(low), type(high)) == (float, float)
    expected = np.percentile(x, [100 - percentile, percentile])
    np.testing.assert_allclose([low, high], expected, atol=3 * 20 / 2048)
    for wrong in (50, 100.1, 0.5, math.nan):
        with pytest.raises(ValueError, match="percentile must be above 50, up to 100"):
            PercentileObserver(wrong)


@pytest.mark.parametrize(
    "first, last, levels", [(0, 7, 3), (2, 5, 4), (0, 0, 2), (7, 7, 1), (1, 6, 64)]
)
def test_the_squared_error_is_that_of_many_numbers(first, last, levels):
    counts = random.integers(0, 9, 8).astype(float)
    x = (np.arange(8 * 4096) + 0.5) / 4096
    width = (last - first + 1) / levels
    level = np.clip((x - first) // width, 0, levels - 1)
    error = (x - first - (level + 0.5) * width) ** 2
    right = counts @ error.reshape(8, -1).mean(axis=1)
    assert squared_error(counts, first, last, levels) == pytest.approx(right, rel=1e-3)


def test_the_mse_observer_finds_the_known_optimum():
    """Of a uniform quantiser for normal numbers: 3 bits 14.27 dB, 4 bits 20.22 dB (Max 1960)."""
    x = random.standard_normal(100_000)
    for bits, best in ((3, 14.27), (4, 20.22)):
        observer = observed(MSEObserver(bits=bits), x)
        assert best - 1.1 < snr(observer, x) < best
    uniform = observed(MSEObserver(), random.uniform(-2, 2, 20_000))
    np.testing.assert_allclose(uniform.range(), (-2, 2), atol=0.03)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_no_range_that_is_tried_beats_the_mse_observers(bits):
    x = random.standard_t(4, 20_000)
    observer = observed(MSEObserver(bits=bits), x)
    best = snr(observer, x)
    for part in np.linspace(0.05, 1, 20):
        clipped = np.clip(x, -part * np.abs(x).max(), part * np.abs(x).max())
        other = observed(MinMaxObserver(bits=bits), clipped)
        assert snr(other, x) < best + 0.5  # where the marks fall is luck


# --- information ---
def entropy(p, q):
    """scipy.stats.entropy(p, q)"""
    return special.rel_entr(p / p.sum(), q / q.sum()).sum()


def test_divergence_is_scipys():
    for _ in range(50):
        p, q = random.integers(0, 4, (2, 20)).astype(float)
        p[0] = q[0] = 1.0
        q[p > 0] += random.integers(0, 2)  # sometimes q says impossible
        lacking = math.log(p.sum() / q[q > 0].sum()) if q.any() else 0.0
        expected = entropy(p, q) + lacking
        assert divergence(p, q) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert divergence(np.array([1.0, 1.0]), np.array([2.0, 0.0])) == math.inf


def test_evened_keeps_the_counts_of_each_level_and_the_empty_bins():
    counts = random.integers(0, 3, 60).astype(float)
    levels = np.sort(random.integers(0, 10, 60))
    result = evened(counts, levels)
    np.testing.assert_array_equal(result > 0, counts > 0)
    for level in range(10):
        mine = levels == level
        assert result[mine].sum() == pytest.approx(counts[mine].sum())
        assert len(np.unique(result[mine & (counts > 0)].round(9))) <= 1


def test_the_entropy_cost_is_the_divergence_of_clipped_from_evened_counts():
    observer = observed(EntropyObserver(bits=4), random.standard_t(4, 5000))
    for first, last in ((0, 2047), (700, 1400), (1000, 1100)):
        scale, zero_point = qparams(*observer.edges(first, last), observer.grid)
        marks = np.clip(np.rint(observer.middles / scale) + zero_point, -8, 7)
        clipped = np.clip(np.arange(2048), first, last) - first
        p = np.bincount(clipped, observer.counts)
        q = np.zeros_like(p)
        for mark in np.unique(marks):
            mine = np.flatnonzero((marks == mark) & (observer.counts > 0))
            mine = mine[(first <= mine) & (mine <= last)]
            if len(mine):
                q[mine - first] = observer.counts[mine].mean()
        with np.errstate(divide="ignore"):
            expected = entropy(p, q) + math.log(p.sum() / q.sum())
        assert observer.cost(first, last) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("kind", ["normal", "half-normal", "relu", "gelu", "steps"])
def test_entropy_is_sensible(kind, bits):
    """Not far from the least squared error on numbers without outliers, also on discrete ones."""
    random = np.random.default_rng(22)
    normal = random.standard_normal(50_000)
    x = {
        "normal": normal,
        "half-normal": np.abs(normal),
        "relu": np.maximum(normal, 0),
        "gelu": normal * special.ndtr(normal),
        "steps": random.integers(0, 17, 50_000) / 16,
    }[kind]
    best = max(snr(observed(o(bits=bits), x), x) for o in (MSEObserver, MinMaxObserver))
    assert snr(observed(EntropyObserver(bits=bits), x), x) > best - 8


@pytest.mark.parametrize("kind", [PercentileObserver, EntropyObserver])
def test_what_counts_numbers_drops_a_far_outlier(kind):
    x = np.append(random.standard_normal(50_000), 1000.0)
    low, high = observed(kind(), x).range()
    assert -6 < low < -3
    assert 3 < high < 6
    heavy = observed(kind(), random.standard_t(3, 50_000))  # tails are clipped, not the bulk
    assert heavy.range()[1] > 8


def test_what_counts_squares_keeps_the_outlier_that_has_them():
    x = np.append(random.standard_normal(50_000), 1000.0)
    assert observed(MSEObserver(), x).range()[1] > 950
    mild = np.append(random.standard_normal(50_000), 20.0)
    assert observed(MSEObserver(), mild).range()[1] > 19
    assert observed(MSEObserver(bits=4), mild).range()[1] < 4
    assert observed(HistogramObserver(bits=4), mild).range()[1] < 5


# --- recipes ---
def test_a_recipe_makes_new_observers():
    config = QConfig()
    assert isinstance(config.activation(), HistogramObserver)
    assert config.activation() is not config.activation()
    weight = config.weight(axis=1)
    assert (weight.axis, weight.grid) == (1, Grid(scheme="symmetric"))
    mine = QConfig(partial(MSEObserver, bits=4), partial(PerChannelMinMaxObserver, bits=4))
    assert mine.activation().grid.bits == mine.weight(axis=0).grid.bits == 4
    assert config == QConfig()
    assert pickle.loads(pickle.dumps(config)).weight().grid == weight.grid


# --- fusing ---
def settled(norm):
    """With weights and running statistics that do something; some gammas are negative."""
    for tensor in (*norm.parameters(), *norm.buffers()):
        tensor.data[...] = random.uniform(0.5, 2.0, tensor.shape)
    if norm.weight is not None:
        norm.weight.data[::2] *= -1
    return norm


def types(model):
    return [type(module).__name__ for module in model.modules()]


def assert_fused(model, x, *, left=0, fused=0, linear_or_conv=0):
    """The fused copy computes the same; so many norms, Fused and bare layers are left in it."""
    model.eval()
    state = copy.deepcopy(model.state_dict())
    before = types(model)
    with no_grad():
        expected = model(x)
        copied = fuse(model, x)
        got = copied(x)
    assert types(model) == before  # no Traced is left, nothing was replaced
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, state[name].data)
    if isinstance(expected, Tensor):
        expected, got = [expected], [got]
    for ours, right in zip(got, expected, strict=True):
        scale = max(1.0, np.abs(right.data).max())
        np.testing.assert_allclose(ours.data / scale, right.data / scale, atol=1e-5)
    names = types(copied)
    assert "Traced" not in names
    counts = [sum(name.startswith("BatchNorm") for name in names), names.count("Fused")]
    bare = names.count("Linear") + names.count("Conv2d") - counts[1]
    assert [*counts, bare] == [left, fused, linear_or_conv]
    assert not copied.training
    return copied


IMAGES = Tensor(random.standard_normal((4, 3, 8, 8)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_cnn_is_fused_exactly(bias, affine):
    model = Sequential(
        *(Conv2d(3, 6, 3, padding=1, bias=bias), settled(BatchNorm2d(6, affine=affine)), ReLU()),
        *(Conv2d(6, 6, 3, stride=2, groups=3, bias=bias), settled(BatchNorm2d(6, eps=0.3))),
        *(Flatten(), Linear(54, 8, bias=bias), settled(BatchNorm1d(8, affine=affine)), ReLU()),
        *(Dropout(0.5), Linear(8, 4), ReLU(), Linear(4, 2)),
    )
    fused = assert_fused(model, IMAGES, left=0, fused=3, linear_or_conv=2)
    assert [type(fused[i]) for i in (0, 1, 2, 4, 8)] == [Fused, *[Identity] * 4]
    assert len(fused) == len(model)  # names stay


class Block(Module):
    """A residual block whose layers stand in other places than they are called."""

    def __init__(self):
        self.bends = {"inner": ReLU(), "outer": ReLU()}
        self.norms = [settled(BatchNorm2d(3)), settled(BatchNorm2d(3))]
        self.convs = (Conv2d(3, 3, 3, padding=1), Conv2d(3, 3, 3, padding=1, bias=False))

    def forward(self, x):
        inner = self.bends["inner"](self.norms[1](self.convs[0](x)))
        return self.bends["outer"](self.norms[0](self.convs[1](inner)) + x)


def test_a_residual_block_is_fused_up_to_the_sum():
    block = assert_fused(Sequential(Block(), Block()), IMAGES, fused=2, linear_or_conv=2)[0]
    assert [type(bend) for bend in block.bends.values()] == [Identity, ReLU]
    assert [type(conv) for conv in block.convs] == [Fused, Conv2d]


def test_what_somebody_else_takes_is_not_fused():
    class Skip(Module):
        def __init__(self):
            self.layer, self.bend = Linear(4, 4), ReLU()

        def forward(self, x):
            h = self.layer(x)
            return self.bend(h) + h

    class Both(Skip):
        def forward(self, x):
            h = self.layer(x)
            return self.bend(h), h

    class Weight(Skip):
        def forward(self, x):
            return self.bend(self.norm(self.layer(x))) @ self.layer.weight

    x = Tensor(random.standard_normal((5, 4)))
    for kind in (Skip, Both, Weight):
        model = kind()
        norms = 0
        if kind is Weight:
            model.norm, norms = settled(BatchNorm1d(4)), 1
        assert_fused(model, x, left=norms, linear_or_conv=1)


def test_what_is_called_twice_is_not_fused():
    x = Tensor(random.standard_normal((5, 4)))
    bend, layer, norm = ReLU(), Linear(4, 4), settled(BatchNorm1d(4))
    assert_fused(Sequential(Linear(4, 4), bend, Linear(4, 4), bend), x, linear_or_conv=2)
    assert_fused(Sequential(layer, ReLU(), layer, ReLU()), x, linear_or_conv=1)
    twice = Sequential(Linear(4, 4), norm, Linear(4, 4), norm)
    assert_fused(twice, x, left=1, linear_or_conv=2)


def test_norms_over_another_axis_stay():
    rows = Tensor(random.standard_normal((5, 4, 4)))
    sequence = Sequential(Linear(4, 4), settled(BatchNorm1d(4)), ReLU())
    assert_fused(sequence, rows, left=1, linear_or_conv=1)
    images = Sequential(Linear(8, 8), settled(BatchNorm2d(3)))
    assert_fused(images, IMAGES, left=1, linear_or_conv=1)


def test_other_layers_and_other_types_stay():
    class Doubling(Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Leaky(ReLU):
        def forward(self, x):
            return x

    x = Tensor(random.standard_normal((5, 4)))
    assert_fused(Sequential(Doubling(4, 4), ReLU(), Linear(4, 4), Leaky()), x, linear_or_conv=1)
    assert_fused(Sequential(ReLU(), Linear(4, 4), Dropout(0.5), ReLU()), x, fused=1)
    assert types(fuse(Linear(4, 2), x)) == ["Linear"]
    with pytest.raises(TypeError, match="fuse: expected a Module, got ReLU"):
        fuse(ReLU(), x)


def test_a_model_that_fails_is_whole_afterwards():
    model = Sequential(Linear(4, 4), ReLU()).train()
    with pytest.raises(ValueError, match=r"linear: x of \(1, 3\)"):
        fuse(model, Tensor([[1.0, 2.0, 3.0]]))
    assert types(model) == ["Sequential", "Linear", "ReLU"]
    assert model.training


def test_fusing_twice_changes_nothing_more():
    model = Sequential(Conv2d(3, 3, 3), settled(BatchNorm2d(3)), ReLU()).eval()
    once = fuse(model, IMAGES)
    twice = fuse(once, IMAGES)
    assert types(once) == types(twice)
    np.testing.assert_array_equal(once(IMAGES).data, twice(IMAGES).data)


def test_what_is_fused_can_be_saved_and_trained():
    x = Tensor(random.standard_normal((5, 4)))
    fused = fuse(Sequential(Linear(4, 3, bias=False), settled(BatchNorm1d(3)), ReLU()), x)
    assert list(fused.state_dict()) == ["0.layer.weight", "0.layer.bias"]
    assert all(tensor.requires_grad for tensor in fused.parameters())
    fused(x).sum().backward()
    assert fused[0].layer.weight.grad is not None
