"""Where a trained model opens a picture by itself: in text, where it should not, and in documents, where it should."""

import torch

from pipeline.config.vocabulary import Role, State
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.sequences import SequenceBuilder
from pipeline.data.token_reader import TokenReader
from pipeline.generation.documents import opener_share
from pipeline.model.mars import MarsForCausalLM
from pipeline.runs.paths import RunPaths
from tokenization.text_tokenizer import load_text_tokenizer

RUNNING_TEXT = {
    "en": (
        "The weather was mild this morning, and we walked along the river to the old mill.",
        "Researchers measured the temperature every hour and wrote it down in a table.",
        "She bought two apples, a loaf of bread and some cheese at the market.",
        "After the meeting, everyone agreed to send their comments before Friday.",
        "The red car in front of the house belongs to my neighbour, who is a doctor.",
        "A cat sat on the roof and looked at the moon while the dog slept.",
        "Note: the train to the airport leaves from the second platform today.",
        "He smiled, put on his hat, and said that the sun would be back before noon.",
    ),
    "zh": (
        "今天早上天气很好，我们沿着河边走到老磨坊。",
        "研究人员每小时测量一次温度，并把结果写在表格里。",
        "她在市场上买了两个苹果、一个面包和一些奶酪。",
        "会议结束后，大家同意在星期五之前提交意见。",
        "房子前面的红色汽车是我邻居的，他是一名医生。",
        "一只猫坐在屋顶上看月亮，而狗在睡觉。",
        "注意：今天去机场的火车从第二站台出发。",
        "他笑了笑，戴上帽子，说太阳中午之前就会回来。",
    ),
}
"""Sentences that belong to no corpus, by language."""


def score_openers(model: MarsForCausalLM, paths: RunPaths) -> dict[str, float]:
    """Measures openers in running text of each language, and in the documents that the recipe evaluates, if any.

    `openers_in_running_text_LANGUAGE` is the share of positions at which an opener is the most likely id.
    `openers_where_they_belong` is that share before the documents' pictures, given the true ids before.
    """
    recipe = paths.recipe
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    scores = {
        f"openers_in_running_text_{language}": opener_share(model, [tokenizer.encode(text) for text in texts]).greedy
        for language, texts in RUNNING_TEXT.items()
    }
    if recipe.evaluation.documents:
        documents = _document_ids(model, paths.tokens_of(recipe.evaluation.documents))
        scores["openers_where_they_belong"] = opener_recall(model, documents)
    return scores


def _document_ids(model: MarsForCausalLM, tokens: str) -> list[list[int]]:
    """The joint ids of the interleaved documents of some token shards."""
    index = build_row_index(RowSelection(tokens))
    reader, builder = TokenReader(tokens, index, held_shards=1), SequenceBuilder(model.config.vocabulary, {}, end_id=0)
    rows = (reader.row(shard, row) for shard, count in enumerate(index.counts) for row in range(count))
    return [builder.interleaved(row.document).ids.tolist() for row in rows if row.document]


@torch.no_grad()
def opener_recall(model: MarsForCausalLM, documents: list[list[int]]) -> float:
    """The share of the base pictures in some documents of joint ids whose opener is the most likely id before them."""
    vocabulary, device = model.config.vocabulary, model.head.visual_weight.device
    opener, found, pictures = vocabulary.opener(Role.BASE), 0, 0
    place = int(vocabulary.allowed(State.TEXT).places(torch.tensor(opener)))
    for document in documents:
        ids = torch.tensor(document, device=device)
        hidden = model.model(ids[None]).last_hidden_state[0]
        before = hidden[:-1][ids[1:] == opener]
        found += int((model.head(before, State.TEXT).argmax(-1) == place).sum())
        pictures += len(before)
    if not pictures:
        raise ValueError("there is no picture in the documents")
    return found / pictures
