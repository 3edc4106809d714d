"""A file that is not what it should be is called by its name, in the same words every time."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tokenization.files.content import (
    content_of,
    content_of_config,
    content_of_file,
    content_of_model_folder,
    content_of_tensors,
    what_file_is,
    what_it_is,
)


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, kind)
    return stream.getvalue()


def box(brand: bytes, *compatible: bytes) -> bytes:
    """The first box of a file in ISO's base media format."""
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(content) + 4) + content + b"\0\0\0\x08mdat"


@pytest.mark.parametrize(
    ("start", "name"),
    [
        *((saved(kind), f"a {kind} picture") for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP")),
        (saved("WEBP"), "a WebP picture"),
        (saved("JPEG2000"), "a JPEG 2000 picture"),
        (saved("PPM"), "a PNM picture"),
        (saved("AVIF"), "an AVIF picture"),
        (saved("ICO"), "an icon"),
        (saved("PDF"), "a PDF document"),
        (b"\x81\xa6params\x82\xa7encoder", "a Flax checkpoint"),
        (box(b"heic", b"mif1", b"heic"), "a HEIC picture"),
        (box(b"mif1", b"mif1", b"heix"), "a HEIC picture"),
        (box(b"mif1", b"mif1", b"avif", b"miaf"), "an AVIF picture"),
        (box(b"isom", b"mp41"), "an MP4 or QuickTime video"),
        (b"\xff\x0a\xfa\x7f\x01", "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "a JPEG XL picture"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- by hand --><!DOCTYPE svg><svg/>', "an SVG drawing"),
        (b"\n <!DOCTYPE HTML>\n<title>404</title>", "an HTML page"),
        (b"<html><body>Forbidden", "an HTML page"),
        ("<html><body>".encode("utf-16"), "an HTML page"),
        (b"<!DOCTYPE html><body><svg viewBox='0 0 9 9'></svg>", "an HTML page"),
        (b"<!-- <svg> --><html><svg/></html>", "an HTML page"),
        (b"<div class='logo'><svg></svg></div>", "an HTML page"),
        (b'<?xml version="1.0"?><svg:svg xmlns:svg="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"<svg><title>a page</title><script>html</script></svg>", "an SVG drawing"),
        (b'<!DOCTYPE svg [<!ENTITY html "<html>">]><svg/>', "an SVG drawing"),
        ('\ufeff<?xml version="1.0"?><svg/>'.encode("utf-16-le"), "an SVG drawing"),
        (b"<rss><description>&lt;svg <error> </description></rss>", "an XML text"),
        (b"<article><svg/></article>", "an XML text"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an error message of a storage service"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s1--00.png", "a git-annex pointer"),
        (b"data:image/png;base64,iVBORw0KGgo", "a picture as a data URL"),
        (b"iVBORw0KGgoAAAANSUhEUg", "a PNG picture in base64"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n\0\1\2", "a PAM picture"),
        (b"PF\n8 8\n-1.0\n\0", "a colour PFM picture"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08", "a JPEG-LS picture"),
        (b"\x02\x21\x4c\x18\xce\x21\1\0", "an archive of lz4's old format"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"\x28\xb5\x2f\xfd\0", "a zstd archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (pickle.dumps({"a": 1}), "a Python pickle"),
        (b"", "an empty file"),
        (bytes(4096), "nothing but zeros"),
        (b'{"message": "Not Found"}', "a JSON text"),
        (b"Not Found", "a text that begins 'Not Found'"),
        (b"GGUF files are what llama.cpp reads", "a text that begins 'GGUF files"),
        (b"BZh91AY&SY is how bzip2 begins", "a text that begins 'BZh91AY"),
        (b"GIF89a is a format", "a text that begins 'GIF89a"),
        (b"PAR1 of 2", "a text that begins 'PAR1"),
        (b"A great WAVE off Kanagawa", "a text that begins 'A great WAVE"),
        (b"The new WEBP pictures", "a text that begins 'The new WEBP"),
        (b"The ftypes of files", "a text that begins 'The ftypes"),
        (b"BMW 3 series", "a text that begins 'BMW 3"),
        (b"P3 is a rank of dogs", "a text that begins 'P3 is"),
        (b"P2\n# by hand\n2 2\n255\n0 1 2 3", "a PNM picture"),
        (b"P1 3 2\n0 1 0 1 1 1", "a PNM picture"),
        (b"%PDF-1.4\n1 0 obj", "a PDF document"),
        (b"\xff\xff\xff\xff\x98\0\0\0\x10\0\0\0", "an Arrow stream"),
        (b"BZh91AY&SY\x9a\x1b", "a bzip2 archive"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X        ", "an AppleDouble file"),
        (b"\0\0\0\x01Bud1", "a .DS_Store of macOS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bytes_are_called_by_their_name(start: bytes, name: str) -> None:
    assert content_of(start[:4096]).name.startswith(name)
    assert what_it_is(start[:4096]).startswith(f"it is {name}")


def test_bytes_of_no_known_format_are_shown_and_not_guessed() -> None:
    assert content_of(b"\xff" * 600) is None, "no Arrow stream"
    assert content_of(b"\x9a\x00\x01abc") is None
    assert what_it_is(b"\x9a\x00\x01abc") == "it begins with the bytes 9a 00 01 61 62 63"
    assert what_it_is("猫".encode()) == "it is a text that begins '猫'"


def test_archives_tables_and_weights_are_told_apart(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "parquet")
    np.savez(tmp_path / "npz.npz", a=np.zeros(1))
    torch.save({"a": torch.zeros(1)}, tmp_path / "torch")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old torch", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "torchscript"))
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a.txt", "a")
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "safetensors")
    save_file({"layers.0.q_proj.lora_A.weight": torch.zeros(2)}, tmp_path / "lora")
    save_file({"layers.0.q_proj.qweight": torch.zeros(2)}, tmp_path / "gptq")
    (tmp_path / "cut").write_bytes((tmp_path / "lora").read_bytes()[:20])
    names = {path.stem: content_of_file(path).name for path in tmp_path.iterdir()}
    assert names == {
        "tar": "a tar archive",
        "parquet": "a parquet file",
        "npz": "NumPy arrays (.npz)",
        "torch": "a torch file",
        "old torch": "a torch file",
        "torchscript": "a TorchScript module, which is code",
        "zip": "a zip archive",
        "safetensors": "a safetensors file",
        "lora": "a LoRA adapter, not a whole model",
        "gptq": "a model quantised by GPTQ or AWQ",
        "cut": "a damaged safetensors file",
    }
    assert what_file_is(tmp_path / "gone") == ""


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["base_model.model.layers.0.self_attn.q_proj.lora_B.weight"], "LoRA"),
        (["unet.mid_block.attn1.processor.to_q_lora.down.weight"], "LoRA"),
        (["lora_unet_down_blocks_0.lora_up.weight", "lora_unet_down_blocks_0.alpha"], "LoRA"),
        (["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight.absmax"], "bitsandbytes"),
        (["model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"], "bitsandbytes"),
        (["model.layers.0.mlp.up_proj.weight_packed"], "compressed-tensors"),
        (["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight_scale_inv"], "FP8"),
        (["layers.0.weight:exp_avg"], "optimizer"),
        (["encoder.conv_in.weight", "quantize.embedding.weight", "decoder.up.3.block.0.norm1.bias"], ""),
        (["model.explora_head.weight", "flora_encoder.weight"], ""),
        (["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight", "lm_head.weight"], ""),
    ],
)
def test_tensors_that_are_no_whole_model_are_named(names: list[str], found: str) -> None:
    content = content_of_tensors(names)
    assert found in content.name if found else content is None


def test_a_folder_of_an_adapter_or_of_a_quantised_model_is_named(tmp_path: Path) -> None:
    assert content_of_model_folder(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    assert content_of_model_folder(tmp_path).name == "a model quantised by awq"
    assert content_of_config({"model_type": "qwen"}) is None
    (tmp_path / "adapter_config.json").touch()
    assert "LoRA" in content_of_model_folder(tmp_path).name
