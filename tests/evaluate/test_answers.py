"""MKQA's question whether an answer stands in a passage: the published normalisation."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.evaluate.answers import Answers, joined_tokens, plain, tokens


def occurs(answer: str, passage: str) -> bool:
    return Answers([answer]).in_tokens(joined_tokens(passage))


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("Dave Edmunds", "written by DAVE  EDMUNDS, in 1970"),
        ("café", "the Cafe\u0301 of Paris"),  # composed or not
        ("1.5", "about 1.5 km"),
        ("U.S.", "in the u.s. army"),
        ("rock 'n' roll", "Rock ‘n’ Roll music"),  # the passage's quotes are made plain
        ("1914-1918", "the war (1914–1918)"),
        ("東京", "首都は 東京 です"),
    ],
)
def test_an_answer_occurs(answer: str, passage: str) -> None:
    assert occurs(answer, passage)


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("Edmund", "Dave Edmunds"),  # whole tokens
        ("Edmunds Dave", "Dave Edmunds"),
        ("Dave Edmunds", "Dave X Edmunds"),
        ("東京", "東京都"),  # a run of letters is one token
        ("cafe", "café"),  # marks count
        ("1914–1918", "the war (1914–1918)"),  # an answer's dash stays as it is
        ("", "anything"),
        (" \t", "anything"),
    ],
)
def test_an_answer_does_not_occur(answer: str, passage: str) -> None:
    assert not occurs(answer, passage)


def test_any_of_the_answers_will_do() -> None:
    some = Answers(["nowhere", "", "Paris"])
    assert some.in_tokens(joined_tokens("in paris"))
    assert not some.in_tokens(joined_tokens("in london"))
    assert not Answers([]).in_tokens(joined_tokens("in london"))


@given(st.text(max_size=40))
def test_tokens_are_runs_of_letters_digits_and_marks_or_single(text: str) -> None:
    """By definition, character by character."""
    expected: list[str] = []
    open_run = False
    for character in unicodedata.normalize("NFD", text):
        major = unicodedata.category(character)[0]
        if major in "LNM":
            expected += [] if open_run else [""]
            expected[-1] += character
        elif major not in "ZC":
            expected.append(character)
        open_run = major in "LNM"
    assert tokens(text) == [token.lower() for token in expected]


@given(st.lists(st.sampled_from(["a", "b", "c", ".", "É"]), max_size=12), st.data())
def test_an_answer_occurs_where_its_tokens_stand_in_a_row(
    passage: list[str], data: st.DataObject
) -> None:
    answer = data.draw(st.lists(st.sampled_from(["a", "b", ".", "É"]), min_size=1, max_size=3))
    rows = [passage[i : i + len(answer)] for i in range(len(passage))]
    assert occurs(" ".join(answer), " ".join(passage)) == (answer in rows)


def test_a_passage_is_made_plain() -> None:
    assert plain("“It’s” — 3⁄4…\u00ad\x0b`X´ ″") == "\"it's\" - 3/4... 'x' ''"
    assert plain('plain text - it\'s "so"') == 'plain text - it\'s "so"'
