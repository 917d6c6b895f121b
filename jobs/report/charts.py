"""Charts of the HTML page as inline SVG and lists. Text stays text, colours come from the page's CSS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 860, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 8, 10, 26


@dataclass(frozen=True)
class Series:
    """One layer of a stacked column chart: `name` in the legend, CSS class `style`, and one value a column."""

    name: str
    style: str
    values: Sequence[Fraction]


@dataclass(frozen=True)
class ColumnChart:
    """A column chart: `labels` below the columns, `tips` as tooltips, `text` to format axis values, and `alt` text."""

    labels: Sequence[str]
    tips: Sequence[str]
    series: Sequence[Series]
    text: Callable[[Fraction], str]
    step_base: int  # 10 or 1024; see nice_step.
    alt: str


def column_chart(chart: ColumnChart) -> Markup:
    """Draw stacked columns as SVG. Negative values extend below the zero line."""
    count = len(chart.labels)
    highs = [sum((max(series.values[at], Fraction()) for series in chart.series), Fraction()) for at in range(count)]
    lows = [sum((min(series.values[at], Fraction()) for series in chart.series), Fraction()) for at in range(count)]
    step = nice_step(max([*highs, Fraction()]) - min([*lows, Fraction()]), chart.step_base)
    top = -(-max([*highs, Fraction()]) // step) * step or step
    bottom = min([*lows, Fraction()]) // step * step
    plot = _HEIGHT - _TOP - _BOTTOM

    def y(value: Fraction) -> float:
        return float(_TOP + (top - value) * plot / (top - bottom))

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.alt)}" class="chart">']
    for tick in range(int(bottom / step), int(top / step) + 1):
        line = y(tick * step)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{line:.1f}" y2="{line:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{line + 4:.1f}" text-anchor="end">'
            f"{escape(chart.text(tick * step))}</text>"
        )
    slot = (_WIDTH - _LEFT - _RIGHT) / max(count, 1)
    every = -(-count // 31)
    for at, label in enumerate(chart.labels):
        x = _LEFT + slot * at
        parts.append(f"<g><title>{escape(chart.tips[at])}</title>")
        parts.append(f'<rect class="hit" x="{x:.1f}" y="{_TOP}" width="{slot:.1f}" height="{plot}"/>')
        above, below = Fraction(), Fraction()
        for series in chart.series:
            value = series.values[at]
            if value == 0:
                continue
            start = above if value > 0 else below
            upper, lower = y(max(start, start + value)), y(min(start, start + value))
            parts.append(
                f'<rect class="{series.style}" x="{x + slot * 0.14:.1f}" y="{upper:.1f}" width="{slot * 0.72:.1f}" '
                f'height="{max(lower - upper, 0.6):.1f}"/>'
            )
            above, below = (above + value, below) if value > 0 else (above, below + value)
        parts.append("</g>")
        if at % every == 0:
            parts.append(
                f'<text class="tick" x="{x + slot / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
                f"{escape(label)}</text>"
            )
    parts.append("</svg>")
    return Markup("".join(parts))


def bar_chart(rows: Sequence[tuple[str, Fraction, str]]) -> Markup:
    """Draw horizontal bars as an HTML list: label, value as text, and a bar in proportion to the largest value."""
    top = max([value for _, value, _ in rows] + [Fraction()]) or Fraction(1)
    parts = ['<ul class="bars">']
    for label, value, text in rows:
        share = float(max(value, Fraction()) * 100 / top)
        parts.append(
            f'<li><span class="of">{escape(label)}</span> <span class="is">{escape(text)}</span>'
            f'<span class="track"><i class="s-main" style="width:{share:.1f}%"></i></span></li>'
        )
    parts.append("</ul>")
    return Markup("".join(parts))


def nice_step(span: Fraction, base: int) -> Fraction:
    """Return an axis step that gives a few ticks over `span`: 1, 2 or 5 times a power of ten.

    If `base` is 1024, the step is such a multiple of a power of 1024, and at least 1.
    """
    if span <= 0:
        return Fraction(1)
    unit = Fraction(1)
    if base == 1024:
        while span / unit >= 1024:
            unit *= 1024
    rough = span / unit / 5
    power = Fraction(1)
    while power * 10 <= rough:
        power *= 10
    while power > rough:
        power /= 10
    factor = next(factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    step = power * factor * unit
    return max(step, Fraction(1)) if base == 1024 else step
