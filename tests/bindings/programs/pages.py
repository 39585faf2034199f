"""Runs the Python blocks of the pages, as whoever reads them would."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages():
    """{name: file} of the pages that show how something is done."""
    return {page.stem: page for page in (ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md")))}


def blocks(name):
    """The Python blocks of a page."""
    return BLOCK.findall(pages()[name].read_text())


def run(name, number, values, instead=()):
    """Runs a block, counted from 0, with these variables, which get what it makes.

    instead: pairs of what the block leaves to its reader, or cannot do here, and of what takes its place."""
    text = blocks(name)[number]
    for left_out, given in instead:
        assert left_out in text, f"{name}, block {number}, has no {left_out!r}"
        text = text.replace(left_out, given)
    exec(compile(text, f"{name}, block {number}", "exec"), values)  # Our own pages'.
    return values
