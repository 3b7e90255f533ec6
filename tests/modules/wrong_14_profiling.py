"""Wrong solutions of module 14, and the tests that must notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "count-parameters",
        "counts tensors, not numbers",
        change=("sum(p.size for p", "sum(1 for p"),
        loses=["test-count-parameters"],
    ),
    Wrong(
        "count-parameters",
        "counts what stands in the state dict",
        change=("for p in model.parameters()", "for p in [*model.parameters()] * 2"),
        loses=["test-count-parameters"],
    ),
    Wrong(
        "flops-matmul",
        "forgets the additions",
        change=("2 * out.size", "out.size"),
        loses=["test-matmul-flops"],
    ),
    Wrong(
        "flops-matmul",
        "takes the wrong axis for the inner one",
        change=("shape[-1]", "shape[0]"),
        loses=["test-matmul-flops"],
    ),
    Wrong(
        "flops-linear",
        "forgets the bias",
        "return matmul_flops(inputs, params, out)",
        loses=["test-linear-flops"],
    ),
    Wrong(
        "flops-linear",
        "always counts a bias",
        "return matmul_flops(inputs, params, out) + out.size",
        loses=["test-linear-flops"],
    ),
    Wrong(
        "flops-einsum",
        "two operations whatever the number of factors",
        change=("return len(arrays) *", "return 2 *"),
        loses=["test-einsum-flops"],
    ),
    Wrong(
        "flops-einsum",
        "the last size of a letter wins",
        change=("max(size, sizes.get(letter, 1))", "size"),
        loses=["test-einsum-flops"],
    ),
    Wrong(
        "bytes-moved",
        "forgets the result",
        change=("for x in inputs) + out.nbytes", "for x in inputs)"),
        loses=["test-bytes-moved"],
    ),
    Wrong(
        "bytes-moved",
        "a view counts like a copy",
        "return sum(x.nbytes for x in inputs) + out.nbytes",
        loses=["test-bytes-moved"],
    ),
    Wrong(
        "bytes-moved",
        "four bytes for every element",
        change=("+ out.nbytes", "+ 4 * out.size"),
        loses=["test-bytes-moved"],
    ),
    Wrong(
        "by-op",
        "the fastest first",
        change=('key=lambda row: -row["latency_ms"]', 'key=lambda row: row["latency_ms"]'),
        loses=["test-by-op"],
    ),
    Wrong(
        "by-op",
        "divides by zero",
        change=("ns / max(total, 1)", "ns / total"),
        loses=["test-by-op"],
    ),
    Wrong(
        "by-op",
        "keeps only the last call's flops",
        change=('row["flops"] += call.flops', 'row["flops"] = call.flops'),
        loses=["test-by-op"],
    ),
    Wrong(
        "chrome-events",
        "nanoseconds",
        change=("call.duration_ns / 1000", "call.duration_ns"),
        loses=["test-chrome-events"],
    ),
    Wrong(
        "chrome-events",
        "counts from the first in the list",
        change=(
            "min((call.start_ns for call in calls), default=0)",
            "calls[0].start_ns if calls else 0",
        ),
        loses=["test-chrome-events"],
    ),
    Wrong(
        "latency",
        "counts the runs that warm up",
        change=("for _ in range(iterations)", "for _ in range(warmup + iterations)"),
        loses=["test-latency"],
    ),
    Wrong(
        "latency",
        "the mean in place of the median",
        change=(
            "low, median, high = np.percentile(times, [10, 50, 90]).tolist()",
            "low, median, high = min(times), 1.2 * max(times), max(times)",
        ),
        loses=["test-latency"],
    ),
    Wrong(
        "latency",
        "seconds",
        change=("(time.perf_counter_ns() - start) / 1e6", "(time.perf_counter_ns() - start) / 1e9"),
        loses=["test-latency"],
    ),
    Wrong(
        "activation-bytes",
        "counts views once each",
        change=("kept[id(array)] = array.nbytes", "kept[id(x)] = array.nbytes"),
        loses=["test-activation-bytes"],
    ),
    Wrong(
        "activation-bytes",
        "forgets what operations read",
        change=("for x in (made, *made.node.inputs)", "for x in (made,)"),
        loses=["test-activation-bytes"],
    ),
    Wrong(
        "activation-bytes",
        "counts the parameters too",
        change=("if array not in parameters", "if array"),
        loses=["test-activation-bytes"],
    ),
    Wrong(
        "roofline",
        "always the peak",
        change=(
            "min(machine.gflops_per_second, machine.gigabytes_per_second * flops / moved)",
            "machine.gflops_per_second",
        ),
        loses=["test-roofline"],
    ),
    Wrong(
        "roofline",
        "bytes for each FLOP",
        change=("flops / moved", "moved / flops"),
        loses=["test-roofline"],
    ),
    Wrong(
        "bottleneck",
        "compute and memory mixed up",
        change=("compute_ms >= memory_ms", "compute_ms < memory_ms"),
        loses=["test-bottleneck"],
    ),
    Wrong(
        "bottleneck",
        "never blames the overhead",
        change=('return "overhead"', "pass"),
        loses=["test-bottleneck"],
    ),
    Wrong(
        "graph-depths",
        "the shortest way to a leaf",
        change=("1 + max(known)", "1 + min(known)"),
        loses=["test-graph-depths"],
    ),
    Wrong(
        "graph-depths",
        "numbers the tensors one after the other",
        change=("1 + max(known) if known else 0", "len(depths)"),
        loses=["test-graph-depths"],
    ),
]
