"""The meaning of file names in a corpus: pictures, captions, files of an operating system, other spellings."""

import posixpath
import unicodedata
from functools import partial

PICTURE_SUFFIXES = frozenset(["png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2", "ppm"])
"""Endings of pictures that every corpus has had from the beginning. Where a sample has several, these come first."""
FURTHER_SUFFIXES = {
    *(
        "jpe",
        "apng",
        "heic",
        "heif",
        "hif",
        "jxl",
        "jpx",
        "jpf",
        "j2k",
        "jpc",
        "pgm",
        "pbm",
        "pnm",
        "pfm",
        "tga",
        "ico",
    ),
    *("cur", "dib", "qoi", "psd", "dds", "pcx", "sgi", "mpo"),
}
"""Endings of other pictures that Pillow or one of its plugins reads."""
TEXT_SUFFIXES = ("txt", "text", "caption")
"""Endings of files that hold the caption of the picture of the same name, the first that is there."""
SYSTEM_FILES = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini"])
MAC_FOLDER = "__MACOSX"
HIDDEN = "hidden or system file"
"""The reason for which such files are ignored."""


def suffix_of(name: str) -> str:
    """The text after the last dot, in lower case."""
    return posixpath.basename(name).rpartition(".")[2].lower()


def stem_of(name: str) -> str:
    """The name up to its last dot."""
    return name.rpartition(".")[0] if "." in posixpath.basename(name) else name


def is_picture(name: str) -> bool:
    """True if the ending is one of a picture that Pillow or one of its plugins reads."""
    return suffix_of(name) in PICTURE_SUFFIXES | FURTHER_SUFFIXES


def is_system_file(name: str) -> bool:
    """True for hidden files, and for what macOS and Windows leave beside a user's files: `._NAME`, `.DS_Store`."""
    *folders, last = name.split("/")
    return last.startswith(".") or last.lower() in SYSTEM_FILES or MAC_FOLDER in folders


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC). macOS and some archivers write the decomposed one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spellings(name: str) -> list[str]:
    """The name itself, and what else the same file may be called: with slashes where Windows wrote backslashes, and
    composed or decomposed."""
    forms = (lambda text: text, composed, partial(unicodedata.normalize, "NFD"))
    return list(dict.fromkeys(form(one) for one in (name, name.replace("\\", "/")) for form in forms))
