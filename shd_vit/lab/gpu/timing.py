"""Time and memory of calls on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def milliseconds(call: Callable[[], object], rounds: int, warm_up: int = 2) -> float:
    """Median over rounds, by the device's own clock."""
    times = []
    for turn in range(-warm_up, rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        if turn >= 0:
            times.append(start.elapsed_time(end))
    return median(times)


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Milliseconds a call of each, ``steps`` at a stretch in each round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(steps):
                call()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / steps)
    return times


def kernel_milliseconds(call: Callable[[], object]) -> float:
    """What a call has the device do, without the time in which it waits for its host."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        call()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in trace.key_averages()) / 1e3


def peak_mib(call: Callable[[], object]) -> float:
    """The most that a call has allocated at once, over what was there before, in MiB."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def error_of(call: Callable[[], object]) -> str | None:
    """The first line of what a call raises; None if nothing."""
    try:
        call()
    except Exception as error:  # whatever a device or a toolchain may raise
        torch.cuda.empty_cache()
        said = str(error).strip().splitlines() or ['']
        return f'{type(error).__name__}: {said[0][:160]}'
    return None
