"""What the site needs of the documents: the README as its first page, links to files that are no pages as names.

A link to a file of the repository outside of docs/ becomes that file's name, if the file is there; one that leads
nowhere stays as it is, and mkdocs ends the build over it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    readme = (ROOT / "README.md").read_text()
    files.append(File.generated(config, "index.md", content=_LINK.sub(_from_docs, readme)))
    return files


def _from_docs(link: re.Match[str]) -> str:
    """A link of the README, which lies above docs/."""
    text, to, anchor = link[1], link[2], link[3] or ""
    if ":" in to:
        return link[0]
    return f"[{text}]({to.removeprefix('docs/')}{anchor})" if to.startswith("docs/") else f"[{text}](../{to}{anchor})"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = ROOT / "docs" / PurePosixPath(page.file.src_uri).parent

    def named(link: re.Match[str]) -> str:
        text, to = link[1], link[2]
        if ":" in to or to.startswith("#"):
            return link[0]
        there = (folder / to).resolve()
        outside = there.exists() and (ROOT / "docs" not in there.parents or there.is_dir())
        if not outside:
            return link[0]
        name = there.relative_to(ROOT).as_posix()
        return text if name in text.replace("`", "") else f"{text} (`{name}`)"

    return _LINK.sub(named, markdown)
