"""Places inside a folder, stored so that the folder may be moved or mounted elsewhere."""

from pathlib import Path


def stored_place(place: str, folder: Path | None) -> str:
    """Returns `place` relative to `folder`, if it lies in it; a URL and any other path unchanged."""
    if folder is None or "://" in place or not Path(place).is_relative_to(folder):
        return place
    return Path(place).relative_to(folder).as_posix()


def is_same_place(stored: str, place: str, folder: Path | None) -> bool:
    """True if `stored` is `stored_place(place, folder)`, or what earlier code stored: the absolute path, here or where
    the folder was before it moved. Such a path ends in the folder's name and the path in it."""
    inside = stored_place(place, folder)
    if stored in (place, inside):
        return True
    moved = folder is not None and inside != place and Path(stored).is_absolute()
    return moved and stored.endswith(f"/{Path(str(folder)).name}/{inside}")
