"""The plots of the reports, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlm.evaluation.render import new_figure, to_png
from vlm.evaluation.significance import Estimate


def plot_accuracy(
    fusions: Mapping[str, Estimate],
    controls: Mapping[str, Estimate],
    baselines: Mapping[str, float],
) -> bytes:
    """Plot accuracy with its interval as one dot per row, best on top; baselines are vertical."""
    lines = [*fusions.items(), *controls.items()][::-1]
    figure, [axis] = new_figure(8, 1.6 + 0.3 * len(lines))
    for row, (name, found) in enumerate(lines):
        mean, low, high = 100 * found.mean, 100 * found.low, 100 * found.high
        # Rounding can put the mean slightly outside.
        error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        color = "tab:gray" if name in controls else "tab:blue"
        axis.errorbar(mean, row, xerr=error, fmt="o", color=color, capsize=3)
    for style, (name, value) in zip(("-", "--", ":"), baselines.items(), strict=False):
        axis.axvline(100 * value, color="tab:red", linestyle=style, linewidth=1, label=name)
    axis.set_yticks(range(len(lines)), [name for name, _ in lines])
    axis.set(xlabel="test accuracy %, 95 % interval", ylim=(-0.7, len(lines) - 0.3))
    if baselines:
        figure.legend(loc="outside lower center", fontsize=8, ncols=len(baselines))
    return to_png(figure)


def plot_costs(fusions: Mapping[str, Estimate], costs: Mapping[str, Mapping[str, float]]) -> bytes:
    """Plot accuracy by name against costs by axis label, then by name."""
    figure, axes = new_figure(4.2 * len(costs), 4, len(costs))
    numbers = {name: str(number) for number, name in enumerate(fusions, start=1)}
    for axis, (label, values) in zip(axes, costs.items(), strict=True):
        for name, value in values.items():
            found = fusions[name]
            axis.plot(value, 100 * found.mean, "o", color="tab:blue", markersize=5)
            # Names would overlap; the numbers match the key and the tables.
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


def plot_tradeoff(
    panels: Mapping[str, Sequence[tuple[str, float, float, float]]], accuracy: str
) -> bytes:
    """Plot VQA accuracy against retention: runs are dots, interpolations dotted lines.

    `panels` has (run, alpha, kept, accuracy) of each state, by label of the horizontal axis; the
    states of a run are consecutive.
    """
    figure, axes = new_figure(5.2 * len(panels), 4.4, len(panels))
    for axis, (label, points) in zip(axes, panels.items(), strict=True):
        for number, run in enumerate(dict.fromkeys(point[0] for point in points)):
            own = [point for point in points if point[0] == run]
            color = f"C{number % 10}"
            kept, scored = [p[2] for p in own], [p[3] for p in own]
            axis.plot(kept, scored, ":", color=color, linewidth=1)
            axis.plot(kept[1:], scored[1:], "o", color=color, markersize=3)
            axis.plot(kept[0], scored[0], "o", color=color, markersize=8, label=run)
            for _, alpha, x, y in own[1:]:
                axis.annotate(f"{alpha:g}", (x, y), (3, 3), textcoords="offset points", fontsize=7)
        axis.set(xlabel=label, ylabel=accuracy)
    axes[0].legend(fontsize=8)
    return to_png(figure)


def plot_layers(parts: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Plot the CKA of each layer, from input to output, by encoder and by run."""
    figure, axes = new_figure(5.6 * len(parts), 3.8, len(parts))
    for axis, (label, runs) in zip(axes, parts.items(), strict=True):
        for name, values in runs.items():
            axis.plot(range(len(values)), values, "o-", markersize=3, linewidth=1, label=name)
        axis.set(xlabel=f"layer of the {label}", ylabel="CKA with the original")
        axis.legend(fontsize=8)
    return to_png(figure)
