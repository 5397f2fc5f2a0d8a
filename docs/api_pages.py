"""A hook of MkDocs: a page of the API for each package, made of the docstrings of its public modules."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ('backbones', 'downstream')
# :func:`~package.module.name` in a docstring, after Markdown has made code of the name.
_ROLE = re.compile(r':(?:attr|class|data|exc|func|meth|mod):<code>(~?)([\w.]+)</code>')


def pages() -> dict[str, list[str]]:
    """Package -> its modules, for all packages below :data:`PACKAGES`; names with ``_`` are private."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob('*.py')):
            parts = path.relative_to(ROOT).with_suffix('').parts
            names = parts[:-1] if parts[-1] == '__init__' else parts
            if not any(name.startswith('_') for name in names):
                folder = '.'.join(parts[:-1])
                found.setdefault(folder, []).append('.'.join(names))
    return {folder: modules for folder, modules in sorted(found.items()) if len(modules) > 1}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages to the navigation."""
    config.nav.append({'API': [{folder: f'api/{folder}.md'} for folder in pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, which are nowhere on the disk."""
    for folder, modules in pages().items():
        # What a package re-exports is documented in the module that defines it.
        blocks = [f'::: {name}' for name in modules if name != folder]
        head = f'::: {folder}\n    options: {{members: false, heading_level: 1}}'
        text = '\n\n'.join([head, *blocks])
        files.append(File.generated(config, f'api/{folder}.md', content=text))
    return files


def on_page_content(html: str, page, config: MkDocsConfig, files: Files) -> str:
    """Turn the docstrings' references into links where the site has what they name."""

    def link(match: re.Match) -> str:
        short, name = match.groups()
        shown = name.rpartition('.')[2] if short else name.lstrip('.')
        if not name.startswith(PACKAGES):
            return f'<code>{shown}</code>'
        return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'

    return _ROLE.sub(link, html)
