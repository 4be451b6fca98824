"""The section `mix`: what is learned beside the chats, and how much of each source."""

from typing import Annotated

from pydantic import Field, model_validator

from fine_tuning.config_types import Name, Positive, Section, Share

Temperature = Annotated[float, Field(ge=1, le=100)]


class Mix(Section):
    """How much of each source an epoch holds.

    A source is `chats` (what was said here), an import by its name, or one of `also`.
    """

    also: tuple[Name, ...] = ()  # learned beside the log: `sample`, or files of questions and answers
    # of an epoch, by source; 0: left out. The others divide what is left
    shares: dict[Name, Share] = Field(default_factory=dict)
    # of the sources without a share: 1 as large as they are, more evens them out (arXiv 1910.10683)
    temperature: Temperature = 1.0
    largest_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # that a source without a share may take, `chats` aside
    topic_temperature: Temperature = 1.0  # 1: topics as often as they are; more raises the rare ones
    most_repeats: Positive = 4  # how often an epoch holds one conversation at most

    @model_validator(mode="after")
    def _no_more_than_all(self) -> "Mix":
        if (total := sum(self.shares.values())) > 1 + 1e-6:
            raise ValueError(f"shares: they come to {total:g}, and can be 1 together at most")
        return self

    def __hash__(self) -> int:
        """Return a hash as every section has one, though `shares` is a mapping."""
        return hash(self.model_dump_json())
