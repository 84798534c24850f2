# SPDX-License-Identifier: Apache-2.0
"""The page docs/faults.md: what came of the faults that tests make, a section for each module of tests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[1] / "docs" / "faults.md"
TITLE = "# When things go wrong\n\nWritten by `make faults`, which makes each of these faults over DDS.\n"


class FaultTable:
    """A section with a row for each fault."""

    def __init__(self, heading: str, introduction: str, columns: tuple[str, ...]) -> None:
        self._heading = heading
        self._introduction = introduction
        self._columns = columns
        self.rows: dict[str, tuple[str, ...]] = {}

    def add(self, fault: str, *cells: object) -> None:
        """What came of a fault, a cell for each column but the first."""
        assert len(cells) == len(self._columns) - 1
        self.rows[fault] = (fault, *map(str, cells))

    def check(self, path: Path) -> None:
        """Every fault stands on the page."""
        documented = path.read_text(encoding="utf-8")
        assert [fault for fault in self.rows if f"| {fault} |" not in documented] == []

    def write(self, path: Path) -> None:
        """Replace the section on the page, and leave the others as they are."""
        head, *rows = (f"| {' | '.join(line)} |" for line in (self._columns, *self.rows.values()))
        table = "\n".join([head, f"|{'---|' * len(self._columns)}", *rows])
        section = f"## {self._heading}\n\n{self._introduction}\n\n{table}\n"
        sections = re.split(
            r"^(?=## )", path.read_text(encoding="utf-8") if path.exists() else TITLE, flags=re.M
        )
        is_ours = [text.startswith(f"## {self._heading}\n") for text in sections]
        if any(is_ours):
            sections[is_ours.index(True)] = section
        else:
            sections.append(section)
        path.write_text("\n\n".join(text.strip() for text in sections) + "\n", encoding="utf-8")


def fault_table(request: pytest.FixtureRequest, table: FaultTable) -> Iterator[FaultTable]:
    """Give out the table; afterwards write it where --fault-table says, or else check the page."""
    yield table
    path = request.config.getoption("--fault-table")
    if path is None:
        table.check(DOCUMENT)
        return
    tests = [item for item in request.session.items if item.path == request.path]
    assert not request.session.testsfailed and len(table.rows) >= len(tests), "the table would have holes"
    table.write(Path(path))
