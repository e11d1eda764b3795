"""The pictures of the report, as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlm.evaluation.significance import Estimate


def plot_accuracy(
    fusions: Mapping[str, Estimate], controls: Mapping[str, Estimate], floors: Mapping[str, float]
) -> bytes:
    """Accuracy with its interval, a dot a line, the best on top; floors as vertical lines."""
    lines = [*fusions.items(), *controls.items()][::-1]
    figure, [axis] = new_figure(8, 1.6 + 0.3 * len(lines))
    for row, (name, found) in enumerate(lines):
        mean, low, high = 100 * found.mean, 100 * found.low, 100 * found.high
        # Rounding can put the mean a hair outside.
        error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        color = "tab:gray" if name in controls else "tab:blue"
        axis.errorbar(mean, row, xerr=error, fmt="o", color=color, capsize=3)
    for style, (name, value) in zip(("-", "--", ":"), floors.items(), strict=False):
        axis.axvline(100 * value, color="tab:red", linestyle=style, linewidth=1, label=name)
    axis.set_yticks(range(len(lines)), [name for name, _ in lines])
    axis.set(xlabel="test accuracy %, 95 % interval", ylim=(-0.7, len(lines) - 0.3))
    if floors:
        figure.legend(loc="outside lower center", fontsize=8, ncols=len(floors))
    return to_png(figure)


def plot_costs(fusions: Mapping[str, Estimate], costs: Mapping[str, Mapping[str, float]]) -> bytes:
    """Accuracy against each cost.

    Args:
        fusions: accuracy by name.
        costs: by label of the axis, then by name.
    """
    figure, axes = new_figure(4.2 * len(costs), 4, len(costs))
    numbers = {name: str(number) for number, name in enumerate(fusions, start=1)}
    for axis, (label, values) in zip(axes, costs.items(), strict=True):
        for name, value in values.items():
            found = fusions[name]
            axis.plot(value, 100 * found.mean, "o", color="tab:blue", markersize=5)
            # Names would cover each other; the numbers are those of the key and the tables.
            axis.annotate(
                numbers[name],
                (value, 100 * found.mean),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
            )
        axis.set(xlabel=label, ylabel="test accuracy %")
        if max(values.values()) > 20 * min(values.values()):
            axis.set_xscale("log")
        else:
            axis.set_xlim(0, 1.1 * max(values.values()))
    key = "   ".join(f"{number} {name}" for name, number in numbers.items())
    figure.supxlabel(key, fontsize=8, wrap=True)
    return to_png(figure)


def new_figure(width: float, height: float, plots: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches, and its plots side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, plots, number + 1) for number in range(plots)]
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
    return figure, axes


def to_png(figure: Figure) -> bytes:
    """The content of its file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
