"""The doctor's checks of the CPU: who sets its clock, who else uses it, who takes it away."""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure.disturbance import OTHERS, OTHERS_CORES, TAKEN
from bench.measure.doctor.findings import IN_A_VM, PROCESSES, Finding, Grade, count, set_command
from bench.measure.doctor.look import Look
from bench.measure.system import CPUS


def machine(look: Look) -> Iterator[Finding]:
    """A virtual machine hides what decides a timing."""
    about, cpu = look.environment["machine"], look.environment["cpu"]
    name, below = cpu["model"] or cpu["arch"], about["hypervisor"]
    if below is None:
        model = f", {about['model']}" if about["model"] else ""
        yield Finding("machine", "ok", f"{name}{model}: {count(cpu['cores'], 'CPU')}, no hypervisor")
        return
    kind = "a virtual machine" if below == "unknown" else f"a virtual machine ({below})"
    text = f"{name}, {count(cpu['cores'], 'CPU')}, {kind}: clock, heat and neighbours are out of sight"
    yield Finding("machine", "warning", text, IN_A_VM)


def governor(look: Look) -> Iterator[Finding]:
    """Who sets the clock."""
    cpu = look.environment["cpu"]
    name = cpu["governor"]
    if name is None:
        if look.environment["machine"]["hypervisor"] is None:
            todo = "Choose a fixed performance profile in the firmware's set-up"
            yield Finding("governor", "warning", "the kernel shows none: the firmware sets the clock", todo)
        return
    if name in ("performance", "userspace"):
        yield Finding("governor", "ok", name)
        return
    driver = cpu["driver"] or ""
    slowest = "powersave" in name and not any(d in driver for d in ("intel_pstate", "amd-pstate-epp"))
    what = "keeps the lowest clock" if slowest else "lets the clock follow the load, so short cells are slow"
    command = set_command(look, "performance", f"{CPUS}/cpu*/cpufreq/scaling_governor")
    yield Finding("governor", "problem" if slowest else "warning", f"{name}: {what}", command=command)


def turbo(look: Look) -> Iterator[Finding]:
    """A clock above the nominal one is lent, by heat and by neighbours."""
    cpu = look.environment["cpu"]
    if cpu["turbo"] is None:
        return
    if not cpu["turbo"]:
        yield Finding("turbo", "ok", "off")
        return
    intel = "intel_pstate" in (cpu["driver"] or "") or "intel_cpufreq" in (cpu["driver"] or "")
    command = (
        set_command(look, "1", f"{CPUS}/intel_pstate/no_turbo")
        if intel
        else set_command(look, "0", f"{CPUS}/cpufreq/boost")
    )
    text = "on: the clock depends on heat and on how many cores work; off is slower but steady"
    yield Finding("turbo", "warning", text, command=command)


def smt(look: Look) -> Iterator[Finding]:
    """Two hardware threads share one core's units."""
    cpu = look.environment["cpu"]
    if cpu["smt"]:
        cores = f" of {count(cpu['physical_cores'], 'core')}" if cpu["physical_cores"] else ""
        text = f"on: the CPUs are threads{cores}, and two on one core slow each other down"
        yield Finding("SMT", "warning", text, command=set_command(look, "off", f"{CPUS}/smt/control"))
    elif cpu["smt"] is not None:
        hidden = look.environment["machine"]["hypervisor"] is not None
        yield Finding("SMT", "ok", "off, says the hypervisor" if hidden else "off")


def load(look: Look) -> Iterator[Finding]:
    """What else works here, over a short look."""
    used, cores = look.window.other_cores, look.window.cores or 1
    if used is None:
        text = f"not known: {look.window.unread.get('other_cores', '')}"
        yield Finding("load", "warning", text, command=PROCESSES.format("-pcpu"))
        return
    names = ", ".join(f"{name} (pid {pid}) {share:.1f}" for pid, name, share in look.busiest)
    text = f"other processes use {used:.1f} of {count(cores, 'core')}" + (f": {names}" if names else "")
    if used <= min(OTHERS_CORES, OTHERS * cores):
        yield Finding("load", "ok", text)
        return
    grade: Grade = "problem" if used > cores / 4 else "warning"
    yield Finding("load", grade, text, "Stop them or wait; who they are:", PROCESSES.format("-pcpu"))


def steal(look: Look) -> Iterator[Finding]:
    """CPU time that the hypervisor gave to somebody else."""
    about = look.environment["machine"]
    if about["hypervisor"] is None:
        return
    now, ever = look.window.steal_share, about["steal_share_since_boot"]
    if ever is None:
        text = "none since boot, or this hypervisor does not report any"
        yield Finding("steal", "ok", text)
        return
    text = f"{ever:.1%} of the wanted CPU time was taken since boot"
    text += f", {now:.1%} just now" if now is not None else ""
    grade: Grade = "problem" if (now or 0) > 0.1 else "warning" if max(now or 0, ever) > TAKEN else "ok"
    yield Finding("steal", grade, text, "" if grade == "ok" else IN_A_VM)


def quota(look: Look) -> Iterator[Finding]:
    """A CPU quota lets a process run at full speed and then stops it."""
    limit, cores = look.environment["cpu"]["cgroup_cpus"], look.environment["cpu"]["cores"]
    if limit is None or look.quota_file is None:
        yield Finding("CPU quota", "ok", f"none; CPUs {look.environment['cpu']['cpuset'] or 'all'}")
        return
    text = f"{limit:g} of {count(cores, 'CPU')}: whoever uses more is stopped for tens of ms at a time"
    if look.quota_writable:
        value = "max" if look.quota_file.name == "cpu.max" else "-1"
        yield Finding("CPU quota", "problem", text, command=set_command(look, value, str(look.quota_file)))
    else:
        todo = "Nothing can be done from inside: start the container with --cpuset-cpus instead of --cpus"
        yield Finding("CPU quota", "problem", text, todo)


CHECKS = (machine, governor, turbo, smt, load, steal, quota)
