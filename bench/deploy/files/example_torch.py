"""Classify pictures with torch: python example.py PHOTO.jpg ..."""

import sys

import torch
from prepare import FILE, classify, prepare

THREADS = 1
torch.set_num_threads(THREADS)
module = torch.export.load(FILE).module()


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    with torch.inference_mode():
        return module(torch.from_numpy(prepare(pixels)))[0].float().numpy()


if __name__ == "__main__":
    sys.exit(classify(logits, sys.argv[1:]) if sys.argv[1:] else __doc__)
