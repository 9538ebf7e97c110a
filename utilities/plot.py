"""Drawings by matplotlib: curves over the epochs, and what other drawings share with them."""

import io
import warnings
from collections.abc import Mapping, Sequence

from utilities.terminal import escaped

# Colours that the colour-blind tell apart, too (Okabe and Ito 2008).
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = ("-", "--", ":", "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (1, 4)))
SMALL = 8       # points, of the text in legends

Curves = tuple[Sequence[int], Sequence[Sequence[float]]]     # epochs, and a row of values for each


def curves(title: str, epochs: Sequence[int], rows: Sequence[Sequence[float]],
           names: Sequence[str]) -> str:
    """An SVG document with one curve per name: rows[i][j] is the value of names[j] at epochs[i].

    A value that is not finite interrupts its curve. The same numbers give the same text.
    """
    figure, axes = over_epochs(title)
    labels, lines = [], []
    for j, name in enumerate(names):
        values = [row[j] for row in rows]
        labels.append(f"{name}: {values[-1]:.4g}" if values else name)
        lines += axes.plot(epochs, values, marker=".", markersize=4)
    legend(axes, lines, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    return saved(figure, "svg", title).decode()


def together(title: str, groups: Mapping[str, Curves], names: Sequence[str]) -> str:
    """An SVG document with the curves of several groups: each group has a colour, and each of the
    `names` of its values a line style. The legend says the last values; else as `curves`."""
    figure, axes = over_epochs(title)
    figure.set_figheight(5 + 0.18 * len(groups))
    labels, lines = [], []
    for i, (group, (epochs, rows)) in enumerate(groups.items()):
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i // len(PALETTE) % len(MARKERS)]
        for j in range(len(names)):
            line, = axes.plot(epochs, [row[j] for row in rows], color=colour, marker=marker,
                              markersize=2.5, linestyle=STYLES[j % len(STYLES)])
            if j == 0:
                lines.append(line)
        labels.append(f"{group}: {', '.join(f'{value:.4g}' for value in rows[-1])}")
    styles = [axes.plot([], [], color="grey", linestyle=STYLES[j % len(STYLES)])[0]
              for j in range(len(names))]
    legend(axes, styles, names, loc="center left", bbox_to_anchor=(1, 0.5))
    legend(figure, lines, labels, loc="outside lower left", fontsize=SMALL)
    return saved(figure, "svg", title).decode()


def drawing(title: str, *, width: float = 9, height: float = 5):
    """A figure, its sizes in inches, and its axes under `title`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(escaped(title), parse_math=False, wrap=True)
    return figure, axes


def over_epochs(title: str):
    """A figure and its axes, with epochs along the horizontal one."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = drawing(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.3)
    return figure, axes


def legend(owner, artists: Sequence, labels: Sequence[str], **given) -> None:
    """Adds a legend to `owner`, axes or a figure, with the labels as they are."""
    made = owner.legend(artists, [str(i) for i in range(len(labels))], **given)
    for text, label in zip(made.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(escaped(label))


def saved(figure, kind: str, salt: str) -> bytes:
    """The figure as a file, `kind` png or svg. The same drawing with the same salt gives the same
    bytes."""
    import matplotlib

    document = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with (matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}),
          warnings.catch_warnings()):
        warnings.filterwarnings("ignore", r"Glyph .* missing from")     # of names in rare scripts
        figure.savefig(document, format=kind, dpi=120, metadata=metadata)
    return document.getvalue()
