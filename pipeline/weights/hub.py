"""A model by the name of a local folder, or by its name on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from pipeline.errors import InputError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
BESIDE_WEIGHTS = ("*.json", "*.tiktoken", "*.txt", "*.md", "LICENSE*", "NOTICE*")
"""Patterns of the files that are fetched with the weights. Code is never fetched."""


def model_folder(source: str) -> Path:
    """Returns the folder `source`, or the local folder of the hub's model of that name, which is fetched if missing.

    Fetches safetensors if the model has them, else the `.bin` files.

    Raises:
        InputError: there is no such folder, and no such model or no network.
    """
    path = Path(source).expanduser()
    if path.is_dir() or path.is_file():  # a file of weights stands for its folder
        return path.absolute()
    if not HUB_NAME.fullmatch(source):
        raise InputError(f"{source!r} is no folder; name one, or a model on the hub as in Qwen/Qwen-7B")
    for kind in ("*.safetensors", "*.bin"):
        try:
            fetched = Path(snapshot_download(source, allow_patterns=[*BESIDE_WEIGHTS, kind]))
        except (HfHubHTTPError, HFValidationError) as error:
            line = " ".join(str(error).split())[:200]
            raise InputError(f"the hub does not give {source!r}: {line}; check the name and HF_TOKEN") from error
        except OSError as error:  # no network, or offline mode, and no earlier copy
            raise InputError(
                f"{source!r} is no folder here, and the hub cannot be reached to fetch a model of that name; fetch it "
                f"where there is a network (hf download {source} --local-dir FOLDER) and name the folder"
            ) from error
        if any(fetched.glob(kind)):
            break
    return fetched
