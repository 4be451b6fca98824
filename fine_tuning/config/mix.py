"""Define the section `mix` of the configuration: further training data, and the share of each source."""

from typing import Annotated

from pydantic import Field, model_validator

from fine_tuning.config.types import Name, Positive, Section, Share

Temperature = Annotated[float, Field(ge=1, le=100)]


class Mix(Section):
    """The share of each source in an epoch.

    A source is `chats` (the turns recorded by byoai), an import by its name, or one of `also`. In
    `shares` and `repeats`, `source/task` names the conversations of a source with that task.
    """

    also: tuple[Name, ...] = ()  # sources to train on beside the log: `sample`, or files of questions and answers
    # share of an epoch by source; 0: left out. The sources not named here share the rest
    shares: dict[Name, Share] = Field(default_factory=dict)
    # how often an epoch holds each conversation of a source, besides all shares; 0: left out
    repeats: dict[Name, Annotated[int, Field(ge=0, le=100)]] = Field(default_factory=dict)
    # for the sources without a share: 1: in proportion to their size; higher: more equal (arXiv 1910.10683)
    temperature: Temperature = 1.0
    largest_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # limit for each source without a share, except `chats`
    topic_temperature: Temperature = 1.0  # 1: topics in proportion to their size; more raises the share of rare ones
    most_repeats: Positive = 4  # how often an epoch may repeat a conversation

    @model_validator(mode="after")
    def _no_more_than_all(self) -> "Mix":
        if (total := sum(self.shares.values())) > 1 + 1e-6:
            raise ValueError(f"the shares add up to {total:g}, but may add up to at most 1: lower some of them")
        if both := sorted(self.shares.keys() & self.repeats.keys()):
            raise ValueError(f"{', '.join(both)}: named in both mix.shares and mix.repeats; remove it from one of them")
        return self

    def __hash__(self) -> int:
        """Return a hash of the section as JSON, since its dicts cannot be hashed directly."""
        return hash(self.model_dump_json())
