"""Elements of the diagrams as SVG: boxes, funnels, matrices and arrows."""

from xml.sax.saxutils import escape

FIRST, SECOND = ('#e8e8e8', '#d9d9d9'), ('#dcebdc', '#c3dcc3')
COMMON, UNIQUE = '#7fb2e5', ('#f0a35e', '#c9739f')
ONE, LINE, INK, WHITE, PLAIN = '#2f6fb0', '#555', '#222', '#ffffff', '#f6f6f6'
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" role="img" aria-labelledby="title desc">
  <title id="title">{title}</title>
  <desc id="desc">{description}</desc>
  <defs>
    <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
      <path d="M0 0 L8 4 L0 8 Z" fill="#555"/>
    </marker>
    <pattern id="unused" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
      <rect width="6" height="6" fill="#f4f4f4"/>
      <line x1="0" y1="0" x2="0" y2="6" stroke="#c4c4c4"/>
    </pattern>
  </defs>
  <rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>
"""


class Drawing:
    """SVG drawing, built from elements.

    Args:
        title: title of the drawing.
        description: alternative text.
        height: height; the width is 760.
    """

    width = 760

    def __init__(self, title: str, description: str, height: int) -> None:
        """Initialize a new Drawing instance."""
        sizes = {'width': self.width, 'height': height}
        self.parts = [
            HEAD.format(title=escape(title), description=escape(description), **sizes)
        ]

    def text(
        self, x: float, y: float, words: str, size: int = 13, anchor: str = 'middle'
    ) -> None:
        """Write lines of text, by default centered on a point."""
        for i, line in enumerate(words.split('\n')):
            self.parts.append(
                f'  <text x="{x:g}" y="{y + 1.25 * size * i:g}" font-size="{size}" '
                f'text-anchor="{anchor}" fill="{INK}">{escape(line)}</text>\n'
            )

    def shape(self, points: str, fill: str = 'none', more: str = '') -> None:
        """Draw an open or closed path."""
        self.parts.append(
            f'  <path d="{points}" fill="{fill}" stroke="{LINE}"{more}/>\n'
        )

    def arrow(self, points: str, both: bool = False, dashed: bool = False) -> None:
        """Draw a path that ends in an arrowhead."""
        more = ' marker-end="url(#arrow)"' + ' marker-start="url(#arrow)"' * both
        self.shape(points, more=more + ' stroke-dasharray="5 4"' * dashed)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        words: str = '',
        size: int = 13,
    ) -> None:
        """Draw a box with centered text."""
        self.parts.append(
            f'  <rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'fill="{fill}" stroke="{LINE}"/>\n'
        )
        lines = words.count('\n')
        middle = y + height / 2 + 0.35 * size - 0.625 * size * lines
        if words:
            self.text(x + width / 2, middle, words, size)

    def funnel(
        self, x: float, y: float, width: float, fill: str, words: str, slope: int
    ) -> None:
        """Draw an encoder, which narrows (slope 12), or a projector, which widens (-12)."""
        left, right = (0, slope) if slope > 0 else (-slope, 0)
        self.shape(
            f'M{x:g} {y - 32 + left:g} L{x + width:g} {y - 32 + right:g} '
            f'V{y + 32 - right:g} L{x:g} {y + 32 - left:g} Z',
            fill,
        )
        self.text(x + width / 2, y + 4, words)

    def diagonal(self, x: float, y: float, size: float) -> None:
        """Draw the diagonal of a matrix, whose target is one."""
        self.parts.append(
            f'  <path d="M{x:g} {y:g} l{size:g} {size:g}" stroke="{ONE}" stroke-width="5"/>\n'
        )

    def matrix(
        self, x: float, y: float, size: float, label: str, ones: bool = True
    ) -> None:
        """Draw a matrix with its target and label."""
        self.parts.append(
            f'  <rect x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}" '
            f'fill="{WHITE}" stroke="{LINE}"/>\n'
        )
        if ones:
            self.diagonal(x, y, size)
        self.text(x + size / 2, y + size + 17, label, 12)

    def svg(self) -> str:
        """Return the content of the SVG file."""
        return ''.join([*self.parts, '</svg>\n'])
