"""Which power rails of a Jetson add up to the whole module, without counting anything twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.measure.power.base import NoAnswer, read_text

ENERGYMON = "github.com/energymon/energymon, jetson/JetsonPowerRails.md (L4T 32.6.1 guide and device trees)"
DEVICE_TREE = "Linux, arch/arm64/boot/dts/nvidia/"


@dataclass(frozen=True)
class Board:
    """A module: the numbers it has in the device tree, and the rails whose sum is its input power."""

    title: str
    modules: tuple[str, ...]
    rails: tuple[str, ...]
    source: str


BOARDS = (
    Board("Jetson Orin Nano / Orin NX", ("p3767",), ("VDD_IN",), f"{DEVICE_TREE}tegra234-p3767.dtsi"),
    Board(
        "Jetson AGX Orin",
        ("p3701",),
        # VDDQ_VDD2_1V8AO, on the second chip, is fed by VIN_SYS_5V0.
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        f"{DEVICE_TREE}tegra234-p3701.dtsi; github.com/energymon/energymon, jetson/energymon-jetson.c",
    ),
    Board(
        "Jetson AGX Xavier",
        ("p2888",),
        # There is no rail above these six: SYS5V comes from SYS_VIN_MV, the others from SYS_VIN_HV.
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        f"Jetson AGX Xavier product design guide DG-09840, 5.2 and 5.6.2; {ENERGYMON}",
    ),
    Board(
        "Jetson Xavier NX",
        ("p3668",),
        ("VDD_IN",),
        f"forums.developer.nvidia.com/t/200883: VDD_IN is the total power of the module; {ENERGYMON}",
    ),
    Board("Jetson TX2 NX", ("p3636",), ("VDD_IN",), ENERGYMON),
    # VDD_MUX, beside VDD_IN, is the carrier board, which no other module counts.
    Board("Jetson TX2", ("p3310", "p3489"), ("VDD_IN",), ENERGYMON),
    Board("Jetson TX1", ("p2180",), ("VDD_IN",), ENERGYMON),
    Board("Jetson Nano", ("p3448",), ("POM_5V_IN",), ENERGYMON),
)


def board(root: Path) -> Board | None:
    """The module of this machine, by its number in ``/proc/device-tree/compatible``; None when it is not in the table."""
    try:
        compatible = read_text(root / "proc/device-tree/compatible")
    except NoAnswer:
        return None
    return next((b for b in BOARDS if any(m in compatible for m in b.modules)), None)


def model(root: Path) -> str:
    """What the machine calls itself, or an empty text where there is no device tree."""
    try:
        return read_text(root / "proc/device-tree/model")
    except NoAnswer:
        return ""


def choose(present: Iterable[str], root: Path) -> tuple[tuple[str, ...], str]:
    """The rails to add up, of those the sensors have, and what their sum covers.

    A module that the table does not know is taken for the one all of whose rails it has.

    Raises:
        NoAnswer: no entry of the table fits.
    """
    rails, known = set(present), board(root)
    for candidate in [known] if known else BOARDS:
        if rails >= set(candidate.rails):
            title = candidate.title if known else f"module with the rails of a {candidate.title}"
            return candidate.rails, f"{title} ({' + '.join(candidate.rails)})"
    name = known.title if known else model(root) or "this board"
    raise NoAnswer(
        f"which rails of {name} make up its total is not known; it has {', '.join(sorted(rails)) or 'none'}"
    )
