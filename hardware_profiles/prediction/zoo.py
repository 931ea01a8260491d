"""The nets that publications name, rebuilt: from timm, from torchvision, or from our own definitions of those they lack."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

FAMILIES = (
    ("resnext", r"(se)?resnext|se-resnext"), ("resnet_v2", r"resnet(_|-)?v2|resnet-\d+ v2"), ("inception_resnet", r"inception_resnet|inception-resnet"),
    ("resnet", r"resnet|ResNet"), ("vgg", r"vgg"), ("inception", r"inception|googlenet"), ("mobilenet_v1", r"mobilenet_?v1"),
    ("mobilenet_v2", r"mobilenet_?v2"), ("mobilenet_v3", r"mobilenet_?v3|hardcorenas|tinynet"), ("mixnet", "mixnet"),
    ("efficientnet_v2", r"(tf_)?efficientnetv2|efficientnet_v2"), ("efficientnet", r"(tf_)?efficientnet"),
    ("shufflenet", "shufflenet"), ("squeezenet", "squeezenet"), ("alexnet", "alexnet"), ("proxylessnas", "proxylessnas"),
    ("efficientvit", "efficientvit"), ("mobilevit", "mobilevit"), ("vit", r"vit_|deit|beit|vision_transformer"), ("swin", "swin"),
    ("levit", "levit"), ("convnext", "convnext"), ("fastvit", "fastvit"), ("repvit", "repvit"), ("mobileone", "mobileone"),
    ("nasnet", "nasnet"), ("sequencer", "sequencer"), ("densenet", "densenet"), ("regnet", "regnet"), ("mnasnet", "mnasnet"),
)  # fmt: skip
"""Families, by the first pattern that a canonical name starts with: what a fold leaves out together."""


def family(canonical: str) -> str:
    """The family of a net, by its name; its own name where no family is known."""
    name = canonical.lower().removeprefix("timm:")
    for known, pattern in FAMILIES:
        if re.match(pattern, name):
            return known
    return re.split(r"[-_.\d]", name)[0] or name


# --- our own definitions


def _cbr(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True) -> list[Any]:
    from torch import nn

    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout)] + ([nn.ReLU6(True)] if act else [])


def _head(width: int) -> list[Any]:
    from torch import nn

    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000)]


def mobilenet_v1(width: float = 1.0) -> nn.Module:
    """Howard et al., MobileNets, arXiv:1704.04861, table 1."""
    from torch import nn

    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    cin = int(32 * width)
    layers = _cbr(3, cin, 3, 2)
    for channels, stride in plan:
        cout = int(channels * width)
        layers += _cbr(cin, cin, 3, stride, cin) + _cbr(cin, cout, 1)
        cin = cout
    return nn.Sequential(*layers, *_head(cin))


def alexnet() -> nn.Module:
    """Krizhevsky et al., NIPS 2012, with its two groups (torchvision's has none)."""
    from torch import nn

    def conv(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[Any]:
        return [
            nn.Conv2d(cin, cout, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups),
            nn.ReLU(True),
        ]

    def pool() -> Any:
        return nn.MaxPool2d(3, 2)

    layers = [*conv(3, 96, 11, 4), pool(), *conv(96, 256, 5, groups=2), pool(), *conv(256, 384, 3)]
    layers += [*conv(384, 384, 3, groups=2), *conv(384, 256, 3, groups=2), pool(), nn.Flatten()]
    layers += [nn.Linear(9216, 4096), nn.ReLU(True), nn.Linear(4096, 4096), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


def _wrapped(forward: Callable[..., Any], **modules: Any) -> nn.Module:
    """A module of these parts with this ``forward(self, x)``."""
    from torch import nn

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x: Any) -> Any:
            return forward(self, x)

    return Part()


def _residual(body: Any) -> nn.Module:
    return _wrapped(lambda self, x: x + self.body(x), body=body)


def shufflenet_v1() -> nn.Module:
    """Zhang et al., ShuffleNet, CVPR 2018, 1x with three groups, table 1."""
    import torch
    from torch import nn

    def forward(self: Any, x: Any) -> Any:
        y = self.first(x)
        batch, channels, high, wide = y.shape
        y = y.view(batch, 3, channels // 3, high, wide).transpose(1, 2).reshape(batch, channels, high, wide)
        y = self.second(y)
        return torch.relu(x + y) if self.pool is None else torch.relu(torch.cat((self.pool(x), y), 1))

    layers: list[Any] = [*_cbr(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    cin = 24
    for cout, blocks in ((240, 4), (480, 8), (960, 4)):
        for i in range(blocks):
            stride, made = (2, cout - cin) if i == 0 else (1, cout)
            middle = made // 4
            first = nn.Sequential(*_cbr(cin, middle, 1, groups=1 if cin == 24 else 3))
            second = nn.Sequential(
                *_cbr(middle, middle, 3, stride, middle, act=False),
                *_cbr(middle, made, 1, groups=3, act=False),
            )
            pool = nn.AvgPool2d(3, 2, 1) if i == 0 else None
            layers.append(_wrapped(forward, first=first, second=second, pool=pool))
            cin = cout
    return nn.Sequential(*layers, *_head(cin))


def proxylessnas_mobile() -> nn.Module:
    """Cai et al., ProxylessNAS, ICLR 2019, the mobile net, with the widths that ncnn's benchmark runs."""
    from torch import nn

    plan = (
        (48, 32, 5, 2), (96, 32, 3, 1), (96, 40, 7, 2), (120, 40, 3, 1), (120, 40, 5, 1), (120, 40, 5, 1),
        (240, 80, 7, 2), (240, 80, 5, 1), (240, 80, 5, 1), (240, 80, 5, 1), (480, 96, 5, 1), (288, 96, 5, 1),
        (288, 96, 5, 1), (288, 96, 5, 1), (576, 192, 7, 2), (1152, 192, 7, 1), (576, 192, 7, 1), (576, 192, 7, 1),
        (1152, 320, 7, 1),
    )  # fmt: skip
    layers = _cbr(3, 32, 3, 2) + _cbr(32, 32, 3, 1, 32) + _cbr(32, 32, 1, act=False)
    cin = 32
    for middle, cout, kernel, stride in plan:
        block = nn.Sequential(
            *_cbr(cin, middle, 1),
            *_cbr(middle, middle, kernel, stride, middle),
            *_cbr(middle, cout, 1, act=False),
        )
        layers.append(_residual(block) if stride == 1 and cin == cout else block)
        cin = cout
    return nn.Sequential(*layers, *_cbr(cin, 1280, 1), *_head(1280))


def _googlenet(kernel: int) -> Any:
    """torchvision's has 3x3 where Szegedy et al. (CVPR 2015) have 5x5."""
    import torchvision
    from torch import nn

    net = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False)
    for module in net.modules():
        if type(module).__name__ == "Inception":
            old = module.branch3[1].conv
            module.branch3[1].conv = nn.Conv2d(
                old.in_channels, old.out_channels, kernel, padding=kernel // 2, bias=False
            )
    return net


def _resnet_v1(depth: int) -> Any:
    """With the stride in the first 1x1, as He et al. (CVPR 2016) have it; torchvision's is in the 3x3."""
    import torchvision

    net = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    for module in net.modules():
        if type(module).__name__ == "Bottleneck":
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    return net


def _torchvision(name: str, **options: Any) -> Any:
    import torchvision

    return getattr(torchvision.models, name)(weights=None, **options)


def _timm(name: str) -> Any:
    import timm

    return timm.create_model(name)


BUILDERS: dict[str, Callable[[], Any]] = {
    "alexnet": alexnet,
    "beit": partial(_timm, "beit_base_patch16_224"),
    "efficientnet-edgetpu-m": partial(_timm, "efficientnet_em"),
    "efficientnet-edgetpu-s": partial(_timm, "efficientnet_es"),
    "efficientnetv2_b0": partial(_timm, "tf_efficientnetv2_b0"),
    "efficientvit_b2_cls": partial(_timm, "efficientvit_b2"),
    "efficientvit_l2_cls": partial(_timm, "efficientvit_l2"),
    "googlenet": partial(_googlenet, 5),
    "inception_v1": partial(_googlenet, 5),
    "levit": partial(_timm, "levit_128s"),
    "mobilenet_v3_large_0.75": partial(_timm, "tf_mobilenetv3_large_075"),
    "mobilenet_v3_large_1.0": partial(_timm, "mobilenetv3_large_100"),
    "mobilenet_v3_large_minimalistic_1.0": partial(_timm, "tf_mobilenetv3_large_minimal_100"),
    "nasnet": partial(_timm, "nasnetalarge"),
    "nasnet_large": partial(_timm, "nasnetalarge"),
    "proxylessnas_gpu?": proxylessnas_mobile,
    "resnet-50 v1": partial(_resnet_v1, 50),
    "resnet-50 v2": partial(_timm, "resnetv2_50"),
    "resnet-152 v2": partial(_timm, "resnetv2_152"),
    "resnet_v2_50": partial(_timm, "resnetv2_50"),
    "resnet_v2_101": partial(_timm, "resnetv2_101"),
    "resnet_v2_152": partial(_timm, "resnetv2_152"),
    "resnext101_32x4d": partial(_timm, "resnext101_32x4d"),
    "sequencer2d": partial(_timm, "sequencer2d_s"),
    "seresnext101_32x4d": partial(_timm, "seresnext101_32x4d"),
    "shufflenet": shufflenet_v1,
    "squeezenet1_1": partial(_torchvision, "squeezenet1_1"),
    "swin_base": partial(_timm, "swin_base_patch4_window7_224"),
    "swin_small": partial(_timm, "swin_small_patch4_window7_224"),
    "torchvision-alexnet": partial(_torchvision, "alexnet"),
    "vision_transformer": partial(_timm, "vit_base_patch32_384"),
}  # fmt: skip
"""Canonical names that are neither timm's nor torchvision's; those of MobileNets have their width in the name."""


def build(canonical: str, size: int = 0) -> Any:
    """The net (``nn.Module``) of a publication, without weights; None where it cannot be rebuilt."""
    import torch

    maker = _maker("torchvision-alexnet" if (canonical, size) == ("alexnet", 224) else canonical)
    if maker is None:
        return None
    try:
        with torch.device("meta"):
            return maker()
    except (NotImplementedError, RuntimeError):  # its constructor computes with values
        return maker()


def _maker(canonical: str) -> Callable[[], Any] | None:
    name = canonical.removeprefix("timm:")
    if re.fullmatch(r"efficientvit-[bl]\d", name):  # the authors' spelling
        name = name.replace("-", "_")
    if name in BUILDERS:
        return BUILDERS[name]
    width = re.fullmatch(r"mobilenet_v([12])_([\d.]+)", name)
    if width:
        factor = float(width[2])
        return (
            partial(mobilenet_v1, factor)
            if width[1] == "1"
            else partial(_torchvision, "mobilenet_v2", width_mult=factor)
        )
    if "@" in name:
        return None
    import timm
    import torchvision

    if timm.is_model(name):
        return partial(_timm, name)
    if name in torchvision.models.list_models():
        return partial(_torchvision, name)
    return None
