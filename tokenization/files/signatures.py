"""The signatures of file formats, and their names in messages. `tokenization.files.content` looks them up.

The bytes are those of the formats' own specifications; the `file` command has most of them, too.
"""

import re
from dataclasses import dataclass

CONVERT = "convert it to JPEG, PNG or WebP"
FETCH = "fetch the file itself"


@dataclass(frozen=True)
class Content:
    """The content of a file.

    Attributes:
        name: with its article, as in "an HTML page".
        kind: `picture`, `archive`, `table`, `weights`, `text`, `pointer`, `media`, `system` or `other`.
        remedy: what to do if other content was expected; empty if that depends on the case.
    """

    name: str
    kind: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}; {self.remedy}" if self.remedy else self.name


EMPTY = Content("an empty file", "other", FETCH)
ZEROS = Content("nothing but zeros, as an aborted download leaves it", "other", FETCH)
HTML = Content("an HTML page, as a server sends it instead of a file", "text", FETCH)
GIT_LFS = Content("a Git LFS pointer", "pointer", f"{FETCH} with git lfs pull")
GGUF = Content("a GGUF file, which holds weights for llama.cpp", "weights", "take the model's safetensors")
LORA = Content("a LoRA adapter, not a whole model", "weights", "merge it into its base model, and name the result")
OPTIMIZER = Content("the state of an optimizer", "weights", "name the model's own weights")
TORCH = Content("a torch file", "weights")
TORCHSCRIPT = Content("a TorchScript module, which is code", "weights", "take the model's weights alone")
SAFETENSORS = Content("a safetensors file", "weights")
MAC_COMPANION = Content("an AppleDouble file, which macOS writes beside each file", "system", "leave it out")

SIGNATURES: tuple[tuple[int, bytes, Content], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", Content("a PNG picture", "picture")),
    (0, b"\xff\xd8\xff\xf7", Content("a JPEG-LS picture", "picture", CONVERT)),
    (0, b"\xff\xd8\xff", Content("a JPEG picture", "picture")),
    (0, b"GIF8", Content("a GIF picture", "picture")),
    (8, b"WEBP", Content("a WebP picture", "picture")),
    (8, b"CR\x02", Content("a Canon raw picture", "picture", CONVERT)),
    (0, b"II*\0", Content("a TIFF picture", "picture")),
    (0, b"MM\0*", Content("a TIFF picture", "picture")),
    (0, b"II+\0", Content("a BigTIFF picture", "picture")),
    (0, b"MM\0+", Content("a BigTIFF picture", "picture")),
    (0, b"II\xbc", Content("a JPEG XR picture", "picture", CONVERT)),
    (0, b"IIRO", Content("an Olympus raw picture", "picture", CONVERT)),
    (0, b"IIU\0", Content("a Panasonic raw picture", "picture", CONVERT)),
    (0, b"FUJIFILMCCD-RAW", Content("a Fujifilm raw picture", "picture", CONVERT)),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", Content("a JPEG XL picture", "picture", CONVERT)),
    (0, b"\xff\x0a", Content("a JPEG XL picture", "picture", CONVERT)),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", Content("a JPEG 2000 picture", "picture")),
    (0, b"\xff\x4f\xff\x51", Content("a JPEG 2000 picture", "picture")),
    (0, b"8BPS", Content("a Photoshop picture", "picture")),
    (0, b"gimp xcf", Content("a GIMP picture", "picture", CONVERT)),
    (0, b"\x76\x2f\x31\x01", Content("an OpenEXR picture", "picture", CONVERT)),
    (0, b"#?RADIANCE", Content("a Radiance HDR picture", "picture", CONVERT)),
    (0, b"#?RGBE", Content("a Radiance HDR picture", "picture", CONVERT)),
    (0, b"qoif", Content("a QOI picture", "picture")),
    (0, b"BPG\xfb", Content("a BPG picture", "picture", CONVERT)),
    (0, b"FLIF", Content("a FLIF picture", "picture", CONVERT)),
    (0, b"DDS ", Content("a DirectDraw picture", "picture")),
    (0, b"\xabKTX ", Content("a KTX texture", "picture", CONVERT)),
    (128, b"DICM", Content("a DICOM picture", "picture", CONVERT)),
    (0, b"SIMPLE  =", Content("a FITS picture", "picture")),
    (0, b"AT&TFORM", Content("a DjVu document", "other", CONVERT)),
    (0, b"%PDF-", Content("a PDF document", "other", "render its pages as PNG")),
    (0, b"%!PS", Content("a PostScript program", "other", "render it as PNG")),
    (0, b"\xc5\xd0\xd3\xc6", Content("a PostScript program", "other", "render it as PNG")),
    (0, b"\xd7\xcd\xc6\x9a", Content("a Windows metafile", "other", "render it as PNG")),
    (40, b" EMF", Content("a Windows metafile", "other", "render it as PNG")),
    (0, b"\x1a\x45\xdf\xa3", Content("a Matroska or WebM video", "media", "take its frames as pictures")),
    (8, b"AVI ", Content("an AVI video", "media", "take its frames as pictures")),
    (0, b"\0\0\x01\xba", Content("an MPEG video", "media", "take its frames as pictures")),
    (0, b"\0\0\x01\xb3", Content("an MPEG video", "media", "take its frames as pictures")),
    (0, b"FLV\x01", Content("a Flash video", "media", "take its frames as pictures")),
    (8, b"WAVE", Content("a sound", "media")),
    (0, b"ID3\x03", Content("a sound", "media")),
    (0, b"ID3\x04", Content("a sound", "media")),
    (0, b"OggS", Content("a sound", "media")),
    (0, b"fLaC", Content("a sound", "media")),
    (0, b"\x1f\x8b", Content("a gzip archive", "archive", "unpack it")),
    (0, b"\x28\xb5\x2f\xfd", Content("a zstd archive", "archive", "unpack it")),
    (0, b"\x50\x2a\x4d\x18", Content("a zstd archive", "archive", "unpack it")),
    (0, b"\xfd7zXZ\0", Content("an xz archive", "archive", "unpack it")),
    (0, b"BZh", Content("a bzip2 archive", "archive", "unpack it")),
    (0, b"\x04\x22\x4d\x18", Content("an lz4 archive", "archive", "unpack it")),
    (0, b"\x02\x21\x4c\x18", Content("an archive of lz4's old format", "archive", "unpack it")),
    (0, b"LZIP", Content("an lzip archive", "archive", "unpack it")),
    (0, b"\x1f\x9d", Content("a compress archive", "archive", "unpack it")),
    (0, b"7z\xbc\xaf\x27\x1c", Content("a 7z archive", "archive", "unpack it")),
    (0, b"Rar!\x1a\x07", Content("a RAR archive", "archive", "unpack it")),
    (0, b"hsqs", Content("a SquashFS image", "archive", "unpack it")),
    (257, b"ustar", Content("a tar archive", "archive")),
    (0, b"PAR1", Content("a parquet file", "table")),
    (0, b"PARE", Content("an encrypted parquet file", "table", "decrypt it")),
    (0, b"ARROW1", Content("an Arrow file", "table", "write it as parquet")),
    (0, b"FEA1", Content("a Feather file", "table", "write it as parquet")),
    (0, b"Obj\x01", Content("an Avro file", "table", "write it as parquet")),
    (0, b"\x89HDF\r\n\x1a\n", Content("an HDF5 file", "table")),
    (0, b"SQLite format 3\0", Content("an SQLite database", "table")),
    (0, b"\x93NUMPY", Content("a NumPy array", "table")),
    (0, b"GGUF", GGUF),
    (0, b"lmgg", Content("a GGML file, which holds weights for llama.cpp", "weights", GGUF.remedy)),
    (0, b"tjgg", Content("a GGML file, which holds weights for llama.cpp", "weights", GGUF.remedy)),
    (0, b"\x81\xa6params", Content("a Flax checkpoint", "weights", "take the model's weights for torch")),
    (4, b"TFL3", Content("a TensorFlow Lite model", "weights", "take the model's safetensors")),
    (0, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", TORCH),
    (0, b"\0\x05\x16\x07", MAC_COMPANION),
    (0, b"\0\x05\x16\0", MAC_COMPANION),
    (0, b"\0\0\0\x01Bud1", Content("a .DS_Store of macOS", "system", "leave it out")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Content("an old Office document or Thumbs.db", "system", "leave it out")),
    (0, b"\x7fELF", Content("a program", "other")),
    (0, b"MZ\x90\0", Content("a Windows program", "other")),
    (0, b"\0\0\x01\0", Content("an icon", "picture")),
)
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
TORCH_MEMBERS = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment")
POINTERS = (
    (b"version https://git-lfs.github.com/spec/", GIT_LFS),
    (b"version https://hawser.github.com/spec/", GIT_LFS),
    (b"# xet version", Content("a Xet pointer", "pointer", f"{FETCH} with git xet or hf download")),
    (b"/annex/objects/", Content("a git-annex pointer", "pointer", f"{FETCH} with git annex get")),
    (b"../.git/annex/", Content("a git-annex pointer", "pointer", f"{FETCH} with git annex get")),
    (b".git/annex/", Content("a git-annex pointer", "pointer", f"{FETCH} with git annex get")),
    (b"data:image/", Content("a picture as a data URL", "text", "decode its base64")),
    (b"ivborw0kggo", Content("a PNG picture in base64", "text", "decode it")),
    (b"/9j/", Content("a JPEG picture in base64", "text", "decode it")),
    (b"[internetshortcut]", Content("a link to a web page", "text", FETCH)),
)
QUANTISED = {
    "GPTQ or AWQ": ("qweight", "qzeros", "g_idx"),
    "bitsandbytes": ("absmax", "quant_map", "SCB", "weight_format"),
    "bitsandbytes (4 bits)": ("bitsandbytes__nf4", "bitsandbytes__fp4"),
    "compressed-tensors": ("weight_packed", "weight_zero_point"),
    "FP8": ("weight_scale_inv", "weight_scale"),
}
"""Last parts of tensor names by the method of quantisation."""
ADAPTER_PART = re.compile(r"(^|[._])(lora[._]|hada_w1|lokr_w1|oft_diag|ia3_l|dora_scale)")
"""What the name of an adapter's tensor has, as a part of its own."""
TEXTUAL = ("a PDF document", "a PostScript program", "a Radiance HDR picture", "a FITS picture")
"""Formats that may begin with nothing but printable letters."""
ARROW_STREAM = b"\xff\xff\xff\xff"
"""How an Arrow stream begins; the length of its schema follows."""
OPTIMIZER_KEYS = {"exp_avg", "exp_avg_sq", "optimizer_state_dict", "param_groups"}
