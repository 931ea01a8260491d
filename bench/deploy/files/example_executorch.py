"""Classify pictures with ExecuTorch: python example.py PHOTO.jpg ..."""

import sys

import torch
from executorch.runtime import Runtime
from prepare import FILE, classify, prepare

method = Runtime.get().load_program(FILE).load_method("forward")


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    return method.execute([torch.from_numpy(prepare(pixels))])[0][0].float().numpy()


if __name__ == "__main__":
    sys.exit(classify(logits, sys.argv[1:]) if sys.argv[1:] else __doc__)
