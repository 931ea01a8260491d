"""Classify pictures with LiteRT: python example.py PHOTO.jpg ..."""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from prepare import FILE, classify, prepare

THREADS = 1
interpreter = Interpreter(model_path=FILE, num_threads=THREADS)
interpreter.allocate_tensors()
source, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]


def logits(pixels):
    """The class scores of one picture, uint8 (height, width, channels)."""
    x = prepare(pixels)
    if source["dtype"] != np.float32:  # an integer input has a scale of its own
        scale, zero = source["quantization"]
        x = np.clip(np.round(x / scale) + zero, -128, 127).astype(source["dtype"])
    interpreter.set_tensor(source["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(answer["index"])[0].astype(np.float32)


if __name__ == "__main__":
    sys.exit(classify(logits, sys.argv[1:]) if sys.argv[1:] else __doc__)
