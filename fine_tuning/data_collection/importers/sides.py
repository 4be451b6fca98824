"""Tell the sides of messages that a help desk stores without naming a user and an assistant.

Programs say it by a direction, a boolean such as "incoming", the type of the author, or an author who
is the ticket's requester. Names are compared in lower case and without "_", "-" and spaces.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fine_tuning.data_collection.importers.chats import Role
from fine_tuning.data_collection.importers.people_records import first_in, key_of, lowered

CONVERSATIONS = (
    *("conversationid", "conversationsthreadid", "threadid", "ticketid", "sessionid", "convid", "chatid", "rootid"),
    *("root", "dialogueid", "dialogid", "transcriptid"),
)
"""Names under which a message has the id of its conversation."""

_FROM_USER = ("incoming", "isincoming", "inbound", "isinbound", "fromcustomer", "iscustomer")
_FROM_ASSISTANT = ("outgoing", "isoutgoing", "outbound", "isoutbound", "fromagent", "isagent", "isstaff")
_TRUTHS = {"true": "true", "1": "true", "false": "false", "0": "false"}
_DIRECTIONS = ("direction", "messagetype", "type")
_NUMBERS: dict[object, Role] = {0: "user", 1: "assistant"}  # Chatwoot: "message_type"
_AUTHORS = ("author", "sender", "createdby", "user", "from")
_TYPES = (
    *("authortype", "sendertype", "usertype", "actortype", "participantrole", "participantpurpose", "participantid"),
    *("interlocutor", "type"),
)
_IDS = ("authorid", "senderid", "userid")
_PEOPLE = ("id", "accountid", "login", "name", "email", "displayname")  # names of a person who is an object
_LETTERS = {"v": "visitor", "a": "agent"}  # tawk.to
_WANTED: dict[str, Role] = {
    **dict.fromkeys(("incoming", "inbound", "in", "received"), "user"),
    **dict.fromkeys(("outgoing", "outbound", "out", "sent"), "assistant"),
}
_ASKS = frozenset(("contact", "customer", "lead", "visitor", "enduser", "requester", "client", "guest", "external"))
_ANSWERS = frozenset(
    ("admin", "agent", "bot", "operator", "staff", "teammate", "supportagent", "reply", "internal", "therapist")
)


def side_of(message: Mapping[str, Any], people: Mapping[str, Role], user: Role = "user") -> Role | None:
    """Return the side of a message whose keys are as in the module's docstring; None if nothing tells it.

    Args:
        message: The message.
        people: The roles of people, by their ids.
        user: The role of an author of the type "user", which some help desks call their own people.
    """
    for keys, is_said in ((_FROM_USER, "true"), (_FROM_ASSISTANT, "false")):
        if told := _TRUTHS.get(str(first_in(message, keys)).lower()):
            return "user" if told == is_said else "assistant"
    if not isinstance(number := message.get("messagetype"), bool | list | dict) and number in _NUMBERS:
        return _NUMBERS[number]
    for key in _DIRECTIONS:
        if role_told := _WANTED.get(_word(message.get(key))):
            return role_told
    author = first_in(message, _AUTHORS)
    for kind in (_type_of(author), *(message.get(key) for key in _TYPES)):
        if role := role_of_type(kind):
            return role
    if "user" in (_word(_type_of(author)), *(_word(message.get(key)) for key in _TYPES)):
        return user
    id = first_in(message, _IDS) or id_of(author)
    return people.get(str(id)) or people.get("")


def id_of(person: Any) -> Any:
    """Return what identifies a person: its id or name if it is an object, else the value itself."""
    return first_in(lowered(person), _PEOPLE) if isinstance(person, dict) else person


def user_type(messages: Iterable[Mapping[str, Any]]) -> Role:
    """Return the role of an author of the type "user": where others are contacts or customers, it is an agent."""
    kinds = {
        _word(kind)
        for each in messages
        for kind in (_type_of(first_in(each, _AUTHORS)), *(each.get(key) for key in _TYPES))
    }
    return "assistant" if kinds & _ASKS and not kinds & _ANSWERS else "user"


def role_of_type(kind: object) -> Role | None:
    """Return the role of a person of a type such as "end-user" or "agent"; None for another type."""
    word = _word(kind)
    return "user" if word in _ASKS else "assistant" if word in _ANSWERS else None


def _type_of(author: object) -> object:
    return author.get("type") or _LETTERS.get(str(author.get("t"))) if isinstance(author, dict) else None


def _word(value: object) -> str:
    return key_of(str(value)) if isinstance(value, str | int) else ""
