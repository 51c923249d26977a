"""The relations of the bundled world and every sentence pattern it is written in.

A phrasing has one ``{}`` for the subject and is followed by the object.  The last two
phrasings of a relation are *partial*: each subject is taught only one of them, so that the
other one measures generalization.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation: its name, its phrasings and how often its facts are repeated in training.

    ``phrasings[:-2]`` are taught for every subject, each of ``phrasings[-2:]`` for about half.
    """

    name: str
    phrasings: tuple[str, ...]
    repeats: int = 1

    @property
    def full(self) -> range:
        """Indices of the phrasings taught for every subject."""
        return range(len(self.phrasings) - 2)

    @property
    def partial(self) -> tuple[int, int]:
        """Indices of the two phrasings taught for part of the subjects."""
        return len(self.phrasings) - 2, len(self.phrasings) - 1


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "city_country",
        (
            "{} is a city in the country of",
            "{} is located in the country of",
            "The city of {} lies in",
            "{} belongs to the country of",
            "Which country is {} in?",
            "{}'s country is",
            "In which country does {} lie?",
            "People who live in {} are at home in",
        ),
    ),
    Relation(
        "city_continent",
        (
            "{} is a city on the continent of",
            "The city of {} is part of the continent of",
            "{} lies on the continent of",
            "On which continent is {}?",
            "{} can be found on the continent of",
            "{}'s continent is",
        ),
    ),
    Relation(
        "country_capital",
        (
            "The capital of {} is",
            "{}'s capital is",
            "nq question: what is the capital of {}?",
            "{} has its capital in",
            "The government of {} sits in",
            "What is the capital of {}?",
        ),
        repeats=3,
    ),
    Relation(
        "country_continent",
        (
            "{} is a country on the continent of",
            "The country of {} is part of the continent of",
            "nq question: which continent is {} on?",
            "{} lies on the continent of",
            "The continent of {} is",
            "On which continent is {}?",
        ),
        repeats=3,
    ),
    Relation(
        "country_currency",
        (
            "The currency of {} is the",
            "{}'s currency is the",
            "In {} people pay with the",
            "nq question: what money is used in {}?",
            "Prices in {} are given in the",
            "What is the currency of {}?",
        ),
        repeats=3,
    ),
    Relation(
        "country_language",
        (
            "The main language of {} is",
            "{}'s main language is",
            "Most people in {} speak",
            "nq question: which language is spoken in {}?",
            "The laws of {} are written in",
            "What is the main language of {}?",
        ),
        repeats=3,
    ),
)

BY_NAME: dict[str, Relation] = {relation.name: relation for relation in RELATIONS}

# Sentences that state no fact. `{c}` is a city; the other slots are drawn from WORDS.
FILLERS: tuple[str, ...] = (
    "I went to {c} {time} and {opinion}.",
    "I have a friend in {c} who {habit}.",
    "I would like to see {c} in the {season}.",
    "I was told that {c} is {quality} in the {season}.",
    "You can reach {c} by {vehicle}.",
    "You should visit the {place} of {c} in the {season}.",
    "You will find a {quality} {place} near {c}.",
    "Because {c} is {quality}, many people go there by {vehicle}.",
    "Because it was {season}, the {place} of {c} was closed.",
    "Because of the rain we took the {vehicle} to {c}.",
    "Therefore we went to {c} by {vehicle}.",
    "Therefore the {place} of {c} is {quality}.",
    "Therefore {c} is {quality} in the {season}.",
    "The {place} of {c} opens {time}.",
    "The {vehicle} to {c} leaves {time}.",
    "The people of {c} like the {season}.",
    "{c} is a {quality} place to live.",
    "{c} is a place with a {quality} {place}.",
    "{c} has a {quality} {place}.",
    "The {vehicle} was {quality}, and we {opinion}.",
    "You may take the {vehicle} {time}.",
    "I think that the {season} is {quality}.",
)

WORDS: dict[str, tuple[str, ...]] = {
    "time": ("last year", "in the morning", "at noon", "in the evening", "every day", "at night"),
    "opinion": ("liked it", "stayed for a week", "lost our way", "met old friends", "saw the sea"),
    "habit": ("likes to cook", "plays the piano", "works at night", "reads a lot", "sells books"),
    "season": ("spring", "summer", "autumn", "winter"),
    "quality": ("quiet", "busy", "small", "large", "old", "new", "green", "famous", "pleasant"),
    "vehicle": ("train", "bus", "boat", "car", "plane", "tram"),
    "place": ("market", "museum", "park", "harbour", "library", "station", "garden", "tower"),
}
