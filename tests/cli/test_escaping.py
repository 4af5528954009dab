import json

from hypothesis import given
from hypothesis import strategies as st

from interlock.cli.escaping import json_line, one_line, printable

TEXT = st.text(st.characters(), max_size=60)


@given(TEXT)
def test_no_control_or_formatting_character_is_left(text: str) -> None:
    assert all(each.isprintable() or each in "\n\t" for each in printable(text))
    assert one_line(text).isprintable()


@given(
    st.text(
        st.characters(
            categories=["L", "N", "P", "S", "Zs"], exclude_characters="\u115f\u1160\u2800\u3164\uffa0"
        )
    ).filter(str.isprintable)
)
def test_what_can_be_seen_stays_as_it_is(text: str) -> None:
    assert printable(text) == one_line(text) == text


def test_characters_that_show_as_nothing_are_shown() -> None:
    arguments = '{"amount":1,"amount\u3164":9000,"to\ufe0f":"x\U000e0101"}'
    assert one_line(arguments) == '{"amount":1,"amount\\u3164":9000,"to\\ufe0f":"x\\U000e0101"}'
    assert json_line("a\u034f\u2800") == '"a\\u034f\\u2800"'


@given(st.recursive(TEXT | st.integers() | st.none(), lambda inner: st.dictionaries(TEXT, inner)))
def test_json_stays_the_same_value_on_one_printable_line(value: object) -> None:
    line = json_line(value)
    assert line.isprintable()
    assert json.loads(line) == value


def test_escapes_tell_which_character_it_was() -> None:
    assert one_line("\x1b[31m\u202e\n\U000e0041\ud800") == "\\x1b[31m\\u202e\\n\\U000e0041\\ud800"
