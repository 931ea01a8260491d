"""Classify pictures with onnxruntime: python example.py PHOTO.jpg ..."""

import sys

import onnxruntime
from prepare import FILE, LABELS, prepare, read

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(FILE, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    return session.run(None, {name: prepare(pixels)})[0][0]


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        print(path, LABELS[logits(read(path)).argmax()])
