"""Kinds of processors: how shapes count on each, and how much coefficients scatter there.

Found by coordinate search on the published measurements: the error on families that were left out, plus 0.4 of that on devices
that were left out. ``start`` is in the units of TERMS for a device of 10^9 multiply-accumulates and 10^9 bytes a second.
"""

from __future__ import annotations

from hardware_profiles.prediction.features import Shape
from hardware_profiles.prediction.fit import Kind

KINDS: dict[str, Kind] = {
    "cpu": Kind(
        Shape(winograd=6, tile=8, depthwise_pixels=0, depthwise_kernel=-0.3, residual=True),
        {"conv3x3": 1200, "conv": 2000, "pointwise": 2000, "depthwise": 15000, "grouped": 1600, "attention": 1200, "gather": 60000, "weights": 800, "activations": 2500, "elementwise": 1000, "smooth": 160000, "launch": 2, "call": 37},
        own=0.26, gathering=0.585, bytes=0.75, overhead=0.6,
        together=(0.5, 0.3, 0.8), runtime=1.05, level=0.52, version=0.3, noise=0.1,
        launches=0.3, crowd=0.0, absent=frozenset(['overflow', 'serial']),
    ),
    "gpu": Kind(
        Shape(winograd=0, tile=1, depthwise_pixels=200, depthwise_kernel=-0.5, residual=False),
        {"conv3x3": 1000, "conv": 3000, "pointwise": 1200, "depthwise": 60000, "grouped": 42000, "attention": 720, "weights": 2000, "activations": 400, "elementwise": 1000, "launch": 5.6, "call": 250, "serial": 4},
        own=0.5, gathering=0.39, bytes=0.325, overhead=0.9,
        together=(1.28, 1.28, 0.48), runtime=0.192, level=0.52, version=0.675, noise=0.06,
        launches=0.3, crowd=0.75, absent=frozenset(['gather', 'overflow', 'smooth']),
    ),
    "npu": Kind(
        Shape(winograd=0, tile=16, depthwise_pixels=600, depthwise_kernel=0.3, residual=True),
        {"conv3x3": 1200, "conv": 1200, "pointwise": 480, "depthwise": 22500, "grouped": 1200, "attention": 150000, "gather": 90000, "weights": 2000, "activations": 160, "launch": 5.6, "call": 100, "overflow": 5000},
        own=0.6, gathering=0.6, bytes=0.75, overhead=0.9,
        together=(0.5, 0.18, 0.8), runtime=4.05, level=2.7, version=0.292, noise=0.15,
        launches=0.0, crowd=0.75, absent=frozenset(['elementwise', 'serial', 'smooth']),
    ),
}  # fmt: skip
