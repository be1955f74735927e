"""How numbers are written for people: with a unit, and no more digits than they carry."""

import math

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NO_BREAK = "\u00a0"


def percent(share: float) -> str:
    """0.8125 is `81.2 %` (half to even, as the float is)."""
    return f"{100 * share:.1f}{NO_BREAK}%"


def interval(low: float, high: float) -> str:
    """Two shares as `78.1 to 84.9 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %".replace(" ", NO_BREAK)


def three_digits(value: float) -> str:
    """AUROC, log loss, noise multiplier."""
    return minus(f"{value:.3f}")


def epsilon(value: float) -> str:
    """Two digits, rounded up: a report never claims more privacy than there was."""
    return f"{math.ceil(round(value * 100, 6)) / 100:.2f}"


def delta(value: float) -> str:
    """0.00001 is `1 × 10⁻⁵`."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{mantissa.removesuffix('.0')} × 10{power}".replace(" ", NO_BREAK)


def seconds(value: float) -> str:
    """Up to two minutes in seconds with a decimal, above in minutes and seconds."""
    if value < 120:
        return f"{value:.1f}{NO_BREAK}s"
    return f"{int(value) // 60} min {int(value) % 60} s".replace(" ", NO_BREAK)


def count(value: int) -> str:
    """Thousands apart: `12,345`."""
    return f"{value:,}"


def size(value: int) -> str:
    """Bytes in decimal units with three digits or so: `512 B`, `12.3 kB`, `4.5 MB`."""
    if value < 1000:
        return f"{value}{NO_BREAK}B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if value < 999.5 * scale:
            return f"{value / scale:.1f}{NO_BREAK}{unit}"
    return f"{value / 1e9:.1f}{NO_BREAK}GB"


def plain(value: float) -> str:
    """Three digits that count, thousands apart, never an exponent: `0.0123`, `12.3`, `1,235`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "unbounded"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return minus(f"{value:,.{min(digits, 9)}f}")


def points(difference: float) -> str:
    """A difference of two shares, in percentage points, with its sign: `-3.0`."""
    return signed(100 * difference, 1)


def signed(value: float, digits: int) -> str:
    """With a sign, a true minus, and no sign for what rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def minus(text: str) -> str:
    """A number with a true minus."""
    return text.replace("-", "\N{MINUS SIGN}")
