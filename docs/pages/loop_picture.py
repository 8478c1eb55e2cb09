"""A picture of the loop: every event in its place, as SVG in the colours of the page.

It is made from the nested score that `callboard order` prints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from callboard.board import SCORE, SPAN_WORDS
from callboard.events import EVENTS

WIDTH = 400
ROW = 23
INDENT = 14
GAP = 5
LETTER_WIDTH = 7.9  # of the names, in units of the picture
REPEATED = ("do_epoch", "do_batch")
LEGEND = (("event", "event"), ("action", "action"), ("cancel", "only after a cancel"))


@dataclass
class Node:
    """One line of the score, and the lines inside it."""

    what: str
    inside: list[Node] = field(default_factory=list)


@dataclass
class Drawing:
    """SVG elements, and the height that they take so far."""

    elements: list[str] = field(default_factory=list)
    height: float = GAP


def loop_picture() -> str:
    """The picture; every name in it leads to its section on the page."""
    drawing = Drawing()
    for node in tree([("after_create", 0), *SCORE]):
        draw(node, drawing, depth=0)
    draw_legend(drawing)
    elements = "\n".join(drawing.elements)
    return f"""<div class="loop-picture">
<svg viewBox="0 0 {WIDTH} {drawing.height:g}" role="group"
aria-label="The events of the loop, nested as they fire">
{elements}
</svg>
</div>"""


def tree(score: list[tuple[str, int]]) -> list[Node]:
    """Nest the lines of a score by their depth."""
    root = Node("")
    path = [root]
    for what, depth in score:
        node = Node(what)
        path[depth].inside.append(node)
        path[depth + 1 :] = [node]
    return root.inside


def draw(node: Node, drawing: Drawing, depth: int) -> None:
    """Draw a span as a frame around what is inside, and anything else as a line."""
    left = GAP + depth * INDENT
    if node.what in SPAN_WORDS:
        draw_span(node, drawing, depth, left)
    elif node.what in EVENTS:
        draw_name(node.what, drawing, left)
    else:
        drawing.elements.append(text(left + 6, drawing.height, "words", node.what))
        drawing.height += ROW


def draw_span(node: Node, drawing: Drawing, depth: int, left: float) -> None:
    """Draw a frame with a title, and in it what happens in the span."""
    place = len(drawing.elements)
    top = drawing.height + GAP / 2
    right = WIDTH - GAP - depth * GAP
    words = SPAN_WORDS[node.what]
    again = "↻ " if node.what in REPEATED else ""
    drawing.height = top
    drawing.elements += [
        text(left + 8, top, "title", again + words),
        link(node.what, text(right - 8, top, "span-name", node.what)),
    ]
    drawing.height += ROW
    for inner in node.inside:
        draw(inner, drawing, depth + 1)
    drawing.height += GAP / 2
    frame = (
        f'<rect class="frame" x="{left:g}" y="{top:g}" width="{right - left:g}" '
        f'height="{drawing.height - top:g}" rx="5"/>'
    )
    drawing.elements.insert(place, frame)
    drawing.height += GAP / 2


def draw_name(name: str, drawing: Drawing, left: float) -> None:
    """Draw the name of an event or action."""
    style = style_of(name)
    parts = [text(left + 6, drawing.height, style, name)]
    if style == "action":
        width = len(name) * LETTER_WIDTH + 12
        parts.insert(0, pill(left, drawing.height, width))
    drawing.elements.append(link(name, "".join(parts)))
    drawing.height += ROW


def draw_legend(drawing: Drawing) -> None:
    """Say what the three kinds of names look like."""
    drawing.height += GAP
    left = float(GAP)
    for style, words in LEGEND:
        width = len(words) * LETTER_WIDTH + 12
        if style == "action":
            drawing.elements.append(pill(left, drawing.height, width))
        drawing.elements.append(text(left + 6, drawing.height, style, words))
        left += width + 3 * GAP
    drawing.height += ROW + GAP


def style_of(name: str) -> str:
    """Which of the kinds in the legend a name belongs to."""
    if EVENTS[name].kind == "action":
        return "action"
    return "cancel" if name.startswith("after_cancel_") else "event"


def pill(left: float, top: float, width: float) -> str:
    """The coloured ground of an action."""
    size = f'width="{width:g}" height="{ROW - 4}"'
    return f'<rect class="pill" x="{left:g}" y="{top + 2:g}" {size} rx="9"/>'


def text(left: float, top: float, style: str, words: str) -> str:
    """One line of text; ``top`` is that of its row."""
    return f'<text class="{style}" x="{left:g}" y="{top + 16:g}">{words}</text>'


def link(name: str, content: str) -> str:
    """Let what is drawn lead to the section about the event."""
    return f'<a href="#{name}">{content}</a>'
