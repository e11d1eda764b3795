"""The pictures of the report, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlm.studies.report.plots import new_figure, to_png


def plot_tradeoff(
    panels: Mapping[str, Sequence[tuple[str, float, float, float]]], accuracy: str
) -> bytes:
    """VQA accuracy against what was kept: a run is a dot, what lies between a dotted line.

    Args:
        panels: by label of the horizontal axis: (run, alpha, kept, accuracy) of each state, a
            run's states one after the other.
        accuracy: label of the vertical axis.
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
    """CKA of each layer, from the input to the output.

    Args:
        parts: by encoder, then by run.
    """
    figure, axes = new_figure(5.6 * len(parts), 3.8, len(parts))
    for axis, (label, runs) in zip(axes, parts.items(), strict=True):
        for name, values in runs.items():
            axis.plot(range(len(values)), values, "o-", markersize=3, linewidth=1, label=name)
        axis.set(xlabel=f"layer of the {label}", ylabel="CKA with the original")
        axis.legend(fontsize=8)
    return to_png(figure)
