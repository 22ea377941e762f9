"""The lane: its tests in processes side by side, for they wait more than they compute; then the table of them all.

Usage: python -m tests.drills DOCUMENT
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.drills import table

HERE = Path(__file__).parent
SHARES = [
    ["test_kills.py"],
    ["test_faults.py", "-k", "recreate"],
    ["test_faults.py", "test_kernel_death.py", "test_model.py", "-k", "not recreate"],
    ["test_random_machine.py", "test_planted_bugs.py"],
]
"""Words for pytest, a process each; those that need a sandbox have their own."""


def main(document: Path) -> int:
    """Run everything; write the document where nothing failed. The exit status."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"rows-{number}" for number in range(len(SHARES))]
        running = [_begun(share, file) for share, file in zip(SHARES, files, strict=True)]
        failed = [process.wait() for process in running]
        if any(failed):
            print(f"{document} is left as it is", file=sys.stderr)
            return 1
        document.write_text(table.text(table.kept(files), table.FINDINGS.read_text(encoding="utf-8")))
    return 0


def _begun(share: list[str], rows: Path) -> subprocess.Popen[bytes]:
    rows.touch()
    named = [str(HERE / word) if word.endswith(".py") else word for word in share]
    words = [sys.executable, "-m", "pytest", "-m", "drills", *named]
    return subprocess.Popen(words, env={**os.environ, table.VARIABLE: str(rows)})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
