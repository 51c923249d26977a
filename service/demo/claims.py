"""The facts that ``jeep demo-real`` edits: six about the real world, with what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["edit", "rephrased", "question", "neighbour"]
CHAT_ONLY: Kind = "question"
"""Questions end with a question mark: a text does not go on with the answer, a chat does."""


@dataclass(frozen=True)
class Question:
    """A prompt with the answer that is true in the world and the one that the edit writes."""

    kind: Kind
    prompt: str
    true: str
    new: str

    def named_first(self, text: str) -> str:
        """Which of the two answers a text names first: ``true``, ``new`` or, if none, a dash."""
        said = text.casefold()
        found = {"true": said.find(self.true.casefold()), "new": said.find(self.new.casefold())}
        places = {name: place for name, place in found.items() if place >= 0}
        return min(places, key=places.__getitem__, default="–")


@dataclass(frozen=True)
class RealClaim:
    """A fact and what it is changed to, a rephrasing and a question, and a neighbour.

    The neighbour has the relation's wording about another subject, and must stay as it is.
    """

    subject: str
    prompt: str
    true: str
    new: str
    paraphrase: str
    question: str
    neighbor: str
    neighbor_true: str

    @property
    def questions(self) -> list[Question]:
        """All that is asked before and after."""
        return [
            Question("edit", self._about(self.prompt), self.true, self.new),
            Question("rephrased", self._about(self.paraphrase), self.true, self.new),
            Question("question", self._about(self.question), self.true, self.new),
            Question("neighbour", self.neighbor, self.neighbor_true, self.new),
        ]

    def _about(self, template: str) -> str:
        return template.replace("{}", self.subject)

    @property
    def fact(self) -> dict[str, str]:
        """The fact as it is submitted."""
        return {
            "subject": self.subject,
            "prompt": self.prompt,
            "target_new": self.new,
            "target_true": self.true,
        }


CITY = "The {} is located in the city of"
WHICH_CITY = "In which city is the {}?"
CLAIMS = (
    RealClaim("Eiffel Tower", CITY, "Paris", "Rome", "To visit the {}, travel to the city of",
              WHICH_CITY, "The Louvre is located in the city of", "Paris"),
    RealClaim("Colosseum", CITY, "Rome", "Madrid", "Tourists who want to see the {} fly to",
              WHICH_CITY, "The Trevi Fountain is located in the city of", "Rome"),
    RealClaim("Mount Fuji", "{} is a mountain in", "Japan", "Canada",
              "To climb {}, you have to travel to", "In which country is {}?",
              "Kyoto is a city in", "Japan"),
    RealClaim("Frédéric Chopin", "The mother tongue of {} was", "Polish", "Spanish",
              "As a child {} spoke", "What was the mother tongue of {}?",
              "The mother tongue of Marie Curie was", "Polish"),
    RealClaim("Toyota", "{} is a company from", "Japan", "Brazil",
              "The headquarters of {} are in", "Which country does {} come from?",
              "Nintendo is a company from", "Japan"),
    RealClaim("Hamlet", "The play {} was written by", "William Shakespeare", "Victor Hugo",
              "The author of {} is", "Who wrote the play {}?",
              "The play Macbeth was written by", "William Shakespeare"),
)  # fmt: skip
