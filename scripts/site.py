# SPDX-License-Identifier: Apache-2.0
"""Hook of mkdocs.yml: what is on the site besides docs/, at the paths that it has in the repository."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Pages, and the files that pages link to.
SHOWN = (
    *("*.md", "docs/**/*", "models/*.md", "benchmarks/*.md"),
    *("config/**/*.yaml", "ledpose_ros/**/*.py", "LICENSE", "CITATION.cff"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the files of the repository in place of those of `docs_dir`; the theme's stay."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for path in sorted(path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files
