# %% [markdown]
# # Figures
#
# > What all figures share: styles that survive greyscale printing, descriptions in words, HTML with both

# %%
#| default_exp report.figures

# %%
#| export
import base64
import hashlib
import html
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from PIL import Image

from fairgrape.training.files import writing

# %%
import tempfile

from IPython.display import HTML

# %% [markdown]
# The colours are those of Okabe and Ito, which colour-blind people can distinguish. Every series also differs in marker, hatch or lightness,
# so a greyscale print is readable. The label of each figure (`fig.get_label()`) is its description in words. It becomes the
# alternative text of the picture in a report and in the documentation.
#
# ## A style for each method
#
# A method has the same style in every figure, so a reader learns it once.

# %%
#| export
# Okabe and Ito's colours, the yellow darkened, and two more
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#8A7A00",
    "#8F3B1B",
    "#7F7F7F",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h")
ORDER = (
    "fairgrape",
    "ws",
    "importance",
    "lottery",
    "snip",
    "grasp",
    "random",
    "magnitude",
    "lottery_short",
)
# a method has one style everywhere; its variants are filled differently
FILLS = ("full", "none", "left", "top", "right", "bottom")


# %%
def lightness(c):
    return np.dot([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)], [0.299, 0.587, 0.114])


# one style more than methods, for all others
assert len(set(PALETTE)) == len(set(MARKERS)) == 10 == len(ORDER) + 1 and len(set(FILLS)) == 6
print({c: round(float(lightness(c)), 2) for c in PALETTE})


# %% [markdown]
# Variants of a method ("ws, iterative") have its colour and marker but a different filling. The method's own marker is full.

# %%
#| export
def _fill(label: str, labels: list[str]) -> str:
    "The filling of a variant's marker among all variants in the figure."
    method = label.partition(",")[0]
    variants = sorted(
        (v for v in {*labels, label} if v != method and v.partition(",")[0] == method), key=str
    )
    return FILLS[0] if label == method else FILLS[1 + variants.index(label) % (len(FILLS) - 1)]


# %%
forms = ["ws", "ws, iterative", "ws, as released", "fairgrape, iterative"]
print({form: _fill(form, forms) for form in forms})
# in alphabetical order, each method by itself
assert [_fill(f, forms) for f in forms] == ["full", "left", "none", "none"]
assert _fill("ws, iterative", []) == "none" and [
    _fill(f"ws, {i}", [f"ws, {i}" for i in range(6)]) for i in (4, 5)
] == ["bottom", "none"]


# %%
#| export
def look(
    label: str,  # A method's name, or a variant of it: "ws, iterative"
    labels: list[str] = (),  # All labels of the figure, to distinguish variants of one method
) -> dict:  # Colour, marker and filling for matplotlib
    """The colour and marker of a method, the same in every figure; all unknown methods share
    one. Its variants are filled differently.
    """
    method = label.partition(",")[0]
    i = ORDER.index(method) if method in ORDER else len(ORDER)
    return dict(
        color=PALETTE[i],
        marker=MARKERS[i],
        fillstyle=_fill(label, labels),
        markerfacecoloralt="white",
    )


# %%
look("fairgrape"), look("ws, iterative")

# %% [markdown]
# In greyscale only the lightness remains. FairGRAPE and WS, which appear together in most figures, differ by more than a quarter of the range from black to
# white.

# %%
assert len({tuple(look(m).values()) for m in (*ORDER, "one's own")}) == len(ORDER) + 1
assert lightness(look("ws")["color"]) - lightness(look("fairgrape")["color"]) > 0.25
assert [look(f, forms)["fillstyle"] for f in forms] == ["full", "left", "none", "none"] and len(
    {look(f, forms)["color"] for f in forms[:3]}
) == 1
assert look("one's own") == look("another")

# %% [markdown]
# Groups have no fixed names, so their position determines the style: a colour, a marker, and a hatch for areas.

# %%
#| export
HATCHES = ("", "///", "...", "xx", "--", "ooo", "++", "|||", "**", "\\\\\\")


def area(
    group: int,  # The group's position
    hollow: bool = False,  # Only the outline, dashed
) -> dict:  # For matplotlib's bars and patches
    """The style of a group's area: one colour and one hatch each; or only an outline, for
    something absent.
    """
    color = PALETTE[group % len(PALETTE)]
    # darker: a thin line on white
    if hollow:
        return dict(
            facecolor="white", edgecolor=tuple(0.7 * c for c in to_rgb(color)), linestyle="--"
        )
    return dict(
        facecolor=color, hatch=HATCHES[group % len(HATCHES)], edgecolor="white", linewidth=0
    )


# %%
[area(0), area(1), area(1, hollow=True)]

# %%
assert (
    len({s["hatch"] for s in map(area, range(10))})
    == len({s["facecolor"] for s in map(area, range(10))})
    == 10
)
assert (
    area(3)["facecolor"] == area(13)["facecolor"] == PALETTE[3]
    and area(3)["edgecolor"] == "white"
    and "hatch" not in area(3, hollow=True)
)
for g in range(10):
    outline = area(g, hollow=True)
    assert (
        outline["facecolor"] == "white"
        and outline["linestyle"] == "--"
        and np.allclose(outline["edgecolor"], 0.7 * np.array(to_rgb(PALETTE[g])))
    )
    # dark enough for a thin line on white
    assert np.dot(outline["edgecolor"], [0.299, 0.587, 0.114]) < 0.53


# %% [markdown]
# ## A figure, closed
#
# A notebook stores a text with each picture, by default `<Figure size 700x350 with 1 Axes>`, which does not help a reader. A figure with
# a description stores the description instead.
#
# Jupyter draws figures only with matplotlib's notebook backend. Servers and containers often set `MPLBACKEND=Agg`, and then a kernel would show only the text. So a figure can also draw itself.
#
# A user's `matplotlibrc` may contain `text.usetex: True`. Then LaTeX typesets every text. That fails if LaTeX is not installed, after hours of training, or if a group's name has an underscore or a per cent sign. These figures do not use LaTeX. The user's own plots are unchanged.

# %%
#| export
class DescribedFigure(Figure):
    """A figure whose text form is its label, if it has one, and which every backend shows as a
    picture, without LaTeX.
    """

    def draw(self, renderer):
        with plt.rc_context({"text.usetex": False}):  # for ticks created while drawing
            for text in self.findobj(Text):
                text.set_usetex(False)
            super().draw(renderer)

    def __repr__(self) -> str:
        return self.get_label() or super().__repr__()

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png", bbox_inches="tight")
        return drawn.getvalue()


# %%
plain, described = DescribedFigure(), DescribedFigure(label="Two bars, the left one twice as high.")
plain, described

# %%
assert repr(described) == "Two bars, the left one twice as high." and repr(plain).startswith(
    "<DescribedFigure size "
)


# %% [markdown]
# Figures are returned closed. A notebook then shows the figure that a cell returns only once, and a loop over a hundred runs does not fill the
# memory.

# %%
#| export
def figure_of(
    rows: int = 1,  # Rows of panels
    columns: int = 1,  # Columns of panels
    size: tuple[float, float] = (7, 3.5),  # Width and height (inches)
    **kwargs,  # For `plt.subplots`, e.g. `sharey=True`
    # The figure, closed, and its panels in reading order, shape `(rows · columns,)`
) -> tuple[Figure, np.ndarray]:
    "A closed figure with light grid lines and no box."
    with plt.rc_context({"text.usetex": False}):  # for the axes' number formats
        fig, axes = plt.subplots(
            rows,
            columns,
            figsize=size,
            layout="constrained",
            squeeze=False,
            FigureClass=DescribedFigure,
            **kwargs,
        )
    plt.close(fig)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.88", linewidth=0.8)
        ax.set_axisbelow(True)
    return fig, axes.ravel()


# %% [markdown]
# With `text.usetex` a figure is the same, pixel by pixel, as without. The user's own plots still use LaTeX.

# %%
def with_texts() -> Figure:
    "A figure with every kind of text, including an underscore and a per cent sign."
    fig, (ax,) = figure_of(size=(4, 2))
    ax.plot([1, 1000], [1e-3, 10], label="skin_tone")
    ax.set(xscale="log", xlabel="50 %", title="$x_2$")
    ax.annotate("here", (10, 1))
    ax.legend()
    return fig


as_usual = with_texts()._repr_png_()
with plt.rc_context({"text.usetex": True}):
    without_latex = with_texts()
    picture = without_latex._repr_png_()
    own = Figure()
    asks_latex = own.text(0, 0, "mine").get_usetex()
assert picture == as_usual and asks_latex
assert not any(text.get_usetex() for text in without_latex.findobj(Text))
print(len(as_usual), "bytes")

# %% [markdown]
# All styles in one figure, with the groups' areas below. It is shown further down, with its description.

# %%
fig, (top, low) = figure_of(2, 1, size=(8, 2))
for x, name in enumerate((*ORDER, "one's own", "ws, iterative")):
    top.plot(x, 0, markersize=12, **look(name))
    top.annotate(name.replace(", ", ",\n").replace("_", "_\n"), (x, 0.02), ha="center", fontsize=8)
for g in range(10):
    low.bar(g - 0.2, 1, 0.36, **area(g))
    low.bar(g + 0.2, 1, 0.36, **area(g, hollow=True))
low.set_xticks(range(10), [f"group {g}" for g in range(10)], fontsize=8)
print(fig, f"with {len(fig.axes)} panels; {len(plt.get_fignums())} figures are open")

# %%
assert (
    len(plt.get_fignums()) == 0
    and len(fig.axes) == 2
    and len(figure_of(2, 3)[1]) == 6
    and isinstance(fig, DescribedFigure)
)
shown = Image.open(io.BytesIO(fig._repr_png_()))
assert (
    shown.format == "PNG"
    and shown.width > 700
    and len(shown.convert("RGB").getcolors(1 << 20)) > 10
)


# %% [markdown]
# ## Any text
#
# The names of groups, classes and layers can contain any character. matplotlib reads text between two dollar signs as a formula, omits labels that begin with an
# underscore from legends, and draws the same box for every character that its font lacks, so 女 and 男 look alike. Every name in a plot
# of this package goes through `plain` and is drawn as it is written. A character without a glyph becomes its code.

# %%
#| export
@cache
def _glyphs(font: str) -> frozenset[int]:
    "Codes of the characters in a font file."
    return frozenset(get_font(font).get_charmap())


# %%
#| export
def plain(
    text,  # A name of any kind: a group, a class, a layer, a label
    most: int = 40,  # Longest text shown in full (characters); a longer one loses its middle
) -> str:  # For matplotlib's titles, ticks, legends and annotations
    "Escape a name so that matplotlib draws it literally."
    text = str(text)
    if len(text) > most:
        tail = (most - 1) // 2
        text = f"{text[: most - 1 - tail]}…{text[-tail:]}"
    known = frozenset().union(
        *(_glyphs(findfont(FontProperties(family=[f]))) for f in plt.rcParams["font.family"])
    )
    text = "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in text)
    if text.startswith("_"):
        text = "\u200b" + text  # a zero-width space
    return text.replace("$", r"\$")


# %%
ODD = ["$5_{x}$", "_hidden", "a\\b", "<b>", "%", "😀", "$", "a$b$c\\$", "{x}"]


def drawn(name):
    "The text that matplotlib draws for `plain(name)` in a legend, and whether as a formula."
    fig, (ax,) = figure_of()
    ax.plot(0, 0, label=plain(name))
    (text,) = ax.legend().get_texts()
    fig.draw_without_rendering()
    return text._preprocess_math(text.get_text())


print([drawn(name)[0] for name in (*ODD, "女", "long " * 30)])
assert [drawn(name) for name in ODD] == [
    (name if name != "_hidden" else "\u200b_hidden", False) for name in ODD
]
assert plain("tone-1") == "tone-1" and plain("女") == "U+5973" != plain("男") and plain(3) == "3"
assert (
    plain("a" * 40) == "a" * 40
    and plain("a" * 30 + "b" * 30) == "a" * 20 + "…" + "b" * 19
    and len(plain("x" * 99, 10)) == 10
)

# %% [markdown]
# Names under an axis are horizontal if they fit side by side. Otherwise they slant, and the figure grows by the height that they need.

# %%
#| export
LETTER = 0.075  # Width of a character at 8 points (inches)


def name_ticks(
    axes: Sequence[Axes],  # Panels of one figure with the same ticks
    names: Sequence[str],  # A name for each position 0, 1, …
    sizes: Sequence[int] | None = None,  # Number of images of each, shown with the name
):
    "Label the axis with names, horizontal if they fit, otherwise slanted."
    ax, shown = axes[0], [plain(name, 28) for name in names]
    sizes = None if sizes is None else [f"n = {n:,.0f}" for n in sizes]
    lines = [shown] if sizes is None else [shown, sizes]
    letters = max(len(text) for line in lines for text in line)
    fits = (
        len(names) < 7
        and LETTER * letters * len(names) <= ax.get_window_extent().width / ax.figure.dpi
    )
    labels = ["\n".join(parts) for parts in zip(*lines)]
    slant = {}
    if not fits:
        labels = shown if sizes is None else [f"{name} ({n})" for name, n in zip(shown, sizes)]
        slant = dict(rotation=60, ha="right", rotation_mode="anchor")
        more = 0.7 * LETTER * max(map(len, labels)) * ax.get_gridspec().nrows
        ax.figure.set_figheight(ax.figure.get_figheight() + more)
    for ax in axes:
        ax.set_xticks(range(len(names)), labels, fontsize=8, **slant)


# %%
#| export
def legend_columns(
    names: Sequence[str],  # The entries
    width: float = 7,  # Of the figure (inches)
) -> int:  # 1 to 4
    "The number of legend columns that fit: 12 characters per inch, 6 for a marker."
    return min(max(int(12 * width / (max(map(len, names)) + 6)), 1), 4)


# %%
assert [legend_columns(names, 8) for names in (["ws"], ["a" * 36, "b"], ["a" * 100])] == [4, 2, 1]


def ticks_of(names, **how):
    fig, axes = figure_of(1, 2, (8, 3.5))
    name_ticks(axes, names, **how)
    fig.draw_without_rendering()
    fig.set_label(f"Two empty panels with ticks: {', '.join(names)}")
    return fig


def overlap(fig):
    "Whether two neighbouring horizontal tick labels of a panel overlap."
    boxes = [t.get_window_extent() for t in fig.axes[0].get_xticklabels()]
    return any(a.x1 > b.x0 for a, b in zip(boxes, boxes[1:]))


fourteen = [
    f"{race} {gender}"
    for race in (
        "White",
        "Black",
        "Indian",
        "East Asian",
        "Southeast Asian",
        "Middle Eastern",
        "Latino_Hispanic",
    )
    for gender in ("Male", "Female")
]
few, many = ticks_of(["women", "men"], sizes=[1500, 20]), ticks_of(fourteen, sizes=range(14))
many

# %%
upright = few.axes[1].get_xticklabels()
assert (
    [t.get_text() for t in upright] == ["women\nn = 1,500", "men\nn = 20"]
    and not overlap(few)
    and few.get_figheight() == 3.5
)
assert {t.get_rotation() for t in many.axes[1].get_xticklabels()} == {60} and many.axes[
    0
].get_xticklabels()[9].get_text() == "Southeast Asian Female (n = 9)"
# "Southeast Asian Female (n = 9)" has 30 letters, "Latino_Hispanic Female (n = 13)" 31
assert np.isclose(many.get_figheight(), 3.5 + 0.7 * 0.075 * 31)
assert (
    ticks_of(["a" * 20] * 4).axes[0].get_xticklabels()[0].get_rotation() == 60
    and ticks_of(["_a", "$"]).axes[0].get_xticklabels()[1].get_text() == r"\$"
)


# %% [markdown]
# ## Intervals
#
# matplotlib takes the two lengths of an error bar, not its ends. An unknown end gives no bar. An end on the wrong side of the value (an interval of ρ may lie above it) gives no bar on that side.

# %%
#| export
def bar_lengths(
    low: np.ndarray,  # Lower end of each interval, shape `(n,)`
    value: np.ndarray,  # The values
    high: np.ndarray,  # Upper ends
) -> np.ndarray:  # Lengths below and above, shape `(2, n)`, ≥ 0
    "Lengths of error bars around values; 0 if the ends are unknown."
    return np.nan_to_num(np.clip(np.array([value - low, high - value], dtype=float), 0, None))


# %%
low, value, high = np.array([1, np.nan, 4]), np.array([2.0, 2, 3]), np.array([5, np.nan, 6])
print(bar_lengths(low, value, high))
assert bar_lengths(low, value, high).tolist() == [[1, 0, 0], [3, 0, 3]]


# %% [markdown]
# ## A picture in a page
#
# The page contains the picture as a PNG, so it is one file that you can send to someone. Sixty-four colours are enough for a plot and take fewer bytes.

# %%
#| export
def _png(fig: Figure) -> bytes:
    "The figure as a PNG of at most 64 colours."
    drawn, data = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, dpi=110)
    Image.open(drawn).convert("RGB").quantize(64).save(data, "PNG")
    return data.getvalue()


# %%
picture = Image.open(io.BytesIO(_png(fig)))
full = io.BytesIO()
fig.savefig(full, dpi=110)
with plt.rc_context({"text.usetex": True}):
    assert _png(with_texts()) == _png(without_latex)
print(picture.size, picture.mode, f"{len(_png(fig)):,} bytes instead of {len(full.getvalue()):,}")
assert (
    picture.size == (880, 220)
    and len(picture.getcolors()) <= 64
    and len(_png(fig)) < len(full.getvalue())
    and _png(fig) == _png(fig)
)


# %% [markdown]
# The description is the `alt` text, which a screen reader reads aloud and a browser shows if the picture is missing. A wide picture scrolls inside its frame, and the keyboard can reach the frame.

# %%
#| export
def html_figure(
    fig: Figure,  # A figure whose label is its description in words
    caption: str,  # What a reader should look for
) -> str:  # HTML with the picture inside
    "A picture with its description as HTML."
    said, alt = html.escape(caption), html.escape(fig.get_label())
    picture = base64.b64encode(_png(fig)).decode()
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{said}"><img'
        f' alt="{alt}"'
        f' src="data:image/png;base64,{picture}"></div><figcaption>{said}</figcaption></figure>'
    )


# %%
fig.set_label(
    "A marker for each of nine methods, for all others and for a variant of WS; a hatched bar and a"
    " dashed outline for each of ten groups."
)
page = html_figure(fig, "How <methods> and groups look")
print(page[:230], "…")
HTML(page)

# %%
assert (
    f'alt="{fig.get_label()}"' in page
    and page.count("How &lt;methods&gt; and groups look") == 2
    and "<methods>" not in page
)
assert (
    base64.b64decode(page.split("base64,")[1].split('"')[0]) == _png(fig) and 'tabindex="0"' in page
)

# %% [markdown]
# ## Pictures in steps
#
# A process is easier to follow at the reader's own pace. The page contains the pictures one below the other. A short script adds a slider above them and shows one at a time. Without the script (in print, or in a viewer that strips it) all pictures are visible.
#
# The slider is the browser's standard control: it takes the arrow keys, and a screen reader reads the step's caption, its `aria-valuetext`, when it moves. Nothing moves automatically.

# %%
#| export
_TURN = """document.querySelectorAll('[data-steps="KEY"]').forEach(function (box) {
  var slider = box.querySelector('input'), steps = box.querySelectorAll('figure');
  function show() {
    var now = Number(slider.value);
    steps.forEach(function (step, i) { step.style.display = i === now ? '' : 'none'; });
    slider.setAttribute('aria-valuetext', steps[now].querySelector('figcaption').textContent);
  }
  slider.parentNode.style.display = ''; slider.oninput = show; show();
});"""

# %%
assert (
    _TURN.count("KEY") == 1
    and _TURN.count("(") == _TURN.count(")")
    and _TURN.count("{") == _TURN.count("}")
)
print(_TURN.splitlines()[0])


# %%
#| export
def html_steps(
    figures: Sequence[Figure],  # A picture for each step, with its description as its label
    captions: Sequence[str],  # A caption for each picture
    title: str,  # The slider's name
) -> str:  # HTML with pictures, slider and script inside
    "Pictures one at a time, under a slider; all of them if scripts do not run."
    steps = "".join(map(html_figure, figures, captions))
    key, title = hashlib.sha256(steps.encode()).hexdigest()[:12], html.escape(title)
    slider = (
        f'<label style="display: none">{title}: <input type="range" min="0"'
        f' max="{len(figures) - 1}" step="1" value="0"></label>'
    )
    return (
        f'<div data-steps="{key}" role="group"'
        f' aria-label="{title}">{slider}{steps}</div><script>{_TURN.replace("KEY", key)}</script>'
    )


# %%
def counted(n):
    fig, (ax,) = figure_of(size=(4, 1))
    ax.bar(range(n), 1, **area(0))
    ax.set(xlim=(-0.5, 2.5), xticks=[], yticks=[])
    fig.set_label(f"{n} of three bars")
    return fig


three = html_steps([counted(n) for n in (1, 2, 3)], ["One", "Two", "Three"], "Counting")
HTML(three)

# %%
import re

assert (
    re.findall('alt="(.*?)"', three) == ["1 of three bars", "2 of three bars", "3 of three bars"]
    and 'min="0" max="2"' in three
)
assert (
    re.findall("<figcaption>(.*?)<", three) == ["One", "Two", "Three"]
    and "Counting: <input" in three
)
# without the script only the slider is hidden
assert "<figure>" in three and not re.search("<figure [^>]*(hidden|style)", three)
keys = set(re.findall("data-steps=.([0-9a-f]{12})", three))
# the same pictures give the same page
assert len(keys) == 1 and three == html_steps(
    [counted(n) for n in (1, 2, 3)], ["One", "Two", "Three"], "Counting"
)
assert keys != set(
    re.findall("data-steps=.([0-9a-f]{12})", html_steps([counted(1)], ["One"], "Counting"))
)


# %% [markdown]
# ## A table in a page
#
# A wide table is in a box with its own scroll bar, so a phone does not scroll the whole page sideways; the first column stays in place.

# %%
#| export
def html_table(
    frame: pd.DataFrame,  # What to show, as text
    caption: str,  # Its caption
) -> str:  # HTML; the first column holds the row headings
    "An accessible table in a scrolling box."

    def say(x):
        return html.escape(str(x))

    head = "".join(f'<th scope="col">{say(c)}</th>' for c in frame)

    def row(first, *rest):
        return (
            f'<tr><th scope="row">{say(first)}</th>'
            + "".join(f"<td>{say(x)}</td>" for x in rest)
            + "</tr>"
        )

    body = "".join(row(*values) for values in frame.itertuples(index=False, name=None))
    return (
        '<div class="scroll" tabindex="0" role="region"'
        f' aria-label="{say(caption)}"><table><caption><span>{say(caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


# %%
print(html_table(pd.DataFrame({"Method": ["a <b>"], "ρ": ["1.0"]}), "Two & two"))

# %%
made = html_table(pd.DataFrame({"Method": ["a <b>"], "ρ": ["1.0"]}), "Two & two")
assert (
    '<thead><tr><th scope="col">Method</th><th scope="col">ρ</th></tr></thead><tbody><tr><th'
    ' scope="row">a &lt;b&gt;</th><td>1.0</td></tr></tbody>' in made
)
assert (
    'aria-label="Two &amp; two"' in made and "<caption><span>Two &amp; two</span></caption>" in made
)

# %% [markdown]
# Pages share one style sheet. It stands here, where nothing imports torch, so that an audit's page does not need it.

# %%
#| export
STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1a1a1a;background:#fff}
main{max-width:80rem;margin:auto;padding:1rem}p,li{max-width:48rem}
h1{font-size:1.6rem}h2{margin-top:2.5rem;font-size:1.3rem}
h2,summary,.settings{overflow-wrap:anywhere}
summary{cursor:pointer;padding:.5rem 0}.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.4rem 0}
caption span{position:sticky;left:0;display:inline-block;max-width:88vw}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}
th:first-child{text-align:left;position:sticky;left:0;background:#f3f3f3}
thead th{vertical-align:bottom;white-space:normal;min-width:3rem;background:#f3f3f3}
.words td,.words thead th{white-space:normal;text-align:left;max-width:48rem}
figure{margin:1.5rem 0}img{max-width:100%;height:auto}
figcaption,.note{color:#444;font-size:.9rem}
@media(max-width:640px){img{max-width:none;width:640px}.grid img{width:auto}
.words tbody th{white-space:normal;overflow-wrap:anywhere;max-width:7rem}ul{padding-left:1.2rem}}"""


def write_html(
    out: str | Path,  # The page, an .html file
    title: str,  # Its title, as text
    body: str,  # What it shows, as HTML
) -> Path:  # Where it lies
    "Write one HTML page that works offline, completely or not at all."
    out = Path(out)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    page = f'<!doctype html><html lang="en"><head>{head}</head><body><main>{body}</main></body>'
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing(out) as part:
        part.write_text(f"{page}</html>", encoding="utf-8")
    return out


# %%
with tempfile.TemporaryDirectory() as folder:
    page = write_html(Path(folder) / "new" / "page.html", "a < b", "<h1>Über</h1>")
    framed = page.read_text(encoding="utf-8")
print(framed[:66], "…", framed[-50:])
assert "<title>a &lt; b</title>" in framed and STYLE in framed
assert framed.endswith("<main><h1>Über</h1></main></body></html>")
