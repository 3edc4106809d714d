"""A metadata.csv that is damaged costs rows, and never joins their captions."""

from pathlib import Path

from tokenization.corpora.metadata_tables import csv_rows


def test_a_quote_that_is_never_closed_is_a_message_and_no_caption_of_several_rows(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text('file_name,text\n0.png,zero\n1.png,"an open quote\n2.png,two\n3.png,three\n')
    found = [row for _, row in csv_rows(path)]
    assert found[0] == {"file_name": "0.png", "text": "zero"}
    assert len(found) == 2 and isinstance(found[1], str) and "unexpected end" in found[1], found
