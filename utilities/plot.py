"""Curves over the epochs, by matplotlib."""

import io
from collections.abc import Sequence


def curves(title: str, epochs: Sequence[int], rows: Sequence[Sequence[float]],
           names: Sequence[str]) -> str:
    """An SVG document with one curve per name: rows[i][j] is the value of names[j] at epochs[i].

    A value that is not finite interrupts its curve. The same numbers give the same text.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch")
    axes.set_title(title, parse_math=False)
    for j, name in enumerate(names):
        values = [row[j] for row in rows]
        label = f"{name}: {values[-1]:.4g}" if values else name
        axes.plot(epochs, values, label=label.lstrip("_"), marker=".", markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.3)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)
    document = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(document, format="svg", metadata={"Date": None})
    return document.getvalue()
