"""Classify pictures with ExecuTorch: python example.py PHOTO.jpg ..."""

import sys

import torch
from executorch.runtime import Runtime
from prepare import FILE, LABELS, prepare, read

method = Runtime.get().load_program(FILE).load_method("forward")


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    return method.execute([torch.from_numpy(prepare(pixels))])[0][0].float().numpy()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        print(path, LABELS[logits(read(path)).argmax()])
