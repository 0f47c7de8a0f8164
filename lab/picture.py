# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture of a huge page for each run of the demo: lost red, intact green."""

from xml.sax.saxutils import escape

CELLS = 512
COLUMNS = 32
SIZE = 11               # of a cell, in pixels
PANEL = COLUMNS * SIZE
GAP = 40
TOP = 64
LOST, INTACT = '#cf222e', '#2da44e'


def _text(x, y, text, size=14, weight='normal', fill='#1f2328'):
    return ('<text x="%d" y="%d" font-size="%d" font-weight="%s" fill="%s">'
            '%s</text>' % (x, y, size, weight, fill, escape(text)))


def _panel(x, title, subtitle, lost, lines):
    out = [_text(x, 26, title, 17, 'bold'), _text(x, 48, subtitle)]
    for n in range(CELLS):
        out.append('<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>' % (
            x + n % COLUMNS * SIZE, TOP + n // COLUMNS * SIZE, SIZE - 1,
            SIZE - 1, LOST if n in lost else INTACT))
    y = TOP + CELLS // COLUMNS * SIZE + 24
    for n, (what, value) in enumerate(lines):
        out.append(_text(x, y + n * 20, what, 13, fill='#59636e'))
        out.append(_text(x + 210, y + n * 20, value, 13, 'bold'))
    return out


def svg(panels):
    """@panels: (title, subtitle, set of lost cells, [(what, value)])."""
    width = len(panels) * (PANEL + GAP) + GAP
    height = (TOP + CELLS // COLUMNS * SIZE + 24 +
              20 * max(len(p[3]) for p in panels) + 8)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
           'viewBox="0 0 %d %d" font-family="system-ui, sans-serif">'
           % (width, height, width, height),
           '<!-- SPDX-License-Identifier: GPL-2.0-or-later -->',
           '<rect width="100%" height="100%" fill="#ffffff"/>']
    for n, panel in enumerate(panels):
        out += _panel(GAP + n * (PANEL + GAP), *panel)
    return '\n'.join(out + ['</svg>', ''])
