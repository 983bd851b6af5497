"""What the two scores of a feature measure: a drawing for the documentation. Its texts and bars are made up to show the definitions."""

from dataclasses import dataclass

from saesteer.figures.style import BLACK, BLUE, GREY, MAGENTA, PAGE, SMALLEST, Axes, Figure, new_figure, styled

_NOTE = (
    "Top logit-lens tokens: the tokens of largest logit when the final norm and the unembedding are applied to the decoder direction. "
    "Rank 0 is the likeliest token. Texts and bars are made up."
)
_BOX = (0.9, 0.52)  # width and height; boxes are 1 apart
_MIDDLE = 0.6


@dataclass(frozen=True)
class Part:
    """A score: what goes in, what the feature does, what is looked at, and what the score is."""

    score: str
    colour: str
    question: str
    first: str
    feature: str
    last: str
    meaning: str


PARTS = (
    Part(
        "Input score",
        BLUE,
        "does the feature fire on the tokens that it promotes?",
        "max-activating example:\n“she saw the [doctor] at\nnoon, and the nurse …”",
        "encoder row:\nactivation is largest\nat “doctor”",
        "is “doctor” one of the top\nlogit-lens tokens?\ndoctor, hospital, nurse, …",
        "Score: share of the max-activating examples for which the answer is yes.",
    ),
    Part(
        "Output score",
        MAGENTA,
        "does steering make the model write the tokens that it promotes?",
        "neutral prompt:\n“From my experience,”",
        "decoder row: steering\nadds factor × a_max ×\ndecoder direction",
        "",
        "Score: (1 − rank / size of vocabulary) × probability, of the best of the top logit-lens tokens.",
    ),
)
_NEXT = {"doctor": (0.05, 0.6), "hospital": (0.02, 0.3), "the": (0.5, 0.1)}
"""Probability of a next token, unsteered and steered."""


@styled
def draw() -> Figure:
    """A row a score."""
    figure = new_figure(PAGE, 3.9, _NOTE)
    for axes, part in zip(figure.subplots(len(PARTS), 1), PARTS, strict=True):
        axes.set(xlim=(0, 3), ylim=(0, 1), xticks=[], yticks=[])
        axes.set_axis_off()
        axes.set_title(f"{part.score}: {part.question}", color=part.colour)
        for place, text in enumerate((part.first, part.feature, part.last)):
            _box(axes, place + 0.5, text, part.colour if place == 1 else GREY)
        for edge in (1, 2):
            ends = ((edge + 0.05, _MIDDLE), (edge - 0.05, _MIDDLE))
            axes.annotate("", *ends, arrowprops={"arrowstyle": "-|>", "color": part.colour, "shrinkA": 0, "shrinkB": 0})
        axes.text(0.05, 0.1, part.meaning, va="center", fontsize=SMALLEST + 1, color=part.colour)
        if not part.last:
            _bars(axes, part.colour)
    return figure


def _box(axes: Axes, x: float, text: str, edge: str) -> None:
    from matplotlib.patches import Rectangle

    width, height = _BOX
    corner, thickness = (x - width / 2, _MIDDLE - height / 2), 0.8 if edge == GREY else 1.8
    axes.add_patch(Rectangle(corner, width, height, facecolor="none", edgecolor=edge, linewidth=thickness))
    axes.text(x, _MIDDLE, text, ha="center", va="center", fontsize=SMALLEST, color=BLACK, linespacing=1.35)


def _bars(axes: Axes, colour: str) -> None:
    """Probabilities of the next token, in the last box: steered above unsteered."""
    for place, (token, (unsteered, steered)) in enumerate(_NEXT.items()):
        y = _MIDDLE + 0.05 - 0.12 * place
        axes.text(2.42, y, token, ha="right", va="center", fontsize=SMALLEST)
        axes.barh([y + 0.025, y - 0.025], [0.7 * steered, 0.7 * unsteered], 0.045, left=2.45, color=[colour, GREY])
    axes.text(2.5, _MIDDLE + 0.18, "next token (grey: unsteered)", ha="center", va="center", fontsize=SMALLEST)
