"""A `Storage` in a file system."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenization.errors import InputError
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.checks import check_whole, is_inside
from tokenization.files.listing import Listing
from tokenization.waiting import Wait

LOCK_POLL_S = 0.05


class LocalFolder:
    """A folder of a local or network file system. See `Storage`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def names(self, hidden: bool = False) -> list[str]:
        """See `listing`."""
        found = self.listing()
        return sorted([*found.names, *found.others]) if hidden else found.names

    def listing(self, without: Sequence[str] = ()) -> Listing:
        """Follows links, but enters no folder twice, hidden ones last. Devices and pipes are among the others."""
        names, others = list[str](), list[str]()
        visited: set[tuple[int, int]] = set()
        folders, hidden_folders = [""], list[str]()
        while folders or hidden_folders:
            is_hidden = not folders
            place = hidden_folders.pop() if is_hidden else folders.pop()
            path, inner = self.folder / place, list[str]()
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                status = path.stat()
                if place in without or (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                with os.scandir(path) as entries:
                    for entry in entries:
                        inside = is_hidden or entry.name.startswith(".")
                        if _is(entry.is_dir):
                            (hidden_folders if inside else inner).append(f"{place}{entry.name}/")
                        elif inside or not (_is(entry.is_file) or entry.is_symlink()):
                            others.append(place + entry.name)
                        else:
                            names.append(place + entry.name)
            folders += sorted(inner, reverse=True)
        return Listing(sorted(names), sorted(others))

    def links_out(self) -> dict[str, str]:
        """Links in the folder to files and folders outside of it, with their targets."""
        root, found, waiting = self.folder.resolve(), dict[str, str](), [str(self.folder)]
        while waiting:
            with suppress(PermissionError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        target = Path(entry.path).resolve()
                        if not target.is_relative_to(root):
                            found[Path(entry.path).relative_to(self.folder).as_posix()] = str(target)
                    elif entry.is_dir():
                        waiting.append(entry.path)
        return dict(sorted(found.items()))

    def versions(self) -> dict[str, str]:
        """Size and modification time of each file."""
        states = {name: (self.folder / name).stat() for name in self.names()}
        return {name: f"{state.st_size} {state.st_mtime_ns}" for name, state in states.items()}

    def sizes(self) -> dict[str, int]:
        return {name: (self.folder / name).stat().st_size for name in self.names()}

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        path = self._path(name)
        if not path.is_file():
            raise InputError(f"{str(path)!r} does not exist, or is no file")
        yield path

    def size(self, name: str) -> int:
        with self.local(name) as path:
            return path.stat().st_size

    def read(self, name: str, start: int, stop: int) -> bytes:
        with self.local(name) as path, path.open("rb") as file:
            file.seek(start)
            return check_whole(file.read(stop - start), stop - start, str(path))

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        write_atomically(self._path(name), fill)

    def text(self, name: str) -> str | None:
        path = self._path(name)
        return path.read_text() if path.exists() else None

    def swap(self, name: str, expected: str | None, text: str) -> bool:
        """Uses a lock file in the same folder, which works on a network file system only if it supports locks."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            _lock(lock.fileno(), f"the lock {lock.name!r}, which another attempt holds")
            if self.text(name) != expected:
                return False
            write_atomically(path, lambda partial: partial.write_text(text))
        return True

    def delete_folder(self, name: str) -> None:
        path = self._path(name)
        if path.exists():
            shutil.rmtree(path)

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not is_inside(name):
            raise InputError(f"{name!r} is no name inside of {str(self.folder)!r}; rename it")
        return self.folder / name


def _is(test: Callable[[], bool]) -> bool:
    """The answer of an entry of a folder; False for a link in a circle."""
    try:
        return test()
    except OSError:
        return False


def _lock(handle: int, what: str) -> None:
    """Takes the lock of an open file once nobody else has it."""
    wait = Wait()
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait.still(what)
            time.sleep(LOCK_POLL_S)
