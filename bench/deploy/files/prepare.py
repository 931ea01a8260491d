"""From pictures to the model's input, as it was trained. numpy alone; Pillow where a file is a photo."""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MODEL = json.loads(next(HERE.glob("*.*.json")).read_text())
PRE, LABELS, FILE = MODEL["preprocess"], MODEL["labels"], str(HERE / MODEL["filename"])
LAYOUT = MODEL["inputs"][0]["layout"] if MODEL["inputs"] else "NCHW"


def read(path):
    """One picture as uint8 (height, width, channels), resized as in training."""
    from PIL import Image

    image = Image.open(path).convert("RGB" if PRE["channels"] == 3 else "L")
    high, wide = PRE["height"], PRE["width"]
    if PRE["resize"] == "crop":
        scale = max(high / image.height, wide / image.width)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
        left, top = (image.width - wide) // 2, (image.height - high) // 2
        image = image.crop((left, top, left + wide, top + high))
    else:
        image = image.resize((wide, high), Image.BILINEAR)
    return np.asarray(image).reshape(high, wide, PRE["channels"])


def prepare(pixels):
    """uint8 (height, width, channels) as the model's float32 input with a batch of one."""
    x = (pixels.astype(np.float32) / 255 - np.float32(PRE["mean"])) / np.float32(PRE["std"])
    return np.ascontiguousarray(x[None] if LAYOUT == "NHWC" else x.transpose(2, 0, 1)[None])


def classify(logits, paths):
    """Print the class of each photo, or what is wrong with it; exit code 0, or 1 where one could not be read."""
    wrong = 0
    for path in paths:
        try:
            print(path, LABELS[logits(read(path)).argmax()])
        except ImportError:
            print("reading photos takes Pillow: pip install pillow")
            return 1
        except OSError as error:
            print(f"{path} is no picture that can be read: {error}")
            wrong = 1
    return wrong
