"""Is this folder whole, and does the model answer here as it did where it was measured? python verify.py; exit 0 yes, 1 no."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def checksums():
    """Names of files that are missing or not as they were written."""
    sums = HERE / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.is_file() else []
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if not {"verify.py", "example.py", "expected.json", "images.npy"} <= set(written):
        return ["SHA256SUMS"]
    return [
        name
        for name, digest in written.items()
        if not (HERE / name).is_file() or hashlib.sha256((HERE / name).read_bytes()).hexdigest() != digest
    ]


def main():
    wrong = checksums()
    if wrong:
        print("not as it was exported: " + ", ".join(wrong))
        return 1
    from example import logits

    expected = json.loads((HERE / "expected.json").read_text())
    images = np.load(HERE / "images.npy", allow_pickle=False)
    allowed, bad = expected["tolerance"], 0
    for number, (pixels, scores) in enumerate(zip(images, np.float32(expected["logits"]))):
        found = np.asarray(logits(pixels), dtype=np.float32)
        off = float(np.abs(found - scores).max())
        top = np.sort(scores)
        sure = len(top) < 2 or top[-1] - top[-2] > 2 * allowed
        same = not sure or found.argmax() == scores.argmax()
        bad += off > allowed or not same
        print(
            f"image {number}: {'ok' if off <= allowed and same else 'WRONG'}, off by {off:.3g} (allowed {allowed:.3g})"
        )
    print(f"{len(images) - bad} of {len(images)} images are answered as expected")
    if bad:
        print(f"expected is what {expected['made']}; allowed is {expected['why']}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
