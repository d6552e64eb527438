"""Pictures as inline SVG: no script, no font, no image and no colour of their own.

Colours are classes that the page's style sheet fills in, once for light and once for dark. Lines
differ in their dashes as well, so no picture depends on telling colours apart. Everything is built
as an XML tree, so labels are escaped and the result is well-formed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

_CHARACTER = 7.0  # mean advance in pixels of the 12-pixel labels in a wide font
_DASHES = {"local_only": "2 4", "pooled": "9 4", "federated_private": "6 3"}


@dataclass(frozen=True)
class Line:
    """One line of a chart: `kind` is a row's name and chooses colour and dashes."""

    kind: str
    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Bar:
    """One bar with the ends of its interval."""

    kind: str
    label: str
    value: float
    low: float
    high: float
    emphasis: bool = False


@dataclass(frozen=True)
class Reference:
    """A value to compare with, drawn across the picture."""

    label: str
    value: float


def ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Round numbers from at most `low` to at least `high`, about `wanted` of them.

    Args:
        low: Smallest value to cover.
        high: Largest value to cover; if not above `low`, a span of 1 is taken.
        wanted: How many steps to aim for, at least 1.

    >>> ticks(0, 0.094)
    (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)
    """
    span = high - low if high > low else 1.0
    rough = span / max(1, wanted)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= rough * 0.8)
    first = math.floor(low / step + 1e-9)
    last = math.ceil((low + span) / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return tuple(round(number * step, digits) for number in range(first, last + 1))


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = 720,
    reference: Reference | None = None,
) -> str:
    """Lines over a common horizontal axis, both axes from 0, with a legend above.

    Args:
        lines: With at least one point in all.
        title: Read out where the picture cannot be seen.
        x_label: Name of the horizontal axis, whose ticks are whole numbers.
        y_label: Name of the vertical axis.
        width: Pixels; below 480 the picture is drawn for a narrow screen.
        reference: A horizontal line.

    Raises:
        ValueError: If there is no point.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("expected at least one point to draw, got none")
    narrow = width < 480
    top_value = max([y for _, y in points] + ([reference.value] if reference else []))
    y_ticks = ticks(0.0, top_value, 4 if narrow else 5)
    x_ticks = _whole(ticks(0.0, max(x for x, _ in points), 4 if narrow else 8))
    decimals = _decimals(y_ticks)
    y_names = [f"{tick:.{decimals}f}" for tick in y_ticks]
    left = 10 + _CHARACTER * max(len(name) for name in y_names)
    right = width - 12.0
    entries = [(line.kind, line.label) for line in lines]
    if reference is not None:
        entries.append(("reference", reference.label))
    legend, legend_height = _legend(entries, width)
    top = legend_height + 46.0
    bottom = top + (190 if narrow else 250)
    svg = _svg(width, bottom + 46, title, "chart")

    def x_at(value: float) -> float:
        return left + (right - left) * value / (x_ticks[-1] or 1)

    def y_at(value: float) -> float:
        return bottom - (bottom - top) * value / (y_ticks[-1] or 1)

    svg.append(legend)
    _text(svg, 0, top - 16, y_label, "axis-name")
    for tick, name in zip(y_ticks, y_names, strict=True):
        kind = "base" if tick == 0 else "grid"
        _line(svg, left, y_at(tick), right, y_at(tick), kind)
        _text(svg, left - 8, y_at(tick) + 4, name, "tick end")
    for tick in x_ticks:
        _line(svg, x_at(tick), bottom, x_at(tick), bottom + 5, "base")
        _text(svg, x_at(tick), bottom + 20, f"{tick:g}", "tick middle")
    _text(svg, (left + right) / 2, bottom + 40, x_label, "axis-name middle")
    if reference is not None:
        _line(svg, left, y_at(reference.value), right, y_at(reference.value), "reference")
    for line in lines:
        _plot(svg, line, [(x_at(x), y_at(y)) for x, y in sorted(line.points)])
    return _write(svg)


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    x_label: str,
    width: int = 720,
    reference: Reference | None = None,
) -> str:
    """Horizontal bars from 0, each with its interval as a whisker and its value as text.

    Args:
        bars: At least one, drawn from top to bottom.
        title: Read out where the picture cannot be seen.
        x_label: Name of the horizontal axis.
        width: Pixels; below 480 labels stand above their bars.
        reference: A vertical line.

    Raises:
        ValueError: If there is no bar.
    """
    if not bars:
        raise ValueError("expected at least one bar to draw, got none")
    narrow = width < 480
    longest = max(len(bar.label) for bar in bars)
    left = 2.0 if narrow else min(260.0, 16 + 7.4 * longest)
    right = width - 52.0
    pitch, thickness = (46.0, 14.0) if narrow else (34.0, 18.0)
    top = 30.0 if reference is not None else 10.0
    bottom = top + pitch * len(bars)
    scale = ticks(0.0, max(max(bar.high, bar.value) for bar in bars), 3 if narrow else 6)
    decimals = _decimals(scale)
    svg = _svg(width, bottom + 46, title, "chart")

    def x_at(value: float) -> float:
        return left + (right - left) * value / (scale[-1] or 1)

    for tick in scale:
        _line(svg, x_at(tick), top, x_at(tick), bottom, "base" if tick == 0 else "grid")
        # Bars of the narrow picture start at its edge, where a centred label would be cut.
        anchor = "tick" if narrow and tick == 0 else "tick middle"
        _text(svg, x_at(tick), bottom + 20, f"{tick:.{decimals}f}", anchor)
    _text(svg, (left + right) / 2, bottom + 40, x_label, "axis-name middle")
    middles = [top + pitch * number + (pitch * 0.68 if narrow else pitch / 2) for number in range(len(bars))]
    for bar, middle in zip(bars, middles, strict=True):
        _rectangle(svg, left, middle - thickness / 2, x_at(bar.value) - left, thickness, bar.kind)
    if reference is not None:
        at = x_at(reference.value)
        _line(svg, at, top - 8, at, bottom, "reference")
        name = f"{reference.label} {reference.value:.3f}"
        half = _CHARACTER * len(name) / 2
        _text(svg, min(max(at, half), width - half), top - 14, name, "tick middle")
    for bar, middle in zip(bars, middles, strict=True):
        if narrow:
            _text(svg, left, middle - thickness / 2 - 6, bar.label, _strong("label", bar.emphasis))
        else:
            _text(svg, left - 12, middle + 4, bar.label, _strong("label end", bar.emphasis))
        _line(svg, x_at(bar.low), middle, x_at(bar.high), middle, "whisker")
        for end in (bar.low, bar.high):
            _line(svg, x_at(end), middle - 4, x_at(end), middle + 4, "whisker")
        _text(svg, width, middle + 4, f"{bar.value:.3f}", _strong("value end", bar.emphasis))
    return _write(svg)


def weight_bars(weights: Sequence[tuple[str, float]], *, title: str, width: int = 264) -> str:
    """Shares between 0 and 1 as thin bars with their percentage, in the order given.

    Args:
        weights: Name and share; at least one.
        title: Read out where the picture cannot be seen.
        width: Pixels.

    Raises:
        ValueError: If there is none.
    """
    if not weights:
        raise ValueError("expected at least one weight to draw, got none")
    pitch, thickness = 24.0, 8.0
    left = 14 + _CHARACTER * max(len(name) for name, _ in weights)
    right = width - 40.0
    largest = max(max(weight for _, weight in weights), 0.5)
    svg = _svg(width, pitch * len(weights) + 4, title, "weights")
    for number, (name, weight) in enumerate(weights):
        middle = pitch * number + pitch / 2 + 2
        _text(svg, 0, middle + 4, name, "label")
        _rectangle(svg, left, middle - thickness / 2, right - left, thickness, "track")
        length = (right - left) * min(1.0, max(0.0, weight / largest))
        _rectangle(svg, left, middle - thickness / 2, length, thickness, "federated")
        _text(svg, width, middle + 4, f"{100 * weight:.0f} %", "value end")
    return _write(svg)


def _svg(width: float, height: float, title: str, kind: str) -> ET.Element:
    svg = ET.Element(
        "svg",
        {
            "class": kind,
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "width": _number(width),
            "height": _number(height),
            "role": "img",
            "aria-label": title,
        },
    )
    ET.SubElement(svg, "title").text = title
    return svg


def _legend(entries: Sequence[tuple[str, str]], width: float) -> tuple[ET.Element, float]:
    """Samples and names, wrapped at the width, and the height they take."""
    group = ET.Element("g", {"class": "legend"})
    x, y = 0.0, 12.0
    for kind, label in entries:
        length = 34 + _CHARACTER * len(label)
        if x > 0 and x + length > width:
            x, y = 0.0, y + 22
        sample = _line(group, x, y - 4, x + 24, y - 4, f"line {kind}")
        if kind == "reference":
            sample.set("class", "reference")
        elif kind in _DASHES:
            sample.set("stroke-dasharray", _DASHES[kind])
        _text(group, x + 30, y, label, "label")
        x += length + 20
    return group, y


def _plot(svg: ET.Element, line: Line, points: Sequence[tuple[float, float]]) -> None:
    group = ET.SubElement(svg, "g")
    ET.SubElement(group, "title").text = line.label
    path = ET.SubElement(
        group,
        "polyline",
        {
            "class": f"line {line.kind}",
            "points": " ".join(f"{_number(x)},{_number(y)}" for x, y in points),
        },
    )
    if line.kind in _DASHES:
        path.set("stroke-dasharray", _DASHES[line.kind])
    marked = points if len(points) <= 24 else points[-1:]
    for x, y in marked:
        ET.SubElement(
            group,
            "circle",
            {"class": f"dot {line.kind}", "cx": _number(x), "cy": _number(y), "r": "3"},
        )


def _line(parent: ET.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> ET.Element:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return ET.SubElement(
        parent,
        "line",
        {"class": kind, **{name: _number(value) for name, value in ends.items()}},
    )


def _rectangle(parent: ET.Element, x: float, y: float, width: float, height: float, kind: str) -> None:
    ET.SubElement(
        parent,
        "rect",
        {
            "class": f"bar {kind}",
            "x": _number(x),
            "y": _number(y),
            "width": _number(max(0.0, width)),
            "height": _number(height),
            "rx": "2",
        },
    )


def _text(parent: ET.Element, x: float, y: float, words: str, kind: str) -> None:
    element = ET.SubElement(parent, "text", {"class": kind, "x": _number(x), "y": _number(y)})
    element.text = words


def _strong(kind: str, emphasis: bool) -> str:
    return f"{kind} strong" if emphasis else kind


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _decimals(values: Sequence[float]) -> int:
    return max(len(f"{value:.6f}".rstrip("0").split(".")[1]) for value in values)


def _whole(values: Sequence[float]) -> tuple[float, ...]:
    """Round counts have no fractions, so neither have their ticks."""
    whole = tuple(value for value in values if value == int(value))
    return whole if len(whole) > 1 else (0.0, float(math.ceil(values[-1])))


def _write(svg: ET.Element) -> str:
    return ET.tostring(svg, encoding="unicode")
