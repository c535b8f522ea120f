"""Runs that are killed, started again, and end as if nothing had been; the whole campaign is
`make faults`.
"""

import json
import subprocess
import sys
from pathlib import Path

from lengths import only_long

FAULTS = Path(__file__).resolve().parents[1] / "_tools" / "faults.py"


def campaign(out: Path, *options: str) -> list[dict]:
    "The records of a small campaign"
    done = subprocess.run(
        [sys.executable, FAULTS, "--out", out, *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.with_suffix(".json").read_text())["records"]


def test_runs_survive_kills(request, tmp_path):
    """kill -9 while images are decoded, in training, importance, selection, checkpoint and
    result writing: the same bits, and at most an epoch done again
    """
    only_long(request, "kills at random moments")
    records = campaign(tmp_path / "kills.md", "--only", "library", "--kills", "5", "--seed", "1")
    assert (
        sum(r["faults"] for r in records) >= 5
        and not any(r["lost"] for r in records)
        and len({r["kind"] for r in records}) >= 3
    )
    assert all(n <= 1 for r in records for n in r["epochs_again"])


def test_damaged_checkpoints_are_passed_over(request, tmp_path):
    "Cut off, a bit flipped, both of the two kept: said in words, and the same bits in the end"
    only_long(request, "damaged checkpoints in a whole run")
    records = campaign(tmp_path / "damage.md", "--only", "damage")
    assert (
        len(records) == 3
        and not any(r["lost"] for r in records)
        and all("checksum" in r["said"] for r in records)
    )
