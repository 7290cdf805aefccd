"""Checks that each link inside the built site leads somewhere: `python docs/check_links.py docs/_build/html`."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The targets that a page offers, and those that it asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes ids, links and the sources of pictures."""
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.ids.add(value)
            if value and name in ("href", "src"):
                self.links.append(value)


def broken(site: Path) -> list[str]:
    """The links that lead nowhere, as "page: link"."""
    written = (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)  # templates of the theme
    pages = {path.resolve(): Page(path) for path in written}
    faults = []
    for path, page in pages.items():
        for link in page.links:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            anchor = unquote(to.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].ids):
                faults.append(f"{path.relative_to(site.resolve())}: {link}")
    return faults


if __name__ == "__main__":
    built = Path(sys.argv[1])
    if not (built / "index.html").is_file():
        sys.exit(f"{built} holds no site; build it first")
    sys.exit("\n".join(broken(built)) or None)
