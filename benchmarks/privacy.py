"""Measure recall and precision of the search for private details in eleven locales, and false finds in code.

    python benchmarks/privacy.py            # on data that the rules were not tuned on: other seed, sentences and files
    python benchmarks/privacy.py --tuning   # on the data that they were tuned on
    python benchmarks/privacy.py --show     # also print each miss and each false find

Details are made by Faker, and put into sentences of each language, without spaces around them where
the language has none. A find counts if its kind, start and end are exact. For false finds, one half
of the files of Python's standard library, including its tests, are searched, as they are and as a
fenced code block.
"""

import argparse
import ipaddress
import random
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from faker import Faker

from fine_tuning.data_collection.privacy import PII, Find, finds

SENTENCES = yaml.safe_load(Path(__file__).with_name("privacy_sentences.yaml").read_text(encoding="utf-8"))
LOCALES = list(SENTENCES["tuning"])
PER_SENTENCE = 8  # how often each sentence is filled with new details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tuning", action="store_true", help="the seed, the sentences and the files that the rules were tuned on"
    )
    parser.add_argument("--seed", type=int, help="of the details (default: 1 for tuning, else 20261)")
    parser.add_argument("--show", action="store_true", help="each miss and each false find")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else 1 if arguments.tuning else 20261
    scores = in_sentences("tuning" if arguments.tuning else "held out", seed, arguments.show)
    for name in sorted(scores.by, key=lambda name: (name == "all", name not in LOCALES, name)):
        print(f"  {name:8} {scores.by[name]}")
    files = library_files(arguments.tuning)
    for name, form in (("as it is", "{}"), ("fenced", "Look at this:\n```python\n{}\n```\n")):
        lines, real, false = in_code(files, form, arguments.show)
        rate = 1000 * sum(false.values()) / lines
        print(
            f"standard library {name}: {lines} lines, false {dict(false)}: {rate:.3f} in 1,000 lines; real {dict(real)}"
        )


# Details in sentences


@dataclass
class Score:
    planted: int = 0  # private details in the sentences
    found: int = 0  # details found with the exact place and kind
    false: int = 0  # finds that are not exactly a planted detail

    def __str__(self) -> str:
        recall, precision = self.found / max(1, self.planted), self.found / max(1, self.found + self.false)
        return f"{self.planted:5} planted, recall {recall:.3f}, precision {precision:.3f}"


@dataclass
class Scores:
    """The score of each locale and of each kind of detail, and of all together ("all")."""

    by: defaultdict[str, Score] = field(default_factory=lambda: defaultdict(Score))

    def add(self, locale: str, text: str, planted: set[Find], show: bool) -> None:
        found = set(finds(text))
        for find in planted:
            for name in (locale, str(find.kind), "all"):
                self.by[name].planted += 1
                self.by[name].found += find in found
        for find in found - planted:
            for name in (locale, str(find.kind), "all"):
                self.by[name].false += 1
        if show and found != planted:
            print(f"  {locale}: {text!r}\n    planted {_shown(text, planted)}, found {_shown(text, found)}")


def _shown(text: str, each: set[Find]) -> list[str]:
    return [f"{find.kind}: {text[find.start : find.end]}" for find in sorted(each, key=lambda find: find.start)]


def in_sentences(split: str, seed: int, show: bool = False) -> Scores:
    scores = Scores()
    for locale in LOCALES:
        makers = details(locale, seed)
        for kind, sentences in SENTENCES[split][locale].items():
            for sentence in sentences:
                for _ in range(PER_SENTENCE):
                    scores.add(locale, *_filled(sentence, kind, makers), show)
    return scores


def _filled(sentence: str, kind: str, makers: dict[str, Callable[[], str]]) -> tuple[str, set[Find]]:
    """Return the sentence with its gaps filled, and the private details in it.

    A gap `{}` gets a detail of the kind `kind`, a gap `{name}` one that `makers[name]` makes. The
    latter counts as private if `name` is a kind of private detail.
    """
    text, planted = "", set()
    for index, piece in enumerate(re.split(r"\{(\w*)\}", sentence)):
        if index % 2:
            name = piece or kind
            piece = makers[name]()
            if (named := "secret" if name == "password" else name) in set(PII):
                planted.add(Find(PII(named), len(text), len(text) + len(piece)))
        text += piece
    return text, planted


def details(locale: str, seed: int) -> dict[str, Callable[[], str]]:
    """Return, by name, functions that make random private details, and texts that only look like them."""
    fake = Faker(locale)
    fake.seed_instance(seed)
    choice = fake.random

    def grouped(number: str, size: int = 4) -> str:
        mark = choice.choice(["", " ", " ", "-"])
        return mark.join(number[start : start + size] for start in range(0, len(number), size))

    def letters(pattern: str) -> str:
        return re.sub(
            r"\?", lambda _: choice.choice("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"), pattern
        )

    return {
        "email": lambda: choice.choice([fake.email, fake.company_email, fake.free_email])(),
        "phone": fake.phone_number,
        "iban": lambda: grouped(fake.iban()).replace("-", " "),
        "card": lambda: grouped(fake.credit_card_number()),
        "ip": lambda: choice.choice([fake.ipv4_public, fake.ipv4_public, fake.ipv4_private, fake.ipv6])(),
        "url": lambda: choice.choice(
            [fake.url, fake.uri, lambda: f"{fake.url()}{fake.uri_path()}?id={choice.randrange(999)}"]
        )(),
        "ssn": lambda: Faker("en_US").ssn() if locale != "en_US" else fake.ssn(),
        "secret": lambda: letters(
            choice.choice(["sk-" + "?" * 40, "ghp_" + "?" * 36, "hf_" + "?" * 34, "AIza" + "?" * 35])
        ),
        "password": lambda: fake.password(length=choice.randrange(8, 14), special_chars=False) + "7",
        "order": lambda: str(choice.randrange(10**9, 10**10)),
        "price": lambda: f"{choice.randrange(1, 10**6):,}.{choice.randrange(100):02}",
        "date": lambda: fake.date(choice.choice(["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%Y/%m/%d", "%m/%d/%Y"])),
        "time": lambda: fake.date_time().strftime(choice.choice(["%H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%d.%m.%Y %H:%M"])),
        "version": lambda: ".".join(str(choice.randrange(99)) for _ in range(choice.choice([3, 4]))),
        "mask": lambda: str(ipaddress.ip_network(f"0.0.0.0/{choice.randrange(8, 31)}").netmask),
        "numbers": lambda: " ".join(str(choice.randrange(100, 2000)) for _ in range(choice.randrange(3, 6))),
        "isbn": fake.isbn13,
        "uuid": fake.uuid4,
        "hash": fake.sha1,
        "place": lambda: f"{fake.latitude()}, {fake.longitude()}",
        "size": lambda: f"{choice.randrange(10**6, 10**9)} bytes",
    }


# Code


def library_files(tuning: bool) -> list[Path]:
    """Return one half of the files of Python's standard library: that for tuning the rules, or the other.

    The halves are random, but always the same.
    """
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
    random.Random(1).shuffle(files)
    return files[: len(files) // 2] if tuning else files[len(files) // 2 :]


def in_code(files: Sequence[Path], form: str, show: bool = False) -> tuple[int, Counter[str], Counter[str]]:
    """Search each file, put in place of the braces in `form`, for private details.

    Return the number of lines, and the numbers of real and of false finds (`is_real`) by kind.
    """
    lines, real, false = 0, Counter[str](), Counter[str]()
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        lines += text.count("\n")
        for find, line, detail in _finds_in(form.replace("{}", text)):
            kind = real if is_real(find.kind, detail, line) else false
            kind[str(find.kind)] += 1
            if show and kind is false:
                print(f"  {path.name}: {find.kind} {detail[:80]!r} in {line.strip()[:120]!r}")
    return lines, real, false


def _finds_in(text: str) -> Iterator[tuple[Find, str, str]]:
    for find in finds(text):
        start, end = text.rfind("\n", 0, find.start) + 1, text.find("\n", find.end)
        yield find, text[start : end if end >= 0 else len(text)], text[find.start : find.end]


_STRICT_MAIL = re.compile(
    r"[A-Za-z0-9_.+'%-]+@(?:[A-Za-z0-9-]+\.)+(?:com|org|net|edu|gov|mil|info|invalid|example|test|local|[a-z]{2})", re.I
)


def is_real(kind: PII, detail: str, line: str) -> bool:
    """Return whether `detail`, a find in a line of code, is really of its kind.

    The check is independent of the search. A URL is real if it has a scheme and a host; an e-mail
    address if it is complete, has a well-known top-level domain and is not an operand; an IP
    address unless the word "version" is in the line; a secret if it is the block of a private key.
    All other finds count as false, even a phone number in a test.
    """
    if kind is PII.URL:
        return re.match(r"(?:\w+://(?:[^/@]*@)?[\w\[]|www\.)", detail) is not None or detail.startswith("file:///")
    if kind is PII.EMAIL:
        return _STRICT_MAIL.fullmatch(detail) is not None and not re.search(re.escape(detail) + r"\s*[(\[=]", line)
    if kind is PII.IP:
        ipaddress.ip_address(detail)
        return "version" not in line.lower()
    return kind is PII.SECRET and detail.startswith("-----BEGIN")


if __name__ == "__main__":
    main()
