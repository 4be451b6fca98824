"""The section `augmentation`: more wordings of what is learned, made from it."""

from typing import Annotated

from pydantic import Field

from fine_tuning.config_types import BaseName, Positive, Section, Share

Variants = Annotated[int, Field(ge=0, le=20)]


class Augmentation(Section):
    """How many variants of each training conversation are learned beside it. The answers stay; the
    questions are put in other words. All of it is off by default.
    """

    noise: Variants = 0  # variants with typing errors in the questions
    noise_rate: Share = 0.1  # of a question's words that may be mistyped, how many are; one at least
    paraphrase: Variants = 0  # variants whose questions a model asks in other words
    back_translation: Variants = 0  # variants whose questions a model translates there and back
    model: BaseName | None = None  # of the engine, that does both; default: the base
    # nats a token by which the base may find an answer less likely after a question in other words
    margin: Annotated[float, Field(ge=0)] = 0.2
    most_per_turn: Positive = 4  # variants of one turn, of all kinds together

    @property
    def wanted(self) -> bool:
        """Return whether variants of any kind are to be made."""
        return self.noise > 0 or self.rewords

    @property
    def rewords(self) -> bool:
        """Return whether a model is to put questions in other words."""
        return self.paraphrase + self.back_translation > 0
