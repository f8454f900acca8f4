"""The tree of the site is that of the repository, so that links hold in both.

Pages are the Markdown files at the top, below ``docs``, and the READMEs of benchmarks,
tests and example; what they link to beside, scripts and figures, is copied along.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


ROOT = Path(__file__).parents[1]
PAGES = (
    "*.md",
    "docs/**/*.md",
    "benchmarks/README.md",
    "benchmarks/*/README.md",
    "benchmarks/results/*/*.md",
    "tests/README.md",
    "pft_lightning/example/README.md",
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give every page, and what it links to, the path that it has in the repository."""
    for file in list(files):
        path = Path(file.abs_src_path or "")
        if path.is_relative_to(config.docs_dir) and path.suffix != ".css":
            files.remove(file)
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    linked = {path for page in pages for path in _files_linked_from(page)}
    for path in sorted(pages | linked):
        address = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, address, abs_src_path=str(path)))
    return files


def _files_linked_from(page: Path) -> set[Path]:
    found = set()
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path = Path(os.path.normpath(page.parent / link))
        if path.is_file() and path.is_relative_to(ROOT):
            found.add(path)
    return found
