"""Module 09: convolutions, poolings and normalisations, against their definitions.

Values and gradients of the operations on many shapes stand in tests/ops.py, those of the layers in
tests/reference; here are the layers' own behaviour, the edges and the errors.
"""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinytorch import nn, optim
from tinytorch.core import spatial
from tinytorch.core.autograd import grad, gradcheck, no_grad
from tinytorch.core.spatial import (
    conv2d,
    conv2d_weight,
    conv_transpose2d,
    fold,
    group_norm,
    max_pool2d,
    output_size,
    sliding_windows,
    unfold,
)
from tinytorch.core.tensor import Tensor, manual_seed, writes

random = np.random.default_rng(0)


def images(*shape, dtype=np.float64):
    return random.standard_normal(shape).astype(dtype)


def by_definition(x, weight, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """The sum of the convolution's formula, window by window."""
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    (outputs, channels, kh, kw), (sh, sw), (dh, dw) = weight.shape, stride, dilation
    oh = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    ow = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((len(x), outputs, oh, ow))
    for o, h, w in np.ndindex(outputs, oh, ow):
        first = o // (outputs // groups) * channels
        rows = slice(h * sh, h * sh + dh * (kh - 1) + 1, dh)
        columns = slice(w * sw, w * sw + dw * (kw - 1) + 1, dw)
        window = x[:, first : first + channels, rows, columns]
        y[:, o, h, w] = (window * weight[o]).sum(axis=(1, 2, 3))
    return y


two = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
    extra=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    kernel=two,
    stride=two,
    dilation=two,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_the_three_products_follow_the_definition_and_one_another(
    sizes, extra, kernel, stride, dilation, padding
):
    n, groups, channels, outputs = sizes
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(max(1, s + e - 2 * p) for s, e, p in zip(spans, extra, padding, strict=True))
    x, weight = images(n, groups * channels, *size), images(groups * outputs, channels, *kernel)
    how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = conv2d(x, weight, **how)
    np.testing.assert_allclose(y, by_definition(x, weight, **how), rtol=1e-10, atol=1e-10)
    z = images(*y.shape)
    product = (z * y).sum()
    back = conv_transpose2d(z, weight, size=size, **how)
    kernels = conv2d_weight(x, z, kernel_size=kernel, **how)
    assert (back.shape, kernels.shape) == (x.shape, weight.shape)
    assert (x * back).sum() == pytest.approx(product, abs=1e-9)
    assert (weight * kernels).sum() == pytest.approx(product, abs=1e-9)


@pytest.mark.parametrize("how", [{}, {"stride": 2}, {"padding": 1, "groups": 2}])
def test_more_images_than_fit_into_a_block(how, monkeypatch):
    x, weight = images(7, 4, 6, 5), images(4, 4 // how.get("groups", 1), 3, 3)
    z = images(*conv2d(x, weight, **how).shape)
    calls = [
        lambda: conv2d(x, weight, **how),
        lambda: conv_transpose2d(z, weight, size=(6, 5), **how),
        lambda: conv2d_weight(x, z, kernel_size=3, **how),
    ]
    expected = [call() for call in calls]
    for block in (1, 3 * 4 * 9 * 30):  # one image at a time; some, with a rest
        monkeypatch.setattr(spatial, "BLOCK", block)
        for call, whole in zip(calls, expected, strict=True):
            np.testing.assert_allclose(call(), whole, rtol=1e-10, atol=1e-12)


def test_windows_are_a_view_that_can_be_written_through():
    x = np.zeros((1, 1, 3, 3))
    sliding_windows(x, (2, 2))[0, 0, 1, 1] += 1
    assert x[0, 0].tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
    x.flags.writeable = False
    assert not sliding_windows(x, (2, 2)).flags.writeable


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [((2, 3), (1, 1), (1, 1)), ((3, 2), (2, 3), (2, 4))]
)
def test_windows_columns_and_their_sums_follow_the_definition(kernel, stride, dilation):
    x = images(2, 3, 9, 8)
    windows = sliding_windows(x, kernel, stride, dilation)
    (down, right), (rows, columns) = stride, dilation
    for n, c, i, j, h, w in np.ndindex(windows.shape):
        assert windows[n, c, i, j, h, w] == x[n, c, h * down + i * rows, w * right + j * columns]
    how = dict(kernel_size=kernel, stride=stride, dilation=dilation)
    flat = unfold(x, **how)
    np.testing.assert_array_equal(flat, windows.reshape(flat.shape))
    counts = fold(np.ones_like(flat), size=(9, 8), **how)
    expected = np.zeros_like(x)
    for i, j, h, w in np.ndindex(windows.shape[2:]):
        expected[:, :, h * down + i * rows, w * right + j * columns] += 1
    np.testing.assert_array_equal(counts, expected)


def test_empty_batches_and_empty_results():
    assert conv2d(np.zeros((0, 2, 5, 5)), images(3, 2, 3, 3)).shape == (0, 3, 3, 3)
    assert conv_transpose2d(np.zeros((0, 3, 5, 5)), images(3, 2, 3, 3)).shape == (0, 2, 7, 7)
    weight = conv2d_weight(np.zeros((0, 2, 5, 5)), np.zeros((0, 3, 3, 3)), kernel_size=3)
    assert weight.tolist() == np.zeros((3, 2, 3, 3)).tolist()
    assert max_pool2d(np.zeros((0, 2, 4, 4)), kernel_size=2).shape == (0, 2, 2, 2)
    assert fold(unfold(np.zeros((0, 2, 4, 4)), kernel_size=2), (4, 4), 2).shape == (0, 2, 4, 4)


def test_inputs_stay_as_they_are():
    x, weight = images(2, 2, 6, 6), images(2, 2, 3, 3)
    kept = copy.deepcopy((x, weight))
    conv2d(x, weight, padding=1)
    conv_transpose2d(x, weight, stride=2)
    conv2d_weight(x, x[:, :, 1:-1, 1:-1], kernel_size=3)
    max_pool2d(x, kernel_size=3, stride=1)
    spatial.avg_pool2d(x, kernel_size=3, stride=1)
    spatial.batch_norm(x)
    unfold(x, kernel_size=1)
    for now, before in zip((x, weight), kept, strict=True):
        np.testing.assert_array_equal(now, before)
    still = x.copy()
    result = unfold(x, kernel_size=1)
    result += 1
    np.testing.assert_array_equal(x, still, err_msg="unfold gives an array of its own")


def test_nan_stays_where_it_is():
    x = np.zeros((1, 1, 6, 6))
    x[0, 0, 0, 0] = np.nan
    y = conv2d(x, np.ones((1, 1, 3, 3)))
    assert np.isnan(y).sum() == 1
    assert np.isnan(max_pool2d(x, kernel_size=2)).sum() == 1
    up = nn.Upsample(scale_factor=2, mode="bilinear")(Tensor(x))
    assert np.isnan(up.numpy()).sum() == 9  # the pixels that it is mixed into
    assert np.isnan(nn.AdaptiveAvgPool2d(3)(Tensor(x)).numpy()).sum() == 1


def test_the_first_of_equals_gets_the_gradient_of_a_maximum():
    x = Tensor(np.zeros((1, 1, 2, 4)), requires_grad=True)
    by_x = grad(max_pool2d(x, kernel_size=2).sum(), x)
    assert by_x.tolist() == [[[[1, 0, 1, 0], [0, 0, 0, 0]]]]
    by_x = grad(max_pool2d(x, kernel_size=2, stride=1).sum(), x)
    assert by_x.tolist() == [[[[1, 1, 1, 0], [0, 0, 0, 0]]]]


def test_a_maximum_of_infinities_has_a_gradient_inside_the_image():
    x = Tensor(np.full((1, 1, 3, 3), -np.inf), requires_grad=True)
    y = max_pool2d(x, kernel_size=3, stride=2, padding=1)
    assert (y.numpy() == -np.inf).all()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (
            lambda x, w, b: conv2d(x, w, b, padding=1, stride=(2, 1)),
            [(2, 2, 4, 3), (2, 2, 3, 2), (2,)],
        ),
        (lambda x, w: conv2d(x, w, groups=2, dilation=2), [(1, 4, 4, 3), (2, 2, 2, 2)]),
        (lambda y, w, b: conv_transpose2d(y, w, b, stride=2), [(1, 2, 2, 3), (2, 3, 3, 2), (3,)]),
        (lambda y, w: conv_transpose2d(y, w, padding=1), [(1, 2, 3, 3), (2, 1, 3, 3)]),
        (lambda x, y: conv2d_weight(x, y, kernel_size=2), [(2, 2, 3, 4), (2, 2, 2, 3)]),
        (lambda x: max_pool2d(x, kernel_size=3, stride=2, padding=1), [(1, 2, 4, 5)]),
        (lambda x: spatial.avg_pool2d(x, kernel_size=3, stride=2, padding=1), [(1, 2, 4, 5)]),
        (lambda x, w, b: spatial.batch_norm(x, w, b), [(2, 2, 3, 2), (2,), (2,)]),
        (lambda x, w, b: group_norm(x, 2, w, b), [(2, 4, 3), (4,), (4,)]),
        (nn.AdaptiveAvgPool2d((2, 3)), [(1, 1, 3, 4)]),
        (nn.Upsample(scale_factor=2), [(1, 1, 2, 3)]),
        (nn.Upsample(size=(3, 5), mode="bilinear"), [(1, 1, 2, 3)]),
    ],
)
def test_gradients_to_second_order(function, shapes):
    def bent(*inputs):
        return function(*inputs) ** 3

    assert gradcheck(bent, *(images(*shape) for shape in shapes), order=2, tolerance=1e-3)


def test_layers_start_as_pytorchs_do():
    manual_seed(0)
    layer = nn.Conv2d(8, 64, 3, groups=2)
    bound = 1 / np.sqrt(4 * 9)
    assert layer.weight.shape == (64, 4, 3, 3)
    for parameter in layer.parameters():
        assert parameter.requires_grad
        assert 0.9 * bound < np.abs(parameter.numpy()).max() <= bound
        assert abs(parameter.numpy().mean()) < 0.2 * bound
    assert np.std(layer.weight.numpy()) == pytest.approx(bound / np.sqrt(3), rel=0.05)
    assert nn.Conv2d(1, 1, 1, bias=False).bias is None
    assert nn.ConvTranspose2d(6, 4, (2, 3), groups=2).weight.shape == (6, 2, 2, 3)


def test_batch_norm_follows_the_mode_and_is_saved():
    layer = nn.BatchNorm2d(2)
    x = Tensor(images(4, 2, 3, 3) * 5 + 3)
    for _ in range(200):
        layer(x)
    mean, variance = x.numpy().mean(axis=(0, 2, 3)), x.numpy().var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-4)
    np.testing.assert_allclose(layer.running_var.numpy(), variance, rtol=1e-4)
    assert len(layer.parameters()) == 2
    other = nn.BatchNorm2d(2)
    other.load_state_dict(layer.state_dict())
    layer.eval()
    other.eval()
    one = Tensor(x.numpy()[:1])
    np.testing.assert_array_equal(other(one).numpy(), layer(one).numpy())
    np.testing.assert_allclose(
        layer(x).numpy()[:1], layer(one).numpy(), rtol=1e-6, err_msg="neighbours don't matter"
    )
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-4)


def test_one_batch_moves_the_running_statistics_by_momentum_and_autograd_hears_of_it():
    layer = nn.BatchNorm1d(1, momentum=0.1)
    before = writes.clock
    layer(Tensor([[8.0], [12.0]]))
    assert layer.running_mean.item() == pytest.approx(1.0)  # 0.9 * 0 + 0.1 * 10
    assert layer.running_var.item() == pytest.approx(1.7)  # 0.9 * 1 + 0.1 * 8
    assert all(writes.since(buffer.data, before) for buffer in layer.buffers())


@pytest.mark.parametrize("eps", [0.0, 2.0])
def test_normalisations_follow_their_formulas(eps):
    x, weight, bias = images(3, 4, 5), images(4, 1), images(4, 1)

    def normalised(x, axes):
        distance = x - x.mean(axis=axes, keepdims=True)
        return distance / np.sqrt((distance**2).mean(axis=axes, keepdims=True) + eps)

    got = spatial.batch_norm(x, weight[:, 0], bias[:, 0], eps=eps)
    np.testing.assert_allclose(got, normalised(x, (0, 2)) * weight + bias, rtol=1e-10)
    parts = normalised(x.reshape(3, 2, 10), 2).reshape(x.shape)
    tensors = (Tensor(v, dtype=np.float64) for v in (x, weight[:, 0], bias[:, 0]))
    x, *affine = tensors
    got = group_norm(x, 2, *affine, eps=eps)
    np.testing.assert_allclose(got.numpy(), parts * weight + bias, rtol=1e-10)


def test_group_norm_of_an_image_does_not_see_the_others():
    x = Tensor(images(3, 4, 5, 2))
    whole = group_norm(x, 2).numpy()
    np.testing.assert_allclose(group_norm(x[1:2], 2).numpy(), whole[1:2], rtol=1e-5, atol=1e-6)


def test_float32_stays_and_mixed_types_meet():
    x, weight = images(1, 2, 4, 4, dtype=np.float32), images(2, 2, 3, 3, dtype=np.float32)
    assert conv2d(x, weight, padding=1).dtype == np.float32
    assert conv2d(x.astype(np.float64), weight).dtype == np.float64
    assert conv_transpose2d(x, weight.astype(np.float64), stride=2).dtype == np.float64
    whole = conv2d(np.arange(9).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2), int))
    assert whole.tolist() == [[[[8, 12], [20, 24]]]]
    for layer in (nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.GroupNorm(2, 2), nn.GlobalAvgPool2d()):
        assert layer(Tensor(x)).dtype == np.float32, layer
    for mode in ("nearest", "bilinear"):
        assert nn.Upsample(size=(3, 7), mode=mode)(Tensor(x)).dtype == np.float32


def test_a_small_network_learns():
    """Vertical or horizontal bars, anywhere: a kernel that looks for edges tells them apart."""
    manual_seed(0)
    generator = np.random.default_rng(0)
    x, labels = np.zeros((64, 1, 8, 8)), generator.integers(0, 2, 64)
    for image, label, place in zip(x, labels, generator.integers(0, 8, 64), strict=True):
        image[0, place] = 1
        if label:
            image[0] = image[0].T.copy()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(8, 2))
    optimizer, loss_fn = optim.Adam(model.parameters(), lr=0.03), nn.CrossEntropyLoss()
    for _ in range(120):
        optimizer.zero_grad()
        loss_fn(model(Tensor(x)), labels).backward()
        optimizer.step()
    with no_grad():
        assert (model(Tensor(x)).numpy().argmax(axis=1) == labels).mean() == 1.0


def test_reprs_say_what_matters():
    assert repr(nn.Conv2d(3, 8, 3, padding="same")) == (
        "Conv2d(3, 8, kernel_size=(3, 3), stride=1, padding=same, dilation=1, groups=1, bias=True)"
    )
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d(kernel_size=2, stride=2, padding=0)"
    assert repr(nn.BatchNorm2d(4)) == "BatchNorm2d(4, eps=1e-05, momentum=0.1)"
    assert repr(nn.Upsample(size=4)) == "Upsample(size=(4, 4), mode='nearest')"


def image(*shape):
    return Tensor(np.zeros(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.Conv2d(1, 1, 5)(image(1, 1, 4, 9)), "the kernel spans 5, the padded input onl"),
        (
            lambda: nn.Conv2d(1, 1, 3, dilation=4)(image(1, 1, 8, 8)),
            "the kernel spans 9, the padded input only 8",
        ),
        (lambda: nn.MaxPool2d(3)(image(1, 1, 2, 2)), "max_pool2d: the kernel spans 3"),
        (lambda: nn.Conv1d(1, 1, 5)(image(1, 1, 4)), "the kernel spans 5"),
        (lambda: output_size(3, 4), "the kernel spans 4, the padded input only 3"),
        (
            lambda: nn.Conv2d(4, 6, 3, groups=4),
            "Conv2d: groups 4 must divide in_channels 4 and out_channels 6",
        ),
        (lambda: nn.Conv1d(3, 4, 3, groups=2), "groups 2 must divide in_channels 3"),
        (lambda: nn.Conv2d(0, 6, 3), "Conv2d: in_channels must be a whole number above 0, got 0"),
        (
            lambda: conv2d(image(1, 4, 5, 5), image(6, 2, 3, 3), groups=4),
            "conv2d: groups 4 must divide the channels of both sides, 4 and 6",
        ),
        (
            lambda: nn.Conv2d(3, 6, 3)(image(2, 4, 5, 5)),
            "conv2d: the input has 4 channels, weight (6, 3, 3, 3) with groups 1 expects 3",
        ),
        (
            lambda: nn.Conv2d(3, 6, 3)(image(3, 5, 5)),
            "conv2d: expected images of shape (N, C, H, W), got (3, 5, 5)",
        ),
        (lambda: nn.Conv1d(3, 6, 3)(image(3, 5)), "Conv1d: expected sequences of shape (N, C, L)"),
        (lambda: nn.Conv2d(1, 1, (3, 3, 3)), "kernel_size: expected an int or two of them"),
        (lambda: nn.Conv2d(1, 1, 0), "kernel_size: expected an int or two of them, at least 1"),
        (
            lambda: nn.Conv2d(1, 1, 3, stride=0)(image(1, 1, 5, 5)),
            "conv2d: stride: expected an int or two of them, at least 1, got 0",
        ),
        (
            lambda: nn.Conv2d(1, 1, 3, padding=-1)(image(1, 1, 5, 5)),
            "padding: expected an int or two of them, at least 0, got -1",
        ),
        (
            lambda: nn.Conv2d(1, 1, 3, padding="full")(image(1, 1, 5, 5)),
            "padding: expected an int or two of them, at least 0, got 'full'",
        ),
        (
            lambda: nn.Conv2d(1, 1, 3, stride=2, padding="same")(image(1, 1, 5, 5)),
            "conv2d: padding 'same' needs stride 1, got (2, 2)",
        ),
        (
            lambda: conv2d(image(1, 1, 5, 5), image(2, 1, 3, 3), image(3)),
            "conv2d: expected a bias of shape (2,), got (3,)",
        ),
        (
            lambda: conv2d(image(1, 1, 5, 5), image(1, 3, 3)),
            "conv2d: expected a weight of shape (O, C / groups, KH, KW), got (1, 3, 3)",
        ),
        (
            lambda: nn.ConvTranspose2d(4, 2, 3)(image(1, 3, 5, 5)),
            "conv_transpose2d: y with 3 channels doesn't fit weight (4, 2, 3, 3)",
        ),
        (
            lambda: nn.ConvTranspose2d(4, 2, 3)(image(4, 5, 5)),
            "ConvTranspose2d: expected images of shape (N, C, H, W), got (4, 5, 5)",
        ),
        (
            lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=2),
            "ConvTranspose2d: output_padding 2 must be smaller than stride 2 or dilation 1",
        ),
        (
            lambda: conv_transpose2d(image(1, 1, 2, 2), image(1, 1, 2, 2), size=(9, 3)),
            "images of size (9, 3) have (8, 2) windows, y (2, 2)",
        ),
        (
            lambda: conv2d_weight(image(1, 1, 4, 4), image(1, 1, 4, 4), kernel_size=3),
            "conv2d_weight: x of (1, 1, 4, 4) has (2, 2) windows, y is (1, 1, 4, 4)",
        ),
        (
            lambda: fold(image(1, 5, 4), size=(3, 3), kernel_size=2),
            "fold: expected columns (N, C * 4, 4), got (1, 5, 4)",
        ),
        (
            lambda: nn.MaxPool2d(2, padding=2)(image(1, 1, 4, 4)),
            "max_pool2d: padding 2 is more than half of the kernel 2",
        ),
        (lambda: nn.AvgPool2d(2)(image(1, 4, 4)), "avg_pool2d: expected images of shape"),
        (lambda: nn.AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d: output_size: expected an int or two"),
        (lambda: nn.AdaptiveAvgPool2d(2)(image(4, 4)), "AdaptiveAvgPool2d: expected images"),
        (lambda: nn.GlobalAvgPool2d()(image(4, 4)), "GlobalAvgPool2d: expected images"),
        (lambda: nn.BatchNorm2d(3)(image(2, 4, 5, 5)), "BatchNorm2d: expected (N, 3, H, W), got"),
        (lambda: nn.BatchNorm2d(3)(image(2, 3)), "BatchNorm2d: expected (N, 3, H, W), got (2, 3)"),
        (
            lambda: nn.BatchNorm1d(3)(image(2, 3, 4, 4)),
            "BatchNorm1d: expected (N, 3) or (N, 3, L), got (2, 3, 4, 4)",
        ),
        (
            lambda: nn.BatchNorm1d(3)(image(1, 3)),
            "BatchNorm1d: training needs two numbers in a channel, got (1, 3)",
        ),
        (lambda: nn.BatchNorm2d(0), "BatchNorm2d: num_features must be above 0, got 0"),
        (lambda: nn.GroupNorm(3, 4), "GroupNorm: 3 groups don't divide 4 channels"),
        (lambda: nn.GroupNorm(2, 4)(image(1, 6, 2, 2)), "GroupNorm: expected (N, 4, ...), got"),
        (lambda: group_norm(image(1, 4), 3), "group_norm: 3 groups don't divide the channels"),
        (lambda: nn.Upsample(), "Upsample: give either a size or a scale_factor"),
        (lambda: nn.Upsample(2, 2), "Upsample: give either a size or a scale_factor"),
        (lambda: nn.Upsample(2, mode="cubic"), "Upsample: mode must be 'nearest' or 'bilinear'"),
        (lambda: nn.Upsample(scale_factor=0), "Upsample: scale_factor must be above 0, got 0"),
        (lambda: nn.Upsample(2)(image(2, 2)), "Upsample: expected images of shape (N, C, H, W)"),
    ],
)
def test_bad_input_says_in_one_line_what_is_wrong(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
