"""The arguments of scripts/prepare_data.sh; everything else that it does needs the network."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give one name and at most one folder"),
        (["a", "b", "c"], 2, "give one name and at most one folder"),
        (["../x"], 2, "is not a TFDS name"),
        (["digits"], 2, "needs no preparation"),
        (["frey_faces"], 2, "make frey_faces.npz"),
        (["faces", "PREPARED"], 0, "faces is prepared already; use --dataset=faces --data_dir="),
        (["faces:1.9.0", "PREPARED"], 0, "faces:1.9.0 is prepared already"),
        (["old", "PREPARED"], 1, "was prepared in a format other than array_record"),
    ],
)
def test_prepare_data_says_what_to_do(prepared, arguments, code, message):
    arguments = [str(prepared) if argument == "PREPARED" else argument for argument in arguments]
    done = subprocess.run(["bash", ROOT / "scripts" / "prepare_data.sh", *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("\n") == 1
