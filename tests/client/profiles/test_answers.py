"""What a person reads of a profile says no more than the profile knows."""

from __future__ import annotations

from dataclasses import replace

from tests.profiles import profile

from silhouette_client.profiles.answers import called, guesses, history, lines, reasons, scores
from silhouette_client.profiles.page import page
from silhouette_client.profiles.record import ProfileRecord, Recommended, Trait


def test_a_guess_that_is_hardly_better_than_chance_is_called_unclear() -> None:
    made = replace(profile(), traits={"gender": Trait("F", 0.503), "churn": Trait("no", 0.96)})
    gender, churn = guesses(made)
    assert gender.answer == "unclear; F is likeliest (50%)"
    assert churn.answer == "no (96%)"
    assert "guess    churn: no (96%); no event at all in the time that follows" in lines(made)
    assert "unclear; F is likeliest (50%)" in page("anna", made)


def test_a_dimension_that_the_record_could_not_fill_is_left_out() -> None:
    made = replace(profile(), weights={"purchases": 0.4, "browsing": 0.0, "rhythm": 0.6})
    assert [one["dimension"] for one in reasons(made)] == ["rhythm", "purchases"]
    assert "browsing" not in page("anna", made)


def test_the_record_is_told_in_counts_and_days_and_its_traits_with_their_definitions() -> None:
    facts = {"events": 7.0, "count.purchase": 2.0, "count.view": 5.0, "first_event": 0.0, "last_event": 86_400.0}
    made = replace(profile(), facts={**facts, "trait.breadth": 0.5})
    assert history(made) == "7 events: 5 view, 2 purchase; 1970-01-01 to 1970-01-02"
    assert [(one.name, one.value) for one in scores(made)] == [("breadth", 0.5)]
    assert any(line.startswith("trait      0.50 breadth          entropy of the categories") for line in lines(made))
    assert "7 events: 5 view, 2 purchase" in page("anna", made)


def test_an_item_without_a_title_is_called_by_its_id_once() -> None:
    assert called(Recommended("17", "", 1.0)) == called(Recommended("17", "17", 1.0)) == "17"
    assert called(Recommended("17", "Seventeen", 1.0)) == "Seventeen [17]"


def test_a_page_of_nothing_but_a_model_says_what_is_not_there() -> None:
    text = page("<b>anna</b>", ProfileRecord(model="model-1"))
    assert "No record of events" in text
    assert "None: they are not kept, or the person has seen all that there is" in text
    assert "<b>anna" not in text
