"""Our own small nets for small images: CIFAR ResNets, a MobileNetV3 with a gentle stem, and a tiny one.

The classes are made on first use, so that this module imports without torch.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.errors import ModelError, nearest

if TYPE_CHECKING:
    from torch import nn

RESNETS = {"resnet8": 1, "resnet14": 2, "resnet20": 3, "resnet32": 5, "resnet56": 9}
"""Name -> residual blocks per stage; depth = 6 n + 2."""
NAMES = (*RESNETS, "mobilenet_v3_small", "tiny")


def build(name: str, classes: int, channels: int) -> nn.Module:
    """``resnet20``, ``resnet20x0.5`` (half the width), ``mobilenet_v3_small``, ``tiny``.

    Raises:
        ModelError: for an unknown name or an impossible width.
    """
    match = re.fullmatch(r"([a-z]\w*?)(?:x(\d+(?:\.\d+)?))?", name)
    base, width = (match[1], float(match[2] or 1)) if match else (name, 1.0)
    if base not in NAMES:
        raise ModelError(f"There is no model edgefit:{name}", todo=nearest(base, NAMES))
    if not 0.05 <= width <= 16:
        raise ModelError(f"The width factor of edgefit:{name} must be between 0.05 and 16", f"{width:g}")
    if base == "tiny":
        return _tiny(classes, channels, width)
    if base == "mobilenet_v3_small":
        return _mobilenet(classes, channels, width)
    return _resnet(RESNETS[base], classes, channels, width)


@cache
def _residual() -> Any:
    from torch import Tensor, nn
    from torch.nn import functional

    class Residual(nn.Module):
        """``relu(main(x) + shortcut(x))``."""

        def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
            super().__init__()
            self.main, self.shortcut = main, shortcut

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.main(x) + self.shortcut(x))

    return Residual


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> list[nn.Module]:
    from torch import nn

    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if relu else [])]


def _scaled(channels: int, width: float) -> int:
    """A channel count times the width factor, in whole fours."""
    return max(4, round(channels * width / 4) * 4)


def _classifier(features: int, classes: int) -> list[tuple[str, nn.Module]]:
    from torch import nn

    return [
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("fc", nn.Linear(features, classes)),
    ]


def _resnet(blocks: int, classes: int, channels: int, width: float) -> nn.Module:
    """He et al., Deep Residual Learning, 2016, section 4.2: 3 stages of 16, 32 and 64 channels.

    Shortcuts that change the shape are 1x1 convolutions (the paper's option B), which pruning can follow.
    """
    from torch import nn

    inputs = _scaled(16, width)
    parts: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(*_conv(channels, inputs, 3)))]
    for stage, outputs in enumerate((_scaled(c, width) for c in (16, 32, 64)), start=1):
        layers = []
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            main = nn.Sequential(*_conv(inputs, outputs, 3, stride), *_conv(outputs, outputs, 3, relu=False))
            same = stride == 1 and inputs == outputs
            shortcut = (
                nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride, relu=False))
            )
            layers.append(_residual()(main, shortcut))
            inputs = outputs
        parts.append((f"stage{stage}", nn.Sequential(*layers)))
    return nn.Sequential(OrderedDict([*parts, *_classifier(inputs, classes)]))


def _tiny(classes: int, channels: int, width: float) -> nn.Module:
    """Three convolutions, about 6,000 parameters: for tests and first steps."""
    from torch import nn

    a, b, c = (_scaled(n, width) for n in (8, 16, 32))
    layers = [*_conv(channels, a, 3), *_conv(a, b, 3, 2), *_conv(b, c, 3, 2)]
    return nn.Sequential(OrderedDict([("features", nn.Sequential(*layers)), *_classifier(c, classes)]))


def _mobilenet(classes: int, channels: int, width: float) -> nn.Module:
    """torchvision's MobileNetV3-small (Howard et al. 2019) with a stem of stride 1, for 32 to 128 pixels."""
    from torch import nn
    from torchvision.models import mobilenet_v3_small

    net: nn.Module = mobilenet_v3_small(num_classes=classes, width_mult=width)
    features: Any = net.features
    stem = features[0][0]
    features[0][0] = nn.Conv2d(channels, stem.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(features[0][0].weight, mode="fan_out")
    return net
