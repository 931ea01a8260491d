"""Classify pictures with OpenVINO: python example.py PHOTO.jpg ..."""

import sys

import openvino
from prepare import FILE, classify, prepare

THREADS = 1
compiled = openvino.Core().compile_model(
    FILE, "CPU", {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
)


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    return compiled([prepare(pixels)])[0][0]


if __name__ == "__main__":
    sys.exit(classify(logits, sys.argv[1:]) if sys.argv[1:] else __doc__)
