"""`/v1/chat/completions`: a picture gets a caption, a text is continued as an illustrated document."""

import base64
import binascii
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.config.serving import ServingLimits
from pipeline.generation.sampling import GREEDY
from pipeline.serving.api_errors import ApiError, wrong
from pipeline.serving.jobs import CaptionJob, Codes, DocumentJob, Ended, Event, PictureMade, Text
from pipeline.serving.parameters import Parameters, check_model, read_sampling, read_seed
from pipeline.serving.prompts import Tokenizer
from pipeline.serving.served_model import ServedModel

CHINESE = re.compile(r"[\u3400-\u9fff]")
LANGUAGES = ("en", "zh")
STREAM_OPTIONS = ("include_usage", "include_obfuscation")
"""Of OpenAI's interface; chunks of this server have no padding that could be left out."""
DATA_URL = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*;base64", re.IGNORECASE)
MAX_DATA_URL_HEAD = 200
"""Letters of a data URL before its comma that are looked at; no kind of picture has a longer name."""


@dataclass(frozen=True)
class ChatRequest:
    """A request for a caption or a document.

    Attributes:
        job: what a replica is asked.
        streams: answer with events.
        with_usage: end a streamed answer with a chunk that has the usage.
        num_prompt_ids: text ids of the prompt.
    """

    job: CaptionJob | DocumentJob
    streams: bool
    with_usage: bool
    num_prompt_ids: int


def read_chat_request(
    values: dict[str, Any], served: ServedModel, limits: ServingLimits, tokenizer: Tokenizer
) -> ChatRequest:
    """Reads and checks a request's JSON.

    The last message is answered; earlier ones have no effect, since the model was not trained on conversations.

    Raises:
        ApiError: it is refused.
    """
    parameters = Parameters(values)
    check_model(parameters, served)
    text, pictures = _read_messages(parameters.get("messages"))
    parameters.whole("n", 1, 1, 1)
    streams, tells = parameters.flag("stream", False), parameters.flag("stream_codes", False)
    if tells and not streams:
        raise wrong("stream", "stream_codes is for answers with stream true; add it")
    with_usage = _read_with_usage(parameters, streams)
    max_ids = _read_max_ids(parameters)
    if len(pictures) > 1:
        raise wrong("messages", f"the last message has {len(pictures)} pictures; send one in a request")
    job: CaptionJob | DocumentJob
    num_prompt_ids = 0
    if pictures:
        language = parameters.text("language", "zh" if CHINESE.search(text) else "en", LANGUAGES)
        sampling = read_sampling(parameters, served, GREEDY)
        sampling = replace(sampling, guidance_scale=1.0)
        most = served.max_caption_ids
        job = CaptionJob(pictures[0], language, min(max_ids or most, most), read_seed(parameters), sampling, tells)
    else:
        most_pictures, most_ids = limits.max_document_pictures, limits.max_document_text_ids
        num_pictures = parameters.whole("max_pictures", most_pictures, 0, most_pictures)
        room = served.max_positions - most_ids - most_pictures * (served.num_codes + 2)
        if room < 1:
            raise ApiError(
                400,
                "this model has too few positions for documents of this server's limits; lower its "
                "--max-document-text-ids or --max-document-pictures",
                "messages",
                "unsupported",
            )
        prompt = tokenizer.ids_of(text, "messages", min(limits.max_document_prompt_ids, room))
        num_prompt_ids = len(prompt)
        sampling, seed = read_sampling(parameters, served), read_seed(parameters)
        job = DocumentJob(prompt, num_pictures, min(max_ids or most_ids, most_ids), seed, sampling, tells)
    parameters.check_all_read()
    return ChatRequest(job, streams, with_usage, num_prompt_ids)


def _read_max_ids(parameters: Parameters) -> int:
    """The limit of generated text ids; 0 if there is none."""
    limits = [parameters.whole(name, 0, 1, 1_000_000) for name in ("max_tokens", "max_completion_tokens")]
    return limits[1] or limits[0]


def _read_with_usage(parameters: Parameters, streams: bool) -> bool:
    options = parameters.get("stream_options")
    if options is None:
        return False
    if not streams:
        raise wrong("stream", "stream_options is for answers with stream true; add it")
    if not isinstance(options, dict) or not all(isinstance(value, bool) for value in options.values()):
        raise wrong("stream_options", "stream_options must be an object of true and false", "invalid_type")
    if unknown := sorted(set(options) - set(STREAM_OPTIONS)):
        raise wrong("stream_options", f"there is no stream option {unknown[0]!r} here; leave it out")
    return bool(options.get("include_usage", False))


def _read_messages(messages: Any) -> tuple[str, list[bytes]]:
    """The text and the pictures of the last message."""
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "messages must be a list with at least one message", "missing_required_parameter")
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        raise wrong("messages", "the last of the messages must have the role 'user'")
    content = last.get("content")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise wrong("messages", "the content of a message must be a text or a list of parts", "invalid_type")
    texts, pictures = list[str](), list[bytes]()
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            pictures.append(_picture_of(part.get("image_url")))
        else:
            raise wrong("messages", f"a part of the message has the type {kind!r}; give text or image_url parts")
    return "\n".join(texts), pictures


def _picture_of(image_url: Any) -> bytes:
    url = image_url.get("url") if isinstance(image_url, dict) else image_url
    if not isinstance(url, str):
        raise wrong("messages", "an image_url part must have a url", "invalid_type")
    head, _, content = url.partition(",")
    if len(head) > MAX_DATA_URL_HEAD or not DATA_URL.fullmatch(head) or len(head) == len(url):
        raise wrong("messages", "image_url must be a data URL (data:image/png;base64,...): the server fetches nothing")
    try:
        return base64.b64decode(content.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong("messages", f"image_url is no base64: {error}") from error


def text_of(event: Event, number: int) -> str:
    """What an event adds to the text of an answer; pictures are in Markdown, with their number in the document."""
    if isinstance(event, Text):
        return event.text
    if isinstance(event, PictureMade):
        content = base64.b64encode(event.content).decode()
        return f"![picture {number}](data:image/png;base64,{content})"
    return ""


def chat_answer(
    request: ChatRequest, served: ServedModel, events: list[Event], answer_id: str, created: int
) -> dict[str, Any]:
    """The whole answer."""
    content, number = "", 0
    for event in events:
        number += isinstance(event, PictureMade)
        content += text_of(event, number)
    ended = events[-1]
    assert isinstance(ended, Ended)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None},
        "finish_reason": ended.reason,
        "logprobs": None,
    }
    common = {"id": answer_id, "object": "chat.completion", "created": created, "model": served.name}
    return common | {"choices": [choice], "usage": _usage(request, ended), "seed": request.job.seed}


def _usage(request: ChatRequest, ended: Ended) -> dict[str, int]:
    return {
        "prompt_tokens": request.num_prompt_ids,
        "completion_tokens": ended.num_ids,
        "total_tokens": request.num_prompt_ids + ended.num_ids,
    }


def chat_chunks(
    request: ChatRequest, served: ServedModel, event: Event, number: int, answer_id: str, created: int
) -> list[dict[str, Any]]:
    """The chunks of a streamed answer that an event brings: none, one, or at the end two. `number` is the picture's."""
    delta: dict[str, Any] = {}
    reason = event.reason if isinstance(event, Ended) else None
    if content := text_of(event, number):
        delta = {"content": content}
    elif isinstance(event, Codes) and request.job.tells:
        delta = {"mars_codes": asdict(event)}
    elif reason is None:
        return []
    common = {"id": answer_id, "object": "chat.completion.chunk", "created": created, "model": served.name}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunks = [common | {"choices": [choice], "seed": request.job.seed}]
    if request.with_usage and isinstance(event, Ended):
        chunks.append(common | {"choices": [], "usage": _usage(request, event)})
    return chunks
