"""`/v1/images/generations`: reads a request, and writes its answer, whole or as server-sent events."""

import base64
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.serving import ServingLimits
from pipeline.generation.sampling import MAX_SEED
from pipeline.serving.api_errors import wrong
from pipeline.serving.jobs import Codes, Event, PictureJob, PictureMade
from pipeline.serving.parameters import Parameters, check_model, read_sampling, read_seed
from pipeline.serving.prompts import Tokenizer
from pipeline.serving.served_model import ServedModel

MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
MAX_PARTIAL = 3


@dataclass(frozen=True)
class ImagesRequest:
    """A request for pictures.

    Attributes:
        jobs: one for each picture, with consecutive seeds.
        size_px: side of the pictures.
        as_url: answer with `data:` URLs.
        streams: answer with events.
        with_codes: add the pictures' codes.
        num_prompt_ids: text ids of the prompt.
    """

    jobs: list[PictureJob]
    size_px: int
    as_url: bool
    streams: bool
    with_codes: bool
    num_prompt_ids: int

    @property
    def format(self) -> str:
        return self.jobs[0].format


def read_images_request(
    values: dict[str, Any], served: ServedModel, limits: ServingLimits, tokenizer: Tokenizer
) -> ImagesRequest:
    """Reads and checks a request's JSON.

    Raises:
        ApiError: it is refused.
    """
    parameters = Parameters(values)
    check_model(parameters, served)
    prompt = tokenizer.ids_of(parameters.get("prompt"), "prompt", served.max_prompt_ids)
    count = parameters.whole("n", 1, 1, min(limits.max_pictures, limits.max_outstanding))
    high = _read_high(parameters, served)
    streams = parameters.flag("stream", False)
    tells = parameters.flag("stream_codes", False)
    num_partial = parameters.whole("partial_images", 0, 0, MAX_PARTIAL)
    if (tells or num_partial) and not streams:
        raise wrong("stream", "stream_codes and partial_images are for answers with stream true; add it")
    sampling, seed = read_sampling(parameters, served), read_seed(parameters)
    as_url = parameters.text("response_format", "b64_json", ("b64_json", "url")) == "url"
    file_format = parameters.text("output_format", "png", ("png", "jpeg", "webp")).upper()
    with_codes = parameters.flag("return_codes", False)
    parameters.check_all_read()
    jobs = [
        PictureJob(prompt, (seed + number) & MAX_SEED, sampling, high, file_format, num_partial, tells)
        for number in range(count)
    ]
    size_px = served.size_hr_px if high else served.size_px
    return ImagesRequest(jobs, size_px, as_url, streams, with_codes, len(prompt))


def _read_high(parameters: Parameters, served: ServedModel) -> bool:
    """True if the high resolution is wanted: by `size`, by `high_resolution`, or because the model has it."""
    sizes = {f"{served.size_px}x{served.size_px}": False}
    if served.high:
        sizes[f"{served.size_hr_px}x{served.size_hr_px}"] = True
    size = parameters.text("size", "auto")
    if size != "auto" and size not in sizes:
        raise wrong("size", f"size is {size!r}, and this model draws {' and '.join(sizes)}")
    asked = parameters.get("high_resolution")
    wanted = parameters.flag("high_resolution", served.high is not None)
    if wanted and served.high is None:
        raise wrong(
            "high_resolution", f"this model was not trained for a high resolution; it draws {next(iter(sizes))}"
        )
    if size == "auto":
        return wanted
    if asked is not None and sizes[size] != wanted:
        raise wrong(
            "size", f"size {size!r} and high_resolution {str(wanted).lower()} contradict each other; leave one out"
        )
    return sizes[size]


def image_of(request: ImagesRequest, job: PictureJob, made: PictureMade) -> dict[str, Any]:
    """A finished picture in the answer."""
    content = base64.b64encode(made.content).decode()
    image: dict[str, Any] = {"seed": job.seed}
    image |= {"url": f"data:{MIME[job.format]};base64,{content}"} if request.as_url else {"b64_json": content}
    if request.with_codes:
        image |= {"codes": made.codes, "high_codes": made.high_codes}
    return image


def images_answer(request: ImagesRequest, made: list[PictureMade], created: int) -> dict[str, Any]:
    """The whole answer."""
    images = [image_of(request, job, each) for job, each in zip(request.jobs, made, strict=True)]
    return _common(request, created) | {"data": images, "usage": _usage(request, made)}


def image_event(request: ImagesRequest, number: int, event: Event, created: int) -> dict[str, Any] | None:
    """One event of a streamed answer, or None if it is not sent."""
    job = request.jobs[number]
    if isinstance(event, Codes):
        return {"type": "image_generation.codes", "index": number, "seed": job.seed} | asdict(event)
    if not isinstance(event, PictureMade):
        return None
    content = {"b64_json": base64.b64encode(event.content).decode(), "index": number, "seed": job.seed}
    if event.partial is not None:
        kind = {"type": "image_generation.partial_image", "partial_image_index": event.partial}
        return kind | _common(request, created, "created_at") | content
    if request.with_codes:
        content |= {"codes": event.codes, "high_codes": event.high_codes}
    kind = {"type": "image_generation.completed", "usage": _usage(request, [event])}
    return kind | _common(request, created, "created_at") | content


def _common(request: ImagesRequest, created: int, name: str = "created") -> dict[str, Any]:
    size = f"{request.size_px}x{request.size_px}"
    return {
        name: created,
        "background": "opaque",
        "output_format": request.format.lower(),
        "size": size,
        "quality": "auto",
    }


def _usage(request: ImagesRequest, made: list[PictureMade]) -> dict[str, Any]:
    output = sum(len(each.codes) + len(each.high_codes or []) for each in made)
    of_input = {"text_tokens": request.num_prompt_ids, "image_tokens": 0}
    total = request.num_prompt_ids + output
    return {
        "input_tokens": request.num_prompt_ids,
        "input_tokens_details": of_input,
        "output_tokens": output,
        "total_tokens": total,
    }
