"""Build the documentation as a site, and check what the generator does not.

The pages in `docs/` are written for the repository, where they link to its other files. For the site they are copied to
`.site/`, together with those files, and their links are changed to match.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
SOURCE, SITE = ROOT / ".site", ROOT / "site"
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "reporting.md"}
"""Files of the repository's folder that are pages of the site too."""
FILES = {"../README.md": "index.md", **{f"../{name}": page for name, page in PAGES.items()}}
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
NOT_IN_MENU = {"reporting.md"}


def main() -> int:
    """Build the site; return the exit code."""
    collect()
    problems = add_unlisted_pages()
    if not problems:
        problems = build() or list(check_site())
    for problem in problems:
        sys.stderr.write(f"docs: {problem}\n")
    if not problems:
        sys.stdout.write(f"{SITE.relative_to(ROOT)}: {len(list(SITE.rglob('*.html')))} pages\n")
    return 1 if problems else 0


def collect() -> None:
    """Copy pages and files to where the site is built from."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE / "docs")
    shutil.copytree(ROOT / "examples", SOURCE / "docs" / "examples")
    shutil.copy(ROOT / "mkdocs.yml", SOURCE)
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        (SOURCE / "docs" / page).write_text(LINK.sub(_from_root, text), encoding="utf-8")
    for path in (SOURCE / "docs").glob("*.md"):
        path.write_text(LINK.sub(_from_docs, path.read_text(encoding="utf-8")), encoding="utf-8")


def _from_docs(link: re.Match[str]) -> str:
    target = FILES.get(link["target"], link["target"])
    if target.startswith("../examples/"):
        target = target.removeprefix("../")
        # A folder has no page; its first file stands for it.
        folder = ROOT / target
        target = f"{target}/{min(path.name for path in folder.iterdir())}" if folder.is_dir() else target
    return target + (link["anchor"] or "")


def _from_root(link: re.Match[str]) -> str:
    target = PAGES.get(link["target"], link["target"].removeprefix("docs/"))
    return target + (link["anchor"] or "")


def add_unlisted_pages() -> list[str]:
    """Put pages that the menu does not have under "More", so that they are found; returns problems."""
    menu = SOURCE / "mkdocs.yml"
    listed = set(re.findall(r"([\w-]+\.md)\s*$", menu.read_text(encoding="utf-8"), re.MULTILINE))
    pages = {path.name for path in (SOURCE / "docs").glob("*.md")} - NOT_IN_MENU
    if more := sorted(pages - listed):
        with menu.open("a", encoding="utf-8") as file:
            file.write("".join(["  - More:\n", *(f"      - {page}\n" for page in more)]))
    return [f"`nav` in mkdocs.yml has {page}, which is no page" for page in sorted(listed - pages)]


def build() -> list[str]:
    """Run the generator; returns its complaints if it fails."""
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", "mkdocs.yml"]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        shutil.move(SOURCE / "site", SITE)
        return []
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)
    return [line.strip() for line in plain.partition("Traceback")[0].splitlines() if line.strip()]


class Links(HTMLParser):
    """What one page refers to and what can be referred to in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to or loads."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.targets.append(found["href"])
        elif tag in ("img", "script", "iframe", "source", "video") and "src" in found:
            self.loaded.append(found["src"])
        elif tag == "link" and "href" in found and "canonical" not in found.get("rel", ""):
            self.loaded.append(found["href"])


def check_site() -> list[str]:
    """Dead links and missing anchors in the finished pages, and what they would load from elsewhere."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in SITE.rglob("*.html")}
    problems = []
    for path, links in pages.items():
        name = path.relative_to(SITE)
        problems += [f"{name} loads {one} from elsewhere" for one in links.loaded if urlsplit(one).netloc]
        for one in [*links.targets, *(one for one in links.loaded if not urlsplit(one).netloc)]:
            parts = urlsplit(one)
            if parts.scheme or parts.netloc or name.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                problems.append(f"{name} links to {one}, which does not exist")
            elif parts.fragment and target in pages and parts.fragment not in pages[target].anchors:
                problems.append(f"{name} links to {one}, and there is no such section")
    return sorted(set(problems))


if __name__ == "__main__":
    sys.exit(main())
