"""Classify pictures with OpenVINO: python example.py PHOTO.jpg ..."""

import sys

import openvino
from prepare import FILE, LABELS, prepare, read

compiled = openvino.Core().compile_model(
    FILE, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
)


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    return compiled([prepare(pixels)])[0][0]


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        print(path, LABELS[logits(read(path)).argmax()])
