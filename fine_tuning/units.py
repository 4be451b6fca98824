"""Format numbers with their units for the user."""

import signal


def size(bytes: int) -> str:
    """Return a number of bytes as text: 812 bytes, 45.2 MB, 1.3 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes >= factor:
            return f"{bytes / factor:.1f} {unit}"
    return f"{bytes} bytes"


def amount(done: int, total: int, unit: str, of: str = "/") -> str:
    """Return how much of a work is done, as text: 3/12, 45 %, 1.2 MB of 98.4 MB.

    `unit`: as in `events.Count`. `of`: the text between two numbers that have no unit.
    """
    if unit == "bytes":
        return f"{size(done)} of {size(total)}"
    return f"{done} %" if unit == "percent" else f"{done}{of}{total}"


def gigabytes(bytes: float) -> str:
    """Return a number of bytes as text in gigabytes: 0.4 GB."""
    return f"{bytes / 1e9:.1f} GB"


def clock(seconds: float) -> str:
    """Return a duration in seconds as text: 45 s, 3 min 5 s, 2 h 10 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def about(seconds: float) -> str:
    """Return an estimated duration in seconds as text, without seconds from one minute on: 45 s, 3 min, 2 h 10 min."""
    whole = max(round(seconds), 1)
    return f"{whole} s" if whole < 60 else f"{round(whole / 60)} min" if whole < 5400 else clock(seconds)


def answers(count: int) -> str:
    """Return a number of turns as text: 1 answer, 2 answers. The pages call a turn an answer."""
    return counted(count, "answer")


def counted(count: int, noun: str) -> str:
    """Return a number with a noun whose plural ends with s, as text: 1 turn, 2 turns, 1,200 turns."""
    return f"{count:,} {noun if count == 1 else f'{noun}s'}"


def signal_name(number: int) -> str:
    """Return the name of the signal with this number (SIGKILL), or `signal 40` if it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
