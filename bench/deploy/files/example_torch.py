"""Classify pictures with torch: python example.py PHOTO.jpg ..."""

import sys

import torch
from prepare import FILE, LABELS, prepare, read

torch.set_num_threads(1)
module = torch.export.load(FILE).module()


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    with torch.inference_mode():
        return module(torch.from_numpy(prepare(pixels)))[0].float().numpy()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        print(path, LABELS[logits(read(path)).argmax()])
