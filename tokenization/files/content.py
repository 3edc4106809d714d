"""Names the content of files by their first bytes: a HEIC picture, an HTML page, a Git LFS pointer, a LoRA adapter.

Messages about pictures, shards, weights and tokenizers that cannot be used take their words from here.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenization.files.safetensors_header import stored_tensors
from tokenization.files.signatures import (
    ADAPTER_PART,
    ARROW_STREAM,
    CONVERT,
    EMPTY,
    FETCH,
    GGUF,
    HEIF_BRANDS,
    HTML,
    LORA,
    OPTIMIZER,
    OPTIMIZER_KEYS,
    POINTERS,
    QUANTISED,
    SAFETENSORS,
    SIGNATURES,
    TEXTUAL,
    TORCH,
    TORCH_MEMBERS,
    TORCHSCRIPT,
    ZEROS,
    Content,
)

START_BYTES = 4096
"""How much of a file's beginning is looked at."""
OUTERMOST = re.compile(rb"(?>\s|<\?.*?\?>|<!--.*?-->)*+<(?:!doctype\s+)?([a-z][a-z0-9:_.-]*)", re.DOTALL)
"""The name in a document type, or of the first element, behind declarations and comments."""
PNM = Content("a PNM picture", "picture")
PNM_KINDS = {
    b"P7": Content("a PAM picture", "picture", CONVERT),
    b"PF": Content("a colour PFM picture", "picture", CONVERT),
}
"""Those that Pillow does not read."""
HTML_ELEMENTS = (
    *(b"html", b"head", b"body", b"title", b"meta", b"link", b"base", b"script", b"style", b"noscript", b"div", b"p"),
    *(b"span", b"a", b"b", b"h1", b"h2", b"h3", b"center", b"font", b"table", b"pre", b"br", b"hr", b"img", b"iframe"),
)


def content_of(start: bytes) -> Content | None:
    """The content of a file by its first bytes, `START_BYTES` of them or all; None if they match no signature."""
    if not start:
        return EMPTY
    if len(start) >= 512 and not start.strip(b"\0"):
        return ZEROS
    is_text = _is_plain_text(start)
    for offset, signature, content in SIGNATURES:
        if start.startswith(signature, offset) and (not is_text or content.name in TEXTUAL):
            return content
    if is_text and re.match(rb"P[1-3]\s+(#|\d+\s)", start):
        return PNM
    if is_text:
        return _of_text(start)
    if start[:4] == ARROW_STREAM and 0 < int.from_bytes(start[4:8], "little") < 1 << 30:
        return Content("an Arrow stream", "table", "write it as parquet")
    if start[4:8] == b"ftyp":
        return _of_brands(start)
    if start.startswith(b"PK\x03\x04"):
        return _of_zip(start)
    if start[:2] == b"BM" and not start[6:10].strip(b"\0"):
        return Content("a BMP picture", "picture")
    if re.match(rb"P([1-7][\s#]|[Ff]\s-?\d)", start):
        return PNM_KINDS.get(start[:2], PNM)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Content("a Python pickle", "other", "write it without pickle")
    if len(start) > 9 and int.from_bytes(start[:8], "little") < 1 << 30 and start[8:9] == b"{":
        return SAFETENSORS
    return _of_text(start)


def content_of_file(path: Path) -> Content | None:
    """The content of the file at `path`. For safetensors, the names of the tensors decide; nothing is unpickled.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        found = content_of(file.read(START_BYTES))
    if found is SAFETENSORS:
        try:
            return content_of_tensors(stored_tensors(path)) or found
        except (ValueError, KeyError, TypeError, AttributeError):
            return Content("a damaged safetensors file", "weights", "fetch it again")
    return found


def content_of_tensors(names: Iterable[str]) -> Content | None:
    """The content of a file with tensors of these names, if it is not a whole model in plain numbers; else None."""
    names = list(names)
    if any(ADAPTER_PART.search(name) for name in names):
        return LORA
    if any(OPTIMIZER_KEYS & set(re.split(r"[.:/]", name)) for name in names):
        return OPTIMIZER
    last = {name.rpartition(".")[2] for name in names}
    for method, parts in QUANTISED.items():
        if last & set(parts):
            return quantised(method)
    return None


def content_of_model_folder(folder: Path) -> Content | None:
    """The kind of model in a folder by its configuration, if it is not a whole model in plain numbers; else None."""
    if (folder / "adapter_config.json").is_file():
        return LORA
    if next(folder.glob("*.gguf"), None) and not next(folder.glob("*.safetensors"), None):
        return GGUF
    try:
        return content_of_config(json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, ValueError):
        return None


def content_of_config(config: Any) -> Content | None:
    """The kind of model that a `config.json` describes, if it is quantised; else None."""
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return quantised(str(method) if method else "an unnamed method")


def quantised(method: str) -> Content:
    """The content of a model that `method` quantised."""
    return Content(f"a model quantised by {method}", "weights", "take the one in bfloat16, float16 or float32")


def what_it_is(start: bytes) -> str:
    """Describes any bytes as part of a message: "it is an HTML page; fetch the file itself", or how they begin."""
    found = content_of(start)
    return f"it is {found}" if found else f"it begins with the bytes {start[:8].hex(' ')}"


def what_file_is(path: Path) -> str:
    """Describes the file at `path` as `what_it_is` does; empty if it cannot be read."""
    try:
        if found := content_of_file(path):
            return f"it is {found}"
        with path.open("rb") as file:
            return what_it_is(file.read(START_BYTES))
    except OSError:
        return ""


def _is_plain_text(start: bytes) -> bool:
    """True if there is nothing but printable letters and white space: no format whose numbers are binary has that."""
    try:
        text = start.decode("utf-8", "strict" if len(start) < START_BYTES else "ignore")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\n\r\f" for letter in text)


def _of_brands(start: bytes) -> Content:
    """The content of an ISO base media file: its brands say which format uses that container."""
    length = min(int.from_bytes(start[:4], "big"), len(start))
    brands = [start[8:12], *(start[place : place + 4] for place in range(16, length, 4))]
    if any(brand in (b"avif", b"avis") for brand in brands):
        return Content("an AVIF picture", "picture")
    if any(brand in HEIF_BRANDS for brand in brands):
        return Content("a HEIC picture", "picture", CONVERT)
    if brands[0] == b"crx ":
        return Content("a Canon raw picture", "picture", CONVERT)
    return Content("an MP4 or QuickTime video", "media", "take its frames as pictures")


def _of_zip(start: bytes) -> Content:
    """The content of a zip archive by the name of its first member."""
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")].decode("utf-8", "replace")
    if name.rpartition("/")[2] in TORCH_MEMBERS:
        return TORCH
    if name.endswith("/data/0"):  # torch.save writes data.pkl first
        return TORCHSCRIPT
    if name.endswith(".npy"):
        return Content("NumPy arrays (.npz)", "table")
    if name in ("[Content_Types].xml", "mimetype"):
        return Content("an Office document, an e-book or a drawing in a zip", "other", CONVERT)
    return Content("a zip archive", "archive", "unpack it")


def _of_text(start: bytes) -> Content | None:
    wide = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = start.decode("utf-16", "ignore").encode() if wide else start.removeprefix(b"\xef\xbb\xbf")
    head = text.lstrip()[:START_BYTES].lower()
    for signature, content in POINTERS:
        if head.startswith(signature):
            return content
    if head.startswith(b"<"):
        return _of_markup(head)
    try:
        words = text.decode("utf-8", "strict" if len(start) < START_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    if not words.strip() or not all(letter.isprintable() or letter in "\t\n\r\f" for letter in words):
        return None
    if head[:1] in (b"{", b"["):
        return Content("a JSON text", "text")
    first = " ".join(words.split())[:40]
    return Content(f"a text that begins {first!r}", "text")


def _of_markup(head: bytes) -> Content:
    """Of HTML and XML, in lower case: the outermost element says which, whatever is drawn or quoted inside."""
    found = OUTERMOST.match(head)
    outermost = found[1].rpartition(b":")[2] if found else b""
    if outermost == b"svg":
        return Content("an SVG drawing", "other", "render it as PNG")
    if outermost in HTML_ELEMENTS:
        return HTML
    if outermost == b"error":
        return Content("an error message of a storage service", "text", FETCH)
    return Content("an XML text", "text")


def without_addresses(message: str) -> str:
    """A message without addresses in memory, which differ from run to run, as Pillow writes them."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", message)


def one_line(error: object) -> str:
    """A library's message as part of one of ours: on one line, without addresses."""
    return " ".join(without_addresses(str(error)).split())
