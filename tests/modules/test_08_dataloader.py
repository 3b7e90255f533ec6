"""Module 08: data sets, batches, the loader's order and position, transforms, file formats."""

import io
import json
import os
import pickle

import numpy as np
import pytest

from tinytorch.core.tensor import Tensor, manual_seed
from tinytorch.data.loader import (
    ArrayUnpickler,
    Compose,
    DataLoader,
    Dataset,
    Digits,
    ImageDataset,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
    Subset,
    TensorDataset,
    ToTensor,
    collate,
    data_folder,
    epoch_batches,
    every_fifth,
    framed,
    keyed_generator,
    random_split,
    read_cifar,
    read_idx,
    read_published,
    rotate,
)


class Squares(Dataset):
    """Example i is (i, i squared)."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return Tensor([index]), index * index


class Noise:
    """A transform that adds what its generator draws."""

    def __call__(self, x, generator):
        return x + generator.random()


def numbers(count):
    return TensorDataset(np.arange(count))


def seen(loader):
    """The examples of one epoch, batch by batch, as plain lists."""
    return [batch[0].numpy().ravel().tolist() for batch in loader]


# --- datasets ---


def test_a_dataset_without_its_two_methods_cannot_be_made():
    class Half(Dataset):
        def __len__(self):
            return 1

    with pytest.raises(TypeError, match="__getitem__"):
        Half()


def test_tensor_dataset_gives_examples_and_batches():
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1])
    pairs = TensorDataset(Tensor(x), y)
    assert len(pairs) == 4
    example, label = pairs[-1]
    assert example.shape == (3,) and label.shape == ()
    images, labels = pairs.batch(np.array([2, 0, 2]))
    assert np.array_equal(images.numpy(), x[[2, 0, 2]]) and labels.tolist() == [0, 0, 0]
    assert images.dtype == np.float32 and labels.dtype == np.int64
    with pytest.raises(IndexError, match=r"4.*size 4"):
        pairs[4]


def test_batches_have_no_history():
    (x,) = TensorDataset(Tensor([1.0, 2.0], requires_grad=True)).batch(np.array([1]))
    assert not x.requires_grad


@pytest.mark.parametrize(
    "tensors", [(), (np.zeros(3), np.zeros(4)), (np.zeros(3), np.float32(1))], ids=str
)
def test_tensor_dataset_refuses_other_than_one_length(tensors):
    with pytest.raises(ValueError, match="TensorDataset: expected tensors of one length"):
        TensorDataset(*tensors)


def test_subset_counts_its_own_examples():
    inner = Subset(Squares(), [7, 5, 3, 1])
    outer = Subset(inner, [3, 0])
    assert len(outer) == 2 and outer[0][1] == 1 and outer[1][1] == 49
    assert outer.batch(np.array([1, 0]))[1].tolist() == [49, 1]
    for outside in (10, -1):
        with pytest.raises(IndexError, match=f"Subset: index {outside} of a dataset of 10"):
            Subset(Squares(), [0, outside])


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [([7, 3], [7, 3]), ([0.5, 0.5], [5, 5]), ([1 / 3] * 3, [4, 3, 3]), ([10, 0], [10, 0])],
    ids=str,
)
def test_random_split_shares_out_every_example_once(lengths, sizes):
    parts = random_split(numbers(10), lengths, seed=1)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate([part.indices for part in parts])) == list(range(10))


def test_random_split_depends_on_its_seed_alone():
    first, again, other = (random_split(numbers(50), [50], seed)[0].indices for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any() and (first != np.arange(50)).any()
    manual_seed(5)
    unseeded = random_split(numbers(50), [50])[0].indices
    manual_seed(5)
    assert (unseeded == random_split(numbers(50), [50])[0].indices).all()


@pytest.mark.parametrize("lengths", [[7, 4], [11, -1], [0.5, 0.4], [5.0, 4.0]], ids=str)
def test_random_split_refuses_lengths_that_do_not_add_up(lengths):
    with pytest.raises(ValueError, match="random_split: lengths"):
        random_split(numbers(10), lengths)


# --- collate ---

COLLATED = [
    ([1, 2], [1, 2], np.int64),
    ([1.5, 2.5], [1.5, 2.5], np.float32),
    ([True, False], [True, False], np.bool_),
    ([[1, 2], [3, 4]], [[1, 2], [3, 4]], np.int64),
    ([np.zeros(2), np.ones(2)], [[0, 0], [1, 1]], np.float32),
    ([Tensor([1]), Tensor([2])], [[1], [2]], np.float32),
    ([Tensor(1.0, dtype=np.float64)] * 2, [1, 1], np.float64),
    ([np.int8(3), np.int8(4)], [3, 4], np.int8),
]


@pytest.mark.parametrize(("examples", "values", "dtype"), COLLATED, ids=str)
def test_collate_stacks(examples, values, dtype):
    batch = collate(examples)
    assert type(batch) is Tensor and batch.tolist() == values and batch.dtype == dtype


def test_collate_keeps_structure():
    examples = [({"x": Tensor([1]), "name": "a"}, 0), ({"x": Tensor([2]), "name": "b"}, 1)]
    parts, labels = collate(examples)
    assert parts["x"].tolist() == [[1], [2]] and parts["name"] == ["a", "b"]
    assert labels.tolist() == [0, 1]


def test_collate_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"collate: shapes \[\(2,\), \(3,\)\] in one batch"):
        collate([Tensor([1, 2]), Tensor([1, 2, 3])])


# --- order ---


def test_keyed_generators_differ_by_every_part_of_the_key():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (2**32,)]
    draws = [keyed_generator(*key).random() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [keyed_generator(*key).random() for key in keys]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("examples", "batch_size", "drop_last", "sizes"),
    [
        (7, 3, False, [3, 3, 1]),
        (7, 3, True, [3, 3]),
        (6, 3, False, [3, 3]),
        (6, 3, True, [3, 3]),
        (2, 5, False, [2]),
        (2, 5, True, []),
    ],
)
def test_epoch_batches(examples, batch_size, drop_last, sizes, shuffle):
    batches = epoch_batches(examples, batch_size, shuffle, drop_last, seed=3, epoch=1)
    assert [len(batch) for batch in batches] == sizes
    flat = [int(index) for batch in batches for index in batch]
    assert len(set(flat)) == len(flat) == sum(sizes) and set(flat) <= set(range(examples))
    assert shuffle or flat == list(range(sum(sizes)))


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate(epoch_batches(100, 100, True, False, seed, epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4 and sorted(orders[0]) == list(range(100))


# --- the loader ---


def test_a_for_is_an_epoch():
    loader = DataLoader(numbers(20), batch_size=8, shuffle=True, seed=4)
    first, second = seen(loader), seen(loader)
    assert first != second and len(first) == len(loader) == 3
    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(20))
    again = DataLoader(numbers(20), batch_size=8, shuffle=True, seed=4)
    assert [seen(again), seen(again)] == [first, second]


def test_leaving_early_ends_the_epoch():
    loader = DataLoader(numbers(20), batch_size=8, shuffle=True, seed=4)
    next(iter(loader))
    assert loader.epoch == 0 and loader.batch == 1
    second = seen(loader)
    whole = DataLoader(numbers(20), batch_size=8, shuffle=True, seed=4)
    seen(whole)
    assert second == seen(whole)


def test_without_a_seed_manual_seed_decides():
    orders = []
    for seed in (1, 1, 2):
        manual_seed(seed)
        orders.append(seen(DataLoader(numbers(50), batch_size=50, shuffle=True)))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("dataset", [numbers(10), Squares(), [(i, i * i) for i in range(10)]])
def test_anything_that_can_be_counted_and_indexed_is_loaded(dataset):
    assert seen(DataLoader(dataset, batch_size=4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_tensors_are_loaded_without_a_loop_over_examples(monkeypatch):
    dataset = Subset(numbers(100), np.arange(100))
    calls = []
    get = TensorDataset.__getitem__
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda s, i: calls.append(1) or get(s, i))
    assert len(seen(DataLoader(dataset, batch_size=50))) == 2
    assert len(calls) <= 2


def test_collate_fn_gets_the_list_of_examples():
    loader = DataLoader(Squares(), batch_size=5, collate_fn=lambda examples: len(examples))
    assert list(loader) == [5, 5]


def test_transforms_see_the_first_part_and_draw_by_seed_epoch_and_index():
    def values(**options):
        loader = DataLoader(Squares(), transform=Noise(), seed=1, **options)
        epochs = [{int(x): float(x) for xs, _ in loader for x in xs.numpy().ravel()} for _ in "ab"]
        return epochs

    first, second = values(batch_size=3)
    assert first != second and len({v % 1 for v in first.values()}) == 10
    assert values(batch_size=5, shuffle=True) == [first, second]
    labels = [y.tolist() for _, y in DataLoader(Squares(), 10, transform=Noise())]
    assert labels == [[i * i for i in range(10)]]


def test_a_transform_of_examples_that_are_no_tuples():
    loader = DataLoader([Tensor([0]), Tensor([0])], 2, transform=Noise(), seed=0)
    (batch,) = loader
    assert batch.shape == (2, 1) and (batch.numpy() > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an int >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be an int >= 1, got 2.0"),
        ({"num_workers": -1}, "num_workers must be an int >= 0, got -1"),
        ({"seed": -1}, "seed must be an int >= 0, got -1"),
        ({"batch_size": 11, "drop_last": True}, "nothing with drop_last and batch_size 11"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(numbers(10), **options)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="nothing to load: the dataset has 0 examples"):
        DataLoader(numbers(0))


# --- position ---


@pytest.mark.parametrize("stop", range(9))
def test_a_loader_goes_on_from_its_state(stop):
    """Three batches an epoch: the state after any of them leads to the same ones that follow."""

    def make(seed):
        return DataLoader(Squares(), 4, shuffle=True, transform=Noise(), seed=seed)

    def forever(loader):
        while True:
            yield from loader

    def take(batches, count):
        return [next(batches)[0].numpy().tolist() for _ in range(count)]

    loader = make(seed=8)
    batches = forever(loader)
    take(batches, stop)
    state = json.loads(json.dumps(loader.state_dict()))
    expected = take(batches, 5)
    other = make(seed=99)
    other.load_state_dict(state)
    assert take(forever(other), 5) == expected


def test_a_state_at_the_last_batch_leaves_an_empty_rest():
    loader = DataLoader(numbers(4), 2)
    batches = iter(loader)
    next(batches), next(batches)
    assert (loader.epoch, loader.batch) == (0, 2)
    other = DataLoader(numbers(4), 2)
    other.load_state_dict(loader.state_dict())
    assert seen(other) == [] and seen(other) == [[0, 1], [2, 3]]
    assert next(batches, None) is None and (loader.epoch, loader.batch) == (1, 0)


def test_what_is_skipped_is_not_loaded():
    class Counted(Squares):
        loaded: list = []  # noqa: RUF012

        def __getitem__(self, index):
            self.loaded.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Counted(), 4)
    loader.load_state_dict({**loader.state_dict(), "batch": 2})
    assert seen(loader) == [[8, 9]] and Counted.loaded == [8, 9]


def test_a_state_of_another_loader_is_refused():
    state = DataLoader(numbers(10), 4).state_dict()
    for other, key in [
        (DataLoader(numbers(10), 5), "batch_size"),
        (DataLoader(numbers(11), 4), "examples"),
        (DataLoader(numbers(10), 4, shuffle=True), "shuffle"),
        (DataLoader(numbers(10), 4, drop_last=True), "drop_last"),
    ]:
        with pytest.raises(ValueError, match=f"the state has {key}"):
            other.load_state_dict(state)


# --- transforms ---


def image(*shape, dtype=np.float32):
    return np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype)


EVERY_TRANSFORM = [
    Normalize(0.5, 2.0),
    RandomHorizontalFlip(),
    RandomCrop(4, padding=2),
    RandomRotation(30),
    Compose([RandomRotation(30), RandomCrop(4, padding=1), Normalize([0, 1, 2], 1)]),
]


@pytest.mark.parametrize("transform", EVERY_TRANSFORM, ids=lambda t: type(t).__name__)
def test_transforms_draw_from_their_generator_and_leave_the_image_alone(transform):
    given = image(3, 4, 4)
    results = [transform(Tensor(given), np.random.default_rng(s)) for s in (0, 0, *range(20))]
    assert all(type(r) is Tensor and r.shape == (3, 4, 4) for r in results)
    assert all(r.dtype == np.float32 for r in results)
    assert np.array_equal(results[0].numpy(), results[1].numpy())
    is_random = not isinstance(transform, Normalize)
    assert is_random == any(not np.array_equal(r.numpy(), results[0].numpy()) for r in results)
    assert np.array_equal(given, image(3, 4, 4))
    manual_seed(0)
    unkeyed = transform(given)
    manual_seed(0)
    assert np.array_equal(unkeyed.numpy(), transform(given).numpy())


def test_to_tensor():
    gray = ToTensor()(np.array([[0, 255]], np.uint8))
    assert gray.shape == (1, 1, 2) and gray.tolist() == [[[0.0, 1.0]]] and gray.dtype == np.float32
    colour = image(2, 3, 4, dtype=np.uint8)
    expected = colour.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    assert np.array_equal(ToTensor()(colour).numpy(), expected)
    with pytest.raises(ValueError, match="expected uint8"):
        ToTensor()(np.zeros((2, 2)))


def test_normalize():
    x = image(2, 3, 1, 2)  # two images of three channels
    mean, std = [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]
    expected = (x - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert np.allclose(Normalize(mean, std)(x).numpy(), expected)
    assert np.allclose(Normalize(1, 2)(x).numpy(), (x - 1) / 2)
    with pytest.raises(ValueError, match="std must be positive"):
        Normalize(0.5, 0)


def test_flip():
    x = image(1, 2, 3)
    assert np.array_equal(RandomHorizontalFlip(p=1)(x).numpy(), x[:, :, ::-1])
    assert np.array_equal(RandomHorizontalFlip(p=0)(x).numpy(), x)
    generator = np.random.default_rng(0)
    flips = sum(
        RandomHorizontalFlip(p=0.3)(x, generator).numpy()[0, 0, 0] == 3 for _ in range(2000)
    )
    assert abs(flips / 2000 - 0.3) < 0.05


def test_framed():
    for shape in [(2, 3), (1, 2, 3), (2, 1, 2, 3)]:
        x = image(*shape, dtype=np.uint8)
        expected = np.pad(x, [(0, 0)] * (len(shape) - 2) + [(2, 2)] * 2)
        assert np.array_equal(framed(x, 2), expected) and framed(x, 2).dtype == np.uint8


def test_crop_finds_every_window():
    x = image(1, 3, 4)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1)])
    windows = {
        padded[:, t : t + 2, left : left + 3].tobytes() for t in range(4) for left in range(4)
    }
    crop, generator = RandomCrop((2, 3), padding=1), np.random.default_rng(0)
    assert {crop(x, generator).numpy().tobytes() for _ in range(400)} == windows
    assert np.array_equal(RandomCrop((3, 4))(x).numpy(), x)
    with pytest.raises(ValueError, match=r"RandomCrop: \(7, 7\) of \(5, 6\), padding included"):
        RandomCrop(7, padding=1)(x)


def test_rotate_by_right_angles():
    x = image(2, 5, 5)
    for quarters in range(-3, 4):
        turned = rotate(x, 90 * quarters)
        assert np.allclose(turned, np.rot90(x, quarters, axes=(1, 2)), atol=1e-4)
        assert turned.dtype == np.float32
    assert np.array_equal(rotate(x, 0), x)


@pytest.mark.parametrize("degrees", [3, -20, 45, 137, 200.5])
def test_rotate_interpolates(degrees):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy's rotate is the oracle")
    x = np.random.default_rng(0).random((7, 9))
    framed_with_zeros = np.pad(x, 1)
    expected = ndimage.rotate(framed_with_zeros, degrees, reshape=False, order=1)[1:-1, 1:-1]
    assert np.allclose(rotate(x, degrees), expected, atol=1e-5)


# --- files ---


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 28, 28), (300, 2)], ids=str)
def test_read_idx(shape):
    array = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    result = read_idx(idx(array))
    assert np.array_equal(result, array) and result.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file"),
        (b"<html>", "expected an IDX file, which begins 00 00 08, found 3c 68 74"),
        (bytes([0, 0, 9, 1]), "found 00 00 09"),
        (idx(np.zeros(5, np.uint8))[:-1], r"expected 5 bytes of data for shape \(5,\), found 4"),
        (idx(np.zeros(5, np.uint8)) + b"x", "found 6"),
        (bytes([0, 0, 8, 3, 0, 0]), "buffer is smaller"),
    ],
)
def test_read_idx_says_what_is_wrong(content, message):
    with pytest.raises(ValueError, match=message):
        read_idx(content)


@pytest.mark.parametrize("protocol", [2, 4])
def test_read_cifar(protocol):
    data = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    pixels, labels = read_cifar(pickle.dumps({b"data": data, b"labels": [3, 9]}, protocol))
    assert pixels.shape == (2, 3, 32, 32) and labels.tolist() == [3, 9]
    assert pixels[1, 2, 1, 0] == data[1, 2 * 1024 + 32]


def test_read_cifar_refuses_other_shapes():
    content = pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 0]})
    with pytest.raises(ValueError, match=r"expected uint8 \(2, 3072\)"):
        read_cifar(content)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_pickle_can_call_nothing(tmp_path):
    mark = tmp_path / "exploded"
    for bomb in (Bomb(str(mark)), {b"data": Bomb(str(mark)), b"labels": [0]}):
        with pytest.raises(pickle.UnpicklingError, match="mkdir"):
            read_cifar(pickle.dumps(bomb))
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval"):
        ArrayUnpickler(io.BytesIO(b"cbuiltins\neval\n(S'1'\ntR.")).load()
    assert not mark.exists()


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYTORCH_DATA", str(tmp_path / "there"))
    assert data_folder() == tmp_path / "there"
    assert data_folder(tmp_path) == tmp_path
    monkeypatch.delenv("TINYTORCH_DATA")
    pytest.importorskip("pooch", reason="the default folder is pooch's")
    assert "tinytorch" in data_folder().parts


def test_read_published_of_a_file_that_is_there(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError, match=r"a is missing: get it from some\.where"):
        read_published(path, "some.where", bytes.decode, download=False)
    path.write_bytes(b"text")
    assert read_published(path, "some.where", bytes.decode) == "text"
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"is damaged: .*: delete it and load it again"):
        read_published(path, "some.where", bytes.decode)


# --- Digits ---


def test_every_fifth_keeps_the_shares():
    labels = np.array([0] * 10 + [1] * 5 + [2] * 4)
    chosen = every_fifth(np.random.default_rng(0).permutation(labels))
    assert chosen.sum() == 3 and chosen.dtype == bool
    assert np.flatnonzero(every_fifth(labels)).tolist() == [4, 9, 14]


def test_digits():
    train, test = Digits(), Digits(train=False)
    assert len(train) == 1442 and len(test) == 355
    assert train.images.shape == (1442, 1, 8, 8) and train.images.dtype == np.float32
    assert train.labels.dtype == np.int64 and train.images is train.images
    assert train.images.numpy().min() == 0 and train.images.numpy().max() == 1
    together = np.concatenate([train.pixels, test.pixels]).reshape(1797, -1)
    assert together.sum() == 561718  # of ink, in all images
    shares = [np.bincount(part.labels.numpy()) / len(part) for part in (train, test)]
    assert np.abs(shares[0] - shares[1]).max() < 0.005
    image, label = train[-1]
    assert np.array_equal(image.numpy(), train.images.numpy()[-1]) and type(label) is int
    images, labels = next(iter(DataLoader(test, 64)))
    assert images.shape == (64, 1, 8, 8) and labels.shape == (64,) and labels.dtype == np.int64


def test_image_dataset_refuses_what_does_not_fit_together():
    pixels = np.zeros((3, 1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"labels \(N,\), got \(3, 1, 2, 2\) and \(2,\)"):
        ImageDataset(pixels, np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="label 10, but only 10 classes"):
        ImageDataset(pixels, np.array([0, 10, 1], np.uint8))
