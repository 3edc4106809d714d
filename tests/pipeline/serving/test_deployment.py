"""A job that is done again on another replica tells its client nothing twice and leaves nothing out."""

from pipeline.serving.deployment import _Told
from pipeline.serving.jobs import Codes, Ended, Event, PictureMade, Text


def told(*tries: list[Event]) -> list[Event]:
    kept, found = _Told(), list[Event]()
    for events in tries:
        kept.again()
        found += [new for event in events for new in kept.new_of(event)]
    return found


def test_codes_go_on_where_they_were() -> None:
    found = told([Codes(0, [1, 2, 3]), Codes(3, [4])], [Codes(0, [1, 2]), Codes(2, [3, 4, 5]), Codes(5, [6]), Ended(6)])
    codes = [event for event in found if isinstance(event, Codes)]
    assert [code for event in codes for code in event.codes] == [1, 2, 3, 4, 5, 6]
    assert [event.start for event in codes] == [0, 3, 4, 5] and found[-1] == Ended(6)


def test_text_and_pictures_of_a_document_come_once() -> None:
    picture = PictureMade(b"png", [1])
    found = told([Text("a "), picture, Text("gre")], [Text("a"), Text(" "), picture, Text("green "), picture, Ended(3)])
    assert "".join(event.text for event in found if isinstance(event, Text)) == "a green "
    assert found.count(picture) == 2 and found[-1] == Ended(3)
