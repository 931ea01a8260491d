"""Classify pictures with onnxruntime: python example.py PHOTO.jpg ..."""

import sys

import onnxruntime
from prepare import FILE, classify, prepare

THREADS = 1
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = THREADS
session = onnxruntime.InferenceSession(FILE, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    return session.run(None, {name: prepare(pixels)})[0][0]


if __name__ == "__main__":
    sys.exit(classify(logits, sys.argv[1:]) if sys.argv[1:] else __doc__)
