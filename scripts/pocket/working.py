"""How octavo-pocket calculates on paper: column by column, so that every digit follows from a few digits near it.

A 6-layer model cannot add three-digit numbers at a glance, but it can look up 5+8 and copy a carry. So sums have two
digits ("06"), of which the first is the carry, and operands have the same width where columns must line up.
"""

from __future__ import annotations


def _digits(number: int, width: int) -> list[int]:
    """The digits of a number from the right, with zeros up to the width."""
    return [int(each) for each in reversed(str(number).zfill(width))]


def _columns(top: list[int], bottom: list[int]) -> str:
    """Columns added from the right, the carry as third term: "5+8=13 4+7+1=12"."""
    steps, carry = [], 0
    for place, (a, b) in enumerate(zip(top, bottom, strict=True)):
        total = a + b + carry
        steps.append(f"{a}+{b}={total:02}" if place == 0 else f"{a}+{b}+{carry}={total:02}")
        carry = total // 10
    return " ".join(steps)


def add(a: int, b: int) -> str:
    """345+278: 5+8=13 4+7+1=12 3+2+1=06."""
    width = max(len(str(a)), len(str(b)))
    return f"{a:0{width}}+{b:0{width}}: {_columns(_digits(a, width), _digits(b, width))}."


def subtract(a: int, b: int) -> str:
    """2<3 345-278: 15-8=7 14-7-1=6 03-2-1=0. The first digits that differ say which is larger; a leading 1 borrows."""
    width = max(len(str(a)), len(str(b)))
    compared = []
    for x, y in zip(f"{a:0{width}}", f"{b:0{width}}", strict=True):
        compared.append(f"{x}{'=' if x == y else '<' if x < y else '>'}{y}")
        if x != y:
            break
    large, small = max(a, b), min(a, b)
    steps, borrow = [], 0
    for place, (x, y) in enumerate(zip(_digits(large, width), _digits(small, width), strict=True)):
        lent = int(x < y + borrow)
        rest = 10 * lent + x - y - borrow
        steps.append(f"{lent}{x}-{y}={rest}" if place == 0 else f"{lent}{x}-{y}-{borrow}={rest}")
        borrow = lent
    return f"{' '.join(compared)} {large:0{width}}-{small:0{width}}: {' '.join(steps)}."


def _times_digit(a: int, digit: int) -> str:
    """A number times one digit from the right: "5×7=35 4×7=28+3=31"."""
    steps, carry = [], 0
    for place, x in enumerate(_digits(a, 1)):
        product = x * digit
        total = product + carry
        steps.append(f"{x}×{digit}={product:02}" if place == 0 else f"{x}×{digit}={product:02}+{carry}={total:02}")
        carry = total // 10
    return " ".join(steps)


def multiply(a: int, b: int) -> str:
    """345×7: 5×7=35 4×7=28+3=31 3×7=21+3=24. The longer number comes first.

    Two digits times two digits: both products, then their sum without the last digit, which nothing is added to:
    34×27: 4×7=28 3×7=21+2=23 4×2=08 3×2=06+0=06 238+0680: 3+8=11 2+6+1=09 0+0+0=00.
    """
    if len(str(a)) < len(str(b)):
        a, b = b, a
    if b < 10:
        return f"{a}×{b}: {_times_digit(a, b)}."
    assert a < 100, (a, b)
    ones, tens = a * (b % 10), a * (b // 10)
    columns = _columns(_digits(ones // 10, 3), _digits(tens, 3))
    return f"{a}×{b}: {_times_digit(a, b % 10)} {_times_digit(a, b // 10)} {ones:03}+{tens:03}0: {columns}."


def divide(a: int, b: int) -> str:
    """861÷7: 08=7×1+1 16=7×2+2 21=7×3+0. A multiple of ten first loses its zero: 840÷40=84÷4: …"""
    shortened = ""
    if b >= 10:
        assert a % 10 == 0 and b % 10 == 0, (a, b)
        shortened = f"{a}÷{b}="
        a, b = a // 10, b // 10
    steps, rest = [], 0
    for digit in str(a):
        part = 10 * rest + int(digit)
        rest = part % b
        steps.append(f"{part:02}={b}×{part // b}+{rest}")
    assert rest == 0, (a, b)
    return f"{shortened}{a}÷{b}: {' '.join(steps)}."
