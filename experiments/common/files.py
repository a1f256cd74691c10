"""Files that are written completely or not at all, rows of JSON, and checks that a folder is writable and has room."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from experiments.common.grammar import is_printable


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file in one step: whoever reads it sees the old content or the new content, never a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one step by a text."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Replaces the file in one step by `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: If the file is not valid JSON or holds something else than an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not valid JSON; restore the file, or choose another --workdir") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no named values; restore the file, or choose another --workdir")
    return content


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replaces the file in one step by one line of JSON for each row."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds one line of JSON for each row; the file must be empty, absent or end with a whole line."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file of rows; none if the file is absent.

    A process that is killed while it writes a row leaves an incomplete last line, which is left out.
    """
    *lines, unended = (path.read_bytes() if path.exists() else b"").split(b"\n")
    return [*lines, unended] if _is_json(unended) else lines


def ends_with_a_whole_line(path: Path) -> bool:
    """Whether the last character of the file is a line end; true for a file that is empty or absent."""
    if not path.exists() or not path.stat().st_size:
        return True
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def check_name(folder: str | Path, flag: str = "workdir") -> None:
    """Refuses a name that no file system or no terminal takes. `flag` is the flag that names the folder.

    Raises:
      ValueError: If the name holds control characters or is too long.
    """
    if not is_printable(str(folder)):
        raise ValueError(f"--{flag}={folder} cannot be printed; choose another name")
    longest = max((len(os.fsencode(part)) for part in Path(folder).parts), default=0)
    if longest > 255 or len(os.fsencode(os.path.abspath(folder))) > 3500:  # 4096, without room for the files below it
        raise ValueError(f"--{flag}={str(folder)[:60]}... is longer than a file system allows; choose a shorter name")


def check_writable(folder: str | Path, flag: str = "workdir") -> None:
    """Refuses a folder that cannot be made or written, before any work is lost. `flag` is the flag that names it.

    Raises:
      ValueError: If the folder's name is refused, or nothing can be written to it.
    """
    check_name(folder, flag)
    if Path(folder).is_file():
        raise ValueError(f"--{flag}={folder} is a file, not a folder; choose another folder")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 65536)
            file.flush()
    except OSError as error:
        raise ValueError(f"--{flag}={folder} cannot be written ({error.strerror}); choose another folder") from None


def check_space(workdir: str | Path, needed: int) -> None:
    """Refuses a disk that has fewer than `needed` bytes left, before any work is lost.

    Raises:
      ValueError: If the checkpoints do not fit.
    """
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise ValueError(
            f"--workdir={workdir} is on a disk with {free / 1e6:.1f} MB left, and the checkpoints need"
            f" {needed / 1e6:.1f} MB; make room or choose another folder"
        )


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
