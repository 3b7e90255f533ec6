"""Plausible wrong solutions of module 08, and the tests that notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "tensor-dataset",
        "counts elements, not examples",
        change=("return self.tensors[0].shape[0]", "return self.tensors[0].size"),
        loses=["test-tensor-dataset"],
    ),
    Wrong(
        "tensor-dataset",
        "keeps the history of the tensors",
        change=("tuple(Tensor._wrap(np.asarray(t.data[index])) for", "tuple(t[index] for"),
        loses=["test-tensor-dataset"],
    ),
    Wrong(
        "tensor-dataset",
        "takes tensors of any length",
        change=(
            "if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:",
            "if 0:",
        ),
        loses=["test-tensor-dataset"],
    ),
    Wrong(
        "collate",
        "treats a tuple as one array",
        change=("if isinstance(first, tuple):", "if False:"),
        loses=["test-collate"],
    ),
    Wrong(
        "collate",
        "turns every float into float32",
        change=(
            "Tensor._wrap(stacked) if isinstance(first, Tensor) else Tensor(stacked)",
            "Tensor(stacked)",
        ),
        loses=["test-collate"],
    ),
    Wrong(
        "collate",
        "treats a list of numbers as structure",
        change=("isinstance(first, tuple)", "isinstance(first, tuple | list)"),
        loses=["test-collate"],
    ),
    Wrong(
        "subset",
        "forgets the renumbering",
        change=("return self.dataset[int(self.indices[index])]", "return self.dataset[index]"),
        loses=["test-subset"],
    ),
    Wrong(
        "subset",
        "takes the first examples for a batch",
        change=(
            "return self.dataset.batch(self.indices[indices])",
            "return self.dataset.batch(indices)",
        ),
        loses=["test-subset"],
    ),
    Wrong(
        "subset",
        "lets negative numbers through",
        change=(
            "(self.indices < 0) | (self.indices >= len(dataset))",
            "self.indices >= len(dataset)",
        ),
        loses=["test-subset"],
    ),
    Wrong(
        "subset",
        "loads a batch one by one",
        change=(
            "return self.dataset.batch(self.indices[indices])",
            "return collate([self[i] for i in indices])",
        ),
        loses=["test-subset"],
    ),
    Wrong(
        "keyed-generator",
        "puts seed and key into one list",
        "return np.random.default_rng([seed, *key])",
        loses=["test-keyed-generator"],
    ),
    Wrong(
        "keyed-generator",
        "adds the key to the seed",
        "return np.random.default_rng(seed + sum(key))",
        loses=["test-keyed-generator"],
    ),
    Wrong(
        "keyed-generator",
        "ignores the key",
        "return np.random.default_rng(seed)",
        loses=["test-keyed-generator"],
    ),
    Wrong(
        "random-split",
        "deals out in order",
        change=("keyed_generator(_given_or_new(seed)).permutation(total)", "np.arange(total)"),
        loses=["test-random-split"],
    ),
    Wrong(
        "random-split",
        "loses what rounding leaves over",
        change=("counts[part] += 1", "counts[-1] += 1"),
        loses=["test-random-split"],
    ),
    Wrong(
        "random-split",
        "ignores the seed",
        change=("_given_or_new(seed)", "0"),
        loses=["test-random-split"],
    ),
    Wrong(
        "random-split",
        "cuts silently where lengths don't add up",
        change=("if sum(counts) != total or min(counts) < 0:", "if min(counts) < 0:"),
        loses=["test-random-split"],
    ),
    Wrong(
        "epoch-batches",
        "always drops the last batch",
        change=("if drop_last else examples", "if True else examples"),
        loses=["test-epoch-batches"],
    ),
    Wrong(
        "epoch-batches",
        "never drops the last batch",
        change=("examples - examples % batch_size if drop_last else examples", "examples"),
        loses=["test-epoch-batches"],
    ),
    Wrong(
        "epoch-batches",
        "shuffles every epoch alike",
        change=("keyed_generator(seed, epoch)", "keyed_generator(seed)"),
        loses=["test-epoch-batches"],
    ),
    Wrong(
        "epoch-batches",
        "draws indices with replacement",
        change=(".permutation(examples)", ".integers(examples, size=examples)"),
        loses=["test-epoch-batches"],
    ),
    Wrong(
        "load-batch",
        "one generator for the whole batch",
        change=(
            "keyed_generator(loader.seed, epoch, index)",
            "keyed_generator(loader.seed, epoch)",
        ),
        loses=["test-load-batch"],
    ),
    Wrong(
        "load-batch",
        "the same numbers in every epoch",
        change=(
            "keyed_generator(loader.seed, epoch, index)",
            "keyed_generator(loader.seed, index)",
        ),
        loses=["test-load-batch"],
    ),
    Wrong(
        "load-batch",
        "transforms tuples as a whole",
        change=("if isinstance(example, tuple):", "if False:"),
        loses=["test-load-batch"],
    ),
    Wrong(
        "load-batch",
        "ignores collate_fn",
        change=("return loader.collate_fn(examples)", "return collate(examples)"),
        loses=["test-load-batch"],
    ),
    Wrong(
        "load-batch",
        "asks by NumPy's integers",
        change=("indices.tolist()", "indices"),
        loses=["test-load-batch"],
    ),
    Wrong(
        "run-ahead",
        "submits everything at once",
        """
        running = deque(submit(item) for item in items)
        while running:
            yield running.popleft().result()
        """,
        loses=["test-run-ahead"],
    ),
    Wrong(
        "run-ahead",
        "waits for each before the next",
        "for item in items:\n    yield submit(item).result()",
        loses=["test-run-ahead"],
    ),
    Wrong(
        "run-ahead",
        "takes the newest first",
        change=("running.popleft()", "running.pop()"),
        loses=["test-run-ahead"],
    ),
    Wrong(
        "run-ahead",
        "works in rounds",
        """
        waiting = iter(items)
        while running := [submit(item) for item in islice(waiting, limit)]:
            for job in running:
                yield job.result()
        """,
        loses=["test-run-ahead"],
    ),
    Wrong(
        "to-tensor",
        "reshapes instead of moving axes",
        change=("image.transpose(2, 0, 1)", "image.reshape(image.shape[2], *image.shape[:2])"),
        loses=["test-to-tensor"],
    ),
    Wrong(
        "to-tensor",
        "keeps 0 to 255",
        change=("np.float32(255)", "np.float32(1)"),
        loses=["test-to-tensor"],
    ),
    Wrong(
        "to-tensor",
        "gives float64",
        change=("np.float32(255)", "np.float64(255)"),
        loses=["test-to-tensor"],
    ),
    Wrong(
        "normalize",
        "divides before it subtracts",
        "return image / self.std - self.mean",
        loses=["test-normalize"],
    ),
    Wrong(
        "normalize",
        "writes into the image",
        "image -= self.mean\nimage /= self.std\nreturn image",
        loses=["test-normalize"],
    ),
    Wrong(
        "flip",
        "turns upside down",
        change=("image[..., ::-1]", "image[..., ::-1, :]"),
        loses=["test-flip"],
    ),
    Wrong(
        "flip",
        "flips with 1 - p",
        change=("generator.random() <", "generator.random() >="),
        loses=["test-flip"],
    ),
    Wrong(
        "flip",
        "draws from NumPy's own numbers",
        change=("generator.random()", "np.random.random()"),
        loses=["test-flip"],
    ),
    Wrong("framed", "frames every axis", "return np.pad(image, width)", loses=["test-framed"]),
    Wrong(
        "framed",
        "repeats the edge",
        'return np.pad(image, [(0, 0)] * (image.ndim - 2) + [(width, width)] * 2, mode="edge")',
        loses=["test-framed"],
    ),
    Wrong("framed", "forgets the dtype", change=(", image.dtype)", ")"), loses=["test-framed"]),
    Wrong(
        "crop",
        "misses the last place",
        change=("places + 1", "max(places, 1)"),
        loses=["test-crop"],
    ),
    Wrong(
        "crop",
        "cuts from the middle",
        change=("generator.integers(places + 1)", "places // 2"),
        loses=["test-crop"],
    ),
    Wrong(
        "crop",
        "gives what is left where the window is too large",
        change=("if (room < 0).any():", "room = np.maximum(room, 0)\n        if False:"),
        loses=["test-crop"],
    ),
    Wrong(
        "rotation",
        "takes the nearest pixel above",
        "return image[..., from_y.astype(int), from_x.astype(int)]",
        loses=["test-rotate"],
    ),
    Wrong(
        "rotation",
        "swaps the two rests",
        change=("down, right = from_y % 1, from_x % 1", "right, down = from_y % 1, from_x % 1"),
        loses=["test-rotate"],
    ),
    Wrong(
        "rotation",
        "becomes float64",
        change=("from_y % 1, from_x % 1", "from_y - top, from_x - left"),
        loses=["test-rotate"],
    ),
    Wrong("read-idx", "reads little-endian", change=('">i4"', '"<i4"'), loses=["test-read-idx"]),
    Wrong(
        "read-idx",
        "takes any start for an IDX file",
        change=(r'if content[:3] != b"\0\0\x08":', "if False:"),
        loses=["test-read-idx"],
    ),
    Wrong(
        "read-idx",
        "reads as much as the shape says",
        """
        if content[:3] != b"\\0\\0\\x08":
            raise ValueError("no IDX file")
        shape = np.frombuffer(content, ">i4", content[3], offset=4).tolist()
        start = 4 + 4 * len(shape)
        return np.frombuffer(content, np.uint8, math.prod(shape), start).reshape(shape)
        """,
        loses=["test-read-idx"],
    ),
    Wrong(
        "unpickler",
        "allows everything",
        "return super().find_class(module, name)",
        loses=["test-unpickler", "test-read-cifar"],
    ),
    Wrong(
        "unpickler",
        "allows all of NumPy",
        change=(
            "(module, name) not in self.allowed",
            'module.split(".")[0] not in ("numpy", "_codecs")',
        ),
        loses=["test-unpickler"],
    ),
    Wrong(
        "read-cifar",
        "channels last",
        change=(".reshape(-1, 3, 32, 32)", ".reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)"),
        loses=["test-read-cifar"],
    ),
    Wrong(
        "read-cifar",
        "loads any pickle",
        change=("ArrayUnpickler(io.BytesIO(content)", "pickle.Unpickler(io.BytesIO(content)"),
        loses=["test-read-cifar"],
    ),
    Wrong(
        "read-published",
        "downloads to the final name",
        """
        if not path.is_file():
            if not download:
                raise FileNotFoundError(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(url, path)
        return _parse(path, parse)
        """,
        loses=["test-read-published"],
    ),
    Wrong(
        "read-published",
        "downloads every time",
        change=("if path.is_file():", "if not download:"),
        loses=["test-read-published"],
    ),
    Wrong(
        "read-published",
        "names the file before it is read",
        change=(
            "parsed = _parse(temporary, parse)\n        os.replace(temporary, path)",
            "os.replace(temporary, path)\n        parsed = _parse(path, parse)",
        ),
        loses=["test-read-published"],
    ),
    Wrong(
        "every-fifth",
        "every fifth of all",
        "return np.arange(len(labels)) % 5 == 4",
        loses=["test-every-fifth"],
    ),
    Wrong(
        "every-fifth",
        "starts with the first",
        change=("[4::5]", "[::5]"),
        loses=["test-every-fifth"],
    ),
]
