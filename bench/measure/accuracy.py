"""How right a classifier is: from logits and labels to what a cell records. numpy and scikit-learn only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.stats import wilson
from bench.types import Json, Protocol, Quantity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOP = 5
ONLY = Protocol(processes=1, half_width=0.5, min_runs=6, max_seconds=0.05, warmup_seconds=0.0)
"""How a file is timed where only its answers to the images matter."""


def accuracy_quantity(correct: int, n: int, method: str) -> Quantity:
    """A fraction of right answers with Wilson's 95% interval.

    Args:
        correct: right answers, 0..n.
        n: images; 0 gives a missing quantity.
        method: on which split and runtime, for example ``top-1 on test, on the runtime itself``.
    """
    if n == 0:
        return Quantity.missing("no labelled images", "fraction")
    low, high = wilson(correct, n)
    return Quantity(correct / n, "fraction", low, high, n, "measured", f"{method}; Wilson interval")


def metrics(
    logits: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str], split: str = "test"
) -> Json:
    """The ``classification`` entry of a cell.

    Args:
        logits: (n, classes), finite.
        labels: (n,), 0..classes-1.
        names: class names, one per column.
        split: the name of the images' split.

    Returns:
        ``split, n, labels, confusion`` (rows: truth), ``per_class`` (label, n, precision, recall,
        recall_low, recall_high, f1; None where a class has no images or is never answered),
        ``accuracy``, ``top5`` (None up to 5 classes), ``auc_roc`` (macro, one against the rest, from
        the softmax; None with ``auc_roc_reason``), ``macro_f1``, ``balanced_accuracy``: fractions.

    Raises:
        ValueError: shapes that do not fit, or labels outside the classes.
    """
    import numpy as np
    from sklearn.metrics import confusion_matrix

    n, classes = _check(logits, labels, names)
    answers = logits.argmax(axis=1)
    confusion = confusion_matrix(labels, answers, labels=np.arange(classes))
    per_class = [_class_row(confusion, index, str(names[index])) for index in range(classes)]
    seen = [row for row in per_class if row["n"]]
    auc, reason = _auc(logits, labels)
    found: Json = {
        "split": split,
        "n": n,
        "labels": [str(name) for name in names],
        "confusion": confusion.tolist(),
        "per_class": per_class,
        "accuracy": float(np.trace(confusion) / n),
        "top5": _top(logits, labels) if classes > TOP else None,
        "auc_roc": auc,
        # As scikit-learn does: a class that is never answered counts as 0.
        "macro_f1": float(np.mean([row["f1"] or 0.0 for row in seen])),
        "balanced_accuracy": float(np.mean([row["recall"] for row in seen])),
    }
    if reason:
        found["auc_roc_reason"] = reason
    return found


def _check(logits: Any, labels: Any, names: Sequence[str]) -> tuple[int, int]:
    import numpy as np

    if logits.ndim != 2 or logits.shape != (len(labels), len(names)) or not len(labels):
        raise ValueError(f"logits of shape {logits.shape} for {len(labels)} labels of {len(names)} classes")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"labels {labels.min()}..{labels.max()} for {len(names)} classes")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite")
    return len(labels), len(names)


def _class_row(confusion: Any, index: int, name: str) -> Json:
    right = int(confusion[index, index])
    n, answered = int(confusion[index].sum()), int(confusion[:, index].sum())
    low, high = wilson(right, n) if n else (None, None)
    return {
        "label": name,
        "n": n,
        "precision": right / answered if answered else None,
        "recall": right / n if n else None,
        "recall_low": low,
        "recall_high": high,
        "f1": 2 * right / (n + answered) if n and answered else None,
    }


def _top(logits: Any, labels: Any) -> float:
    """Share of images whose class is among the five best; ties count as right answers ranked first by index."""
    import numpy as np

    best = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    return float(np.mean((best == labels[:, None]).any(axis=1)))


def _auc(logits: Any, labels: Any) -> tuple[float | None, str]:
    """Macro one-against-the-rest area under the ROC curve (Fawcett, *Pattern Recognition Letters* 27, 2006)."""
    import numpy as np
    from scipy.special import softmax
    from sklearn.metrics import roc_auc_score

    classes = logits.shape[1]
    absent = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
    if absent:
        return None, f"{len(absent)} of {classes} classes have no images"
    if classes < 2:
        return None, "one class only"
    scores = softmax(logits.astype(np.float64), axis=1)
    if classes == 2:
        return float(roc_auc_score(labels, scores[:, 1])), ""
    areas = [roc_auc_score(labels == c, scores[:, c]) for c in range(classes)]
    return float(np.mean(areas)), ""
