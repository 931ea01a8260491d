"""The doctor's checks of software, energy instruments and GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bench.measure.doctor.findings import Finding, Grade, count, remedy, sudo
from bench.measure.doctor.look import Look
from bench.measure.gpu import HARMLESS
from bench.runtimes.base import Probe
from bench.types import Json

MODEL, JETSON_ONLY = "codecarbon", ("ina3221", "tegrastats")
X86 = ("x86_64", "AMD64", "i686")


def software(look: Look) -> Iterator[Finding]:
    """Runtimes and optional packages."""
    found = [(kind, name, p) for kind, name, p in look.probes if not kind.endswith("energy")]
    there = ", ".join(f"{name} {p.version}" for _, name, p in found if p.available)
    if there:
        yield Finding("runtimes", "ok", there)
    elif any(kind == "runtime" for kind, _, _ in found):
        yield Finding("runtimes", "problem", "none is installed", "See the lines below")
    for kind, name, p in found:
        if not p.available:
            pointless = name.startswith("tensorrt") and not look.nvidia
            if pointless:
                yield Finding(kind, "ok", f"{name}: no NVIDIA GPU here to run it on")
            else:
                yield Finding(kind, "warning", f"{name} is left out: {p.reason}", *remedy(p))


def energy(look: Look) -> Iterator[Finding]:
    """Instruments first; a model of the CPU is no instrument."""
    for kind in dict.fromkeys(kind for kind, _, _ in look.probes if kind.endswith("energy")):
        found = {name: p for k, name, p in look.probes if k == kind}
        there = [name for name, p in found.items() if p.available]
        if set(there) - {MODEL}:
            yield Finding(kind, "ok", ", ".join(there))
            continue
        missing = {n: p for n, p in found.items() if not p.available and n in _possible(look)}
        reasons = "; ".join(p.reason for p in missing.values())
        tail = f"{MODEL}'s model of the CPU estimates it" if there else "energy_mj will be missing"
        text = f"no instrument: {reasons or 'none is known'}; {tail}"
        yield Finding(kind, "warning", text, *_instrument(look, list(missing.values())))


def _possible(look: Look) -> tuple[str, ...]:
    """The energy sources that a machine of this kind may have."""
    about, arch = look.environment["machine"], look.environment["cpu"]["arch"]
    if "jetson" in (about["model"] or "").lower():
        return (*JETSON_ONLY, MODEL)
    return (*(("rapl",) if arch in X86 else ()), "nvml", MODEL)


def _instrument(look: Look, missing: list[Probe]) -> tuple[str, str]:
    """The first remedy that is a command, else the first, else what always holds."""
    inside = look.environment["machine"]["hypervisor"] is not None
    remedies = [remedy(p) for p in missing if p.remedy]
    for todo, command in remedies:
        if command and not ("modprobe" in command and inside):
            return todo, command
    if inside:
        return (
            "Nothing can be done from inside a virtual machine: hosts keep their counters to themselves",
            "",
        )
    return remedies[0] if remedies else ("Use an external power meter", "")


def gpus(look: Look) -> Iterator[Finding]:
    """NVIDIA GPUs."""
    found = look.environment["gpus"]
    if not found and look.nvidia:
        reason = look.environment.get("gpus_reason", "NVML found none")
        yield Finding("GPU", "warning", f"a driver is loaded, but {reason}", command="nvidia-smi")
    elif not found:
        yield Finding("GPU", "ok", "no NVIDIA GPU")
    for index, gpu in enumerate(found):
        yield Finding(f"GPU {index}", "ok", f"{gpu['name']}, driver {gpu['driver']}")
        yield from _gpu(look, index, gpu)
    for index, n in Counter(index for index, _ in look.gpu_users).items():
        text = f"{count(n, 'other process', 'other processes')} on it"
        command = "nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv"
        yield Finding(f"GPU {index}", "warning", text, "Stop them or wait; who they are:", command)


def _gpu(look: Look, index: int, gpu: Json) -> Iterator[Finding]:
    check, smi = f"GPU {index}", f"{sudo(look)}nvidia-smi -i {index}"
    reasons = gpu["throttle_reasons"] or []
    held = [reason for reason in reasons if reason not in HARMLESS]
    limit, default = gpu["power_limit_w"], gpu["default_power_limit_w"]
    if gpu["persistence"] is False:
        text = "persistence mode is off: the driver is unloaded between processes, which makes loads slow"
        yield Finding(check, "warning", text, command=f"{smi} -pm 1")
    if "application clocks" not in reasons and gpu["max_sm_mhz"]:
        text = (
            f"clocks are free ({gpu['sm_mhz']} MHz now, up to {gpu['max_sm_mhz']}): they follow load and heat"
        )
        command = f"{smi} -lgc {gpu['max_sm_mhz']},{gpu['max_sm_mhz']}"
        todo = "Hold them, at a clock that the power limit allows (undo with -rgc):"
        yield Finding(check, "warning", text, todo, command)
    if held:
        grade: Grade = "warning" if held == ["power cap"] else "problem"
        command = f"nvidia-smi -i {index} -q -d PERFORMANCE,POWER,TEMPERATURE"
        text = f"its clock is held back now: {', '.join(held)}"
        yield Finding(check, grade, text, "Cool it better or wait; the details:", command)
    if limit and default and limit < default - 1:
        text = f"the power limit is {limit:.0f} W, {default:.0f} W by default"
        yield Finding(check, "warning", text, command=f"{smi} -pl {default:.0f}")
    if gpu["mig"]:
        text = "split by MIG: a part shares power and clocks with the others"
        yield Finding(check, "warning", text, "If nobody else uses it:", f"{smi} -mig 0")


CHECKS = (software, energy, gpus)
