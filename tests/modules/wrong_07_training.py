"""Plausible wrong solutions of module 07, and the tests that notice them."""

from tito.grading import Wrong

WRONG = [
    Wrong(
        "accuracy",
        "looks along the last axis",
        change=("scores.argmax(axis=1)", "scores.argmax(axis=-1)"),
        loses=["test-accuracy"],
    ),
    Wrong(
        "accuracy",
        "lets shapes broadcast",
        "return float(np.mean(np.asarray(output).argmax(axis=1) == np.asarray(target)))",
        loses=["test-accuracy"],
    ),
    Wrong(
        "accuracy",
        "counts instead of averaging",
        change=("np.mean(scores", "np.sum(scores"),
        loses=["test-accuracy"],
    ),
    Wrong(
        "means",
        "weights a batch by what came before it",
        change=("value * samples", "value * self.samples"),
        loses=["test-means", "test-train-step"],
    ),
    Wrong(
        "means",
        "counts batches",
        change=("self.samples += samples", "self.samples += 1"),
        loses=["test-means"],
    ),
    Wrong(
        "means",
        "keeps the last batch only",
        change=("self.sums.get(name, 0.0) + value * samples", "value * samples"),
        loses=["test-means"],
    ),
    Wrong(
        "backward-batch",
        "lets a NaN through",
        change=("if not math.isfinite(values", "if False and math.isfinite(values"),
        loses=["test-backward-batch"],
    ),
    Wrong(
        "backward-batch",
        "lets infinity through",
        change=("not math.isfinite(values", "math.isnan(values"),
        loses=["test-backward-batch"],
    ),
    Wrong(
        "backward-batch",
        "ignores the share",
        change=("(loss if share == 1 else loss * share).backward()", "loss.backward()"),
        loses=["test-backward-batch", "test-train-step"],
    ),
    Wrong(
        "backward-batch",
        "reports the scaled loss",
        change=("return values", 'return values | {"loss": values["loss"] * share}'),
        loses=["test-backward-batch"],
    ),
    Wrong(
        "backward-batch",
        "records the metrics",
        change=("with no_grad():", "if True:"),
        loses=["test-backward-batch"],
    ),
    Wrong(
        "update",
        "clips after the step",
        """
        optimizer = trainer.optimizer
        if trainer.scheduler is not None:
            optimizer.lr = trainer.scheduler(trainer.step)
        optimizer.step()
        if trainer.grad_clip_norm is not None:
            clip_grad_norm(optimizer.param_groups[0]["params"], trainer.grad_clip_norm)
        trainer.step += 1
        """,
        loses=["test-update"],
    ),
    Wrong(
        "update",
        "sets the rate of the next step",
        change=("trainer.scheduler(trainer.step)", "trainer.scheduler(trainer.step + 1)"),
        loses=["test-update"],
    ),
    Wrong(
        "update",
        "doesn't count",
        change=("trainer.step += 1", "pass"),
        loses=["test-update", "test-train-step", "test-train-epoch"],
    ),
    Wrong(
        "update",
        "never clips",
        change=("clip_grad_norm(parameters, trainer.grad_clip_norm)", "pass"),
        loses=["test-update"],
    ),
    Wrong(
        "train-step",
        "keeps the old gradients",
        change=("trainer.optimizer.zero_grad()", "pass"),
        loses=["test-train-step"],
    ),
    Wrong(
        "train-step",
        "gives every batch the same share",
        change=("size / sum(sizes)", "1 / len(sizes)"),
        loses=["test-train-step"],
    ),
    Wrong(
        "train-step",
        "adds whole gradients",
        change=("size / sum(sizes)", "1.0"),
        loses=["test-train-step"],
    ),
    Wrong(
        "train-step",
        "counts before it has worked",
        """
        trainer.optimizer.zero_grad()
        total = sum(len(targets) for _, targets in batches)
        for batch in batches:
            size = len(batch[1])
            trainer.batch += 1
            trainer._means.add(backward_batch(trainer, batch, metrics, size / total), size)
        update(trainer)
        """,
        loses=["test-train-step"],
    ),
    Wrong(
        "train-step",
        "counts one batch a step",
        change=("trainer.batch += len(batches)", "trainer.batch += 1"),
        loses=["test-train-step", "test-train-epoch"],
    ),
    Wrong(
        "train-epoch",
        "leaves out the last, smaller group",
        """
        group = []
        for batch in batches:
            group.append(batch)
            if len(group) == accumulate:
                train_step(trainer, group, metrics)
                place = here(trainer)
                group = []
                for callback in callbacks:
                    if isinstance(callback, Callback):
                        callback.on_step(trainer)
        """,
        loses=["test-train-epoch"],
    ),
    Wrong(
        "train-epoch",
        "makes a step of each batch",
        change=("islice(batches, accumulate)", "islice(batches, 1)"),
        loses=["test-train-epoch"],
    ),
    Wrong(
        "train-epoch",
        "calls functions at every step",
        change=(
            "if isinstance(callback, Callback):\n                    callback.on_step(trainer)",
            "(callback.on_step if isinstance(callback, Callback) else callback)(trainer)",
        ),
        loses=["test-train-epoch"],
    ),
    Wrong(
        "train-epoch",
        "calls nobody",
        change=("callback.on_step(trainer)", "pass"),
        loses=["test-train-epoch"],
    ),
    Wrong(
        "evaluate",
        "evaluates in train mode",
        change=("with evaluating(trainer.model):", "with no_grad():"),
        loses=["test-evaluate"],
    ),
    Wrong(
        "evaluate",
        "records",
        change=("with evaluating(trainer.model):", "if trainer.model.eval():"),
        loses=["test-evaluate"],
    ),
    Wrong(
        "evaluate",
        "averages batches",
        change=("means.add(values, len(targets))", "means.add(values, 1)"),
        loses=["test-evaluate"],
    ),
    Wrong(
        "evaluate",
        "uses the averages of the epoch that runs",
        change=("means = Means()", "means = trainer._means"),
        loses=["test-evaluate"],
    ),
    Wrong(
        "patience",
        "takes an equal loss for a better one",
        change=("if loss < best:", "if loss <= best:"),
        loses=["test-patience"],
    ),
    Wrong(
        "patience",
        "compares with the last loss, not the best",
        """
        since = 0
        for last, loss in zip(losses, losses[1:]):
            since = 0 if loss < last else since + 1
        return since >= patience
        """,
        loses=["test-patience"],
    ),
    Wrong(
        "patience",
        "waits one epoch longer",
        change=("since >= patience", "since > patience"),
        loses=["test-patience", "test-fit"],
    ),
    Wrong(
        "patience",
        "is lost after a NaN",
        "return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= patience",
        loses=["test-patience"],
    ),
    Wrong(
        "fit",
        "counts epochs from this call",
        change=(
            "while trainer.epoch < epochs and not trainer.stop:",
            "for _ in range(epochs):\n        if trainer.stop:\n            break",
        ),
        loses=["test-fit"],
    ),
    Wrong(
        "fit",
        "cannot be stopped",
        change=(" and not trainer.stop", " and trainer.epoch < 60"),
        loses=["test-fit"],
    ),
    Wrong(
        "fit",
        "has no patience",
        change=("patience is not None and losses and", "patience is None and losses and"),
        loses=["test-fit"],
    ),
    Wrong(
        "fit",
        "forgets functions among the callbacks",
        change=(
            "(callback.on_epoch if isinstance(callback, Callback) else callback)(trainer)",
            "isinstance(callback, Callback) and callback.on_epoch(trainer)",
        ),
        loses=["test-fit"],
    ),
    Wrong(
        "fit",
        "validates before it trains",
        """
        while trainer.epoch < epochs and not trainer.stop:
            with progress_bar(trainer, loader, epochs, progress) as bar:
                if validation is not None:
                    write_down(trainer, "validation", evaluate(trainer, validation, metrics))
                train_epoch(trainer, loader, metrics, callbacks, accumulate, bar)
            for callback in callbacks:
                (callback.on_epoch if isinstance(callback, Callback) else callback)(trainer)
        """,
        loses=["test-fit"],
    ),
    Wrong(
        "write-atomically",
        "writes over the old file",
        "path.parent.mkdir(parents=True, exist_ok=True)\npath.write_bytes(content)\n"
        "with open(path) as file:\n    os.fsync(file.fileno())",
        loses=["test-write-atomically"],
    ),
    Wrong(
        "write-atomically",
        "doesn't wait for the disk",
        change=("os.fsync(file.fileno())", "pass"),
        loses=["test-write-atomically"],
    ),
    Wrong(
        "write-atomically",
        "leaves its rubbish behind",
        change=("beside.unlink(missing_ok=True)", "pass"),
        loses=["test-write-atomically"],
    ),
    Wrong(
        "write-atomically",
        "swallows the error",
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(beside, "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError:
            beside.unlink()
        """,
        loses=["test-write-atomically"],
    ),
    Wrong(
        "pack",
        "doesn't look into lists",
        change=("if isinstance(value, (list, tuple)):", "if isinstance(value, range):"),
        loses=["test-pack"],
    ),
    Wrong(
        "pack",
        "keeps the Tensor",
        change=("arrays[name] = np.asarray(value)", "arrays[name] = value"),
        loses=["test-pack"],
    ),
    Wrong(
        "pack",
        "keeps NumPy's numbers",
        change=("value.item() if isinstance(value, np.generic) else value", "value"),
        loses=["test-pack"],
    ),
    Wrong(
        "pack",
        "leaves the names in their places",
        change=('return arrays[value["array"]]', "return value"),
        loses=["test-pack", "test-save-checkpoint"],
    ),
    Wrong(
        "save-checkpoint",
        "forgets the bookmark of an interrupted run",
        change=("trainer._resume or here(trainer)", "here(trainer)"),
        loses=["test-save-checkpoint"],
    ),
    Wrong(
        "save-checkpoint",
        "mixes the counts up",
        change=("[trainer.epoch, trainer.batch, trainer.step]", "[trainer.epoch, trainer.step, 0]"),
        loses=["test-save-checkpoint"],
    ),
    Wrong(
        "save-checkpoint",
        "saves a fresh optimizer",
        change=(
            "trainer.optimizer.state_dict()",
            '{**trainer.optimizer.state_dict(), "state": {}}',
        ),
        loses=["test-load-checkpoint"],
    ),
    Wrong(
        "load-checkpoint",
        "forgets the random numbers",
        change=(
            'trainer.history, trainer._resume = facts["history"], facts["place"]',
            'trainer.history = facts["history"]',
        ),
        loses=["test-load-checkpoint"],
    ),
    Wrong(
        "load-checkpoint",
        "forgets the optimizer",
        change=('trainer.optimizer.load_state_dict(facts["optimizer"])', "pass"),
        loses=["test-load-checkpoint"],
    ),
    Wrong(
        "load-checkpoint",
        "leaves half of a foreign checkpoint in the model",
        change=("trainer.model.load_state_dict(before)", "pass"),
        loses=["test-load-checkpoint"],
    ),
    Wrong(
        "load-checkpoint",
        "takes the state of any optimizer",
        change=('if facts["optimizer_class"] != name:', "if False:"),
        loses=["test-load-checkpoint"],
    ),
]
