"""Define the section `augmentation` of the configuration: reworded variants of the training data."""

from typing import Annotated

from pydantic import Field

from fine_tuning.config.types import BaseName, Positive, Section, Share

Variants = Annotated[int, Field(ge=0, le=20)]


class Augmentation(Section):
    """How many variants of each training conversation are added to the training data.

    In a variant the questions are reworded, and the answers stay the same. By default there are no
    variants.
    """

    noise: Variants = 0  # variants with typing errors in the questions
    noise_rate: Share = 0.1  # share of a question's eligible words that is mistyped; at least one word
    paraphrase: Variants = 0  # variants whose questions a model has paraphrased
    back_translation: Variants = 0  # variants whose questions a model has translated and translated back
    model: BaseName | None = None  # the engine's model that rewords questions; default: the base
    # A reworded question is discarded if the answer's log-likelihood under the base is lower after it than after the
    # original question, by more than this (nats per token).
    margin: Annotated[float, Field(ge=0)] = 0.2
    most_per_turn: Positive = 4  # limit for the variants of one turn, all kinds together

    @property
    def wanted(self) -> bool:
        """Return whether any variants are to be made."""
        return self.noise > 0 or self.rewords

    @property
    def rewords(self) -> bool:
        """Return whether a model is to reword questions."""
        return self.paraphrase + self.back_translation > 0
