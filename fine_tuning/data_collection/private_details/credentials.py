"""Find keys and passwords: by the form that their issuer uses, by their randomness, or by the word before them."""

import re
from collections.abc import Iterator

from fine_tuning.data_collection.cleaning.plain_text import small_letters
from fine_tuning.data_collection.private_details.reading import LATIN, UNSPACED, Reading, Span

_ISSUED = re.compile(
    r"""(?xa) (?<![\w-]) (?:
        sk-[\w-]{16,} | [sr]k_(?:live|test)_\w{10,} | whsec_\w{16,} | gh[pousr]_\w{20,} | github_pat_\w{20,} | glpat-[\w-]{16,}
      | xox[abeoprs]-[\w-]{10,} | xapp-[\w-]{16,} | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[\w-]{30,} | ya29\.[\w-]{20,} | hf_\w{20,}
      | npm_\w{20,} | pypi-[\w-]{20,} | SG\.[\w-]{16,}\.[\w-]{16,} | shp(?:at|ca|pa|ss)_\w{20,} | dop_v1_\w{20,} | figd_[\w-]{20,}
      | AGE-SECRET-KEY-1[A-Z0-9]{20,} | \d{8,10}:AA[\w-]{33} | eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}
    )
    | -----BEGIN\ (?:[A-Z]+\ )*PRIVATE\ KEY----- [\s\S]*? (?: -----END\ (?:[A-Z]+\ )*PRIVATE\ KEY----- | \Z )"""  # noqa: E501
)
_LONG = re.compile(r"(?a)(?<![\w/.+?-])[A-Za-z0-9]{32,}(?![\w/+?]|={0,2}\?)")

_LEAST_ISSUED = 15  # least length of a match of `_ISSUED`, except of a block ("-----BEGIN ...")

_RUN = re.compile(r"(?a)\d+")
# A line of base64 data, such as a file or a picture.
_DATA = re.compile(r"(?a)[\s\"'b(]*[A-Za-z0-9+/]{20,}=*[\s\"',)\\]*$")
_HELD = re.compile(r"(?<![A-Za-z])[\"'`]$|[=:] ?$")
_PASSWORD = (
    r"pass(?:word|wd|phrase|code)|pwd|passwor[dt]|kennwort|contraseña|clave|senha|mot\ de\ "
    r"passe|wachtwoord|hasło|lösenord|parola|şifre"
    r"|парол\w|密码|密碼|口令|パスワード|暗証番号|비밀번호|암호|รหัสผ่าน|पासवर्ड|كلمة\ (?:المرور|السر)|סיסמה|\bpin(?:[ -]?code)?\b|пин-?код"  # noqa: E501
)
_KEY = (
    r"secret|token|(?:api|access|auth|private|encryption)[ _-]?key|密钥|密鑰|秘钥|令牌|トークン|秘密鍵|토큰|비밀\ ?키"
    r"|токен|ключ|คีย์|टोकन|कुंजी|مفتاح|رمز"
)
# Every match of `_PASSWORD` or `_KEY` contains one of these texts.
_ASCII_STEMS = ("pass", "pwd", "kennwort", "clave", "senha", "wachtwoord", "parola", "pin", "secret", "token", "key")
_STEMS = (
    "contraseña hasło lösenord şifre парол 密码 密碼 口令 パスワード 暗証番号 비밀 암호 รหัสผ่าน पासवर्ड كلمة סיסמה пин"
    " 密钥 密鑰 秘钥 令牌 トークン 秘密鍵 토큰 токен ключ คีย์ टोकन कुंजी مفتاح رمز"
)
ALL_STEMS = (*_ASCII_STEMS, *_STEMS.split())
_END = rf"""\s"'`,;，。；、「」（）{UNSPACED}"""
# The word, the sign or verb after it, and the value: in quotes, or up to a space or the next letter
# of a script without spaces.
_ASSIGNED = re.compile(
    rf"""(?xi) (?: (?<![{LATIN}]) | (?![{LATIN}]) )
    (?: (?P<password>{_PASSWORD}) (?:\ [^\W\d]{{2,12}}){{0,3}}? | (?P<key>{_KEY}) ) (?:[_ -]?(?:access|api)?[_ -]?key|\ code)? ["'`]?
    (?P<sign> \s? (?::\s?[a-z]+\s?=|:=|=>|[:=]) \s?
      | \s(?:is|are|ist|lautet|est|es|é|è|is\ now|jest|är|это|—|है|คือ|هي|هو)[\s:]+
      | \s?(?:是|为|為|は|은|는|이|가|คือ)[\s:]? | (?<=(?-i:[{UNSPACED}]))\s? )
    (?: (?P<quote>["'`]) (?P<quoted>[^"'`\n]{{4,100}}) (?P=quote)
      | ["'`]? (?P<value>(?-i:[^\x00{_END}]){{4,200}}?) (?= [.!?)\]]* (?:(?-i:[！？{_END}])|$) ) )"""  # noqa: E501
)
# Values that refer to a secret instead of being one: expressions, paths, variables, template fields, masks.
_REFERENCE = re.compile(
    r"[A-Za-z_][\w.]*[(\[]|\.{0,2}[/\\]|~|[A-Za-z]:[/\\]|[$%<{\[(&*•-]|https?:|\d+[.,]\d+$|(?:x{3,}|\.{3,}|…)",
    re.IGNORECASE,
)
_QUANTITY = re.compile(r"\d{1,6}[A-Za-z]{1,10}")
_VALUE_ENDS = re.compile(r"\r?$|[ \t]+(?:#|//)", re.MULTILINE)  # the line ends, or a comment begins
_NEXT_SETTING = re.compile(r"[.!?)\]]*;[A-Z][A-Za-z ]*=\S")  # as in "Server=db;Password=hunter2!;Database=main"
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.]*")


def credentials(reading: Reading) -> Iterator[Span]:
    """Yield (start, end) of each key and password in the text, in order."""
    found: list[Span] = []
    if "-----BEGIN" in reading.plain or max(map(len, reading.plain.split()), default=0) >= _LEAST_ISSUED:
        found += [match.span() for match in _ISSUED.finditer(reading.plain) if _is_key(match[0])]
        found += [
            match.span()
            for match in _LONG.finditer(reading.plain)
            if _random(match[0]) and not _is_data(match, reading)
        ]
    if _names_one(reading.plain):
        found += [
            match.span("quoted" if match["quoted"] else "value")
            for match in _ASSIGNED.finditer(reading.plain)
            if _chosen(match, reading)
        ]
    end = 0
    for start, stop in sorted(found):
        if start >= end:
            yield start, stop
            end = stop


def _names_one(text: str) -> bool:
    """Return whether a text may contain a word of `_ASSIGNED`. This is ten times as fast as the search itself."""
    return any(map(small_letters(text).__contains__, _ASCII_STEMS if text.isascii() else ALL_STEMS))


def _is_key(token: str) -> bool:
    """Return whether a token is a key, and not a hyphenated name such as sk-learn-contrib-models."""
    return not token.startswith("sk-") or any(map(str.isdigit, token)) or (len(token) > 24 and "-" not in token[3:])


def _random(token: str) -> bool:
    """Return whether a token mixes upper case, lower case and digits as a key does.

    Hexadecimal checksums, names with a number, and padding are not such a mixture.
    """
    mixed = min(sum(map(kind, token)) for kind in (str.isdigit, str.islower, str.isupper)) >= 3
    return mixed and len(_RUN.findall(token)) > 1 and "AAAA" not in token


def _is_data(match: re.Match[str], reading: Reading) -> bool:
    """Return whether a match of `_LONG` is a name or bytes in code, or one of several lines of base64, not a key."""
    if reading.in_code(match.start()) and not _HELD.search(reading.before(match.start())):
        return True
    text, start, end = match.string, match.string.rfind("\n", 0, match.start()), match.string.find("\n", match.end())
    end = end if end >= 0 else len(text)
    before = text[max(0, text.rfind("\n", 0, max(start, 0)), start - 100) : max(start, 0)]
    after = text[end : end + 200][1:].partition("\n")[0]
    return _DATA.match(text[start + 1 : end]) is not None and any(map(_DATA.match, (before, after)))


def _chosen(match: re.Match[str], reading: Reading) -> bool:
    """Return whether a value is a secret ("hunter2"), and neither the next word of a sentence ("required") nor code."""
    value, word = match["quoted"] or match["value"], match["password"] or ""
    if not any(map(str.isdigit, value)) or _REFERENCE.match(value):
        return False
    if word.lower().startswith("pin"):
        return value.isdigit() and len(value) <= 8 and not (reading.in_code(match.start()) and not match["quoted"])
    if value.isdigit():  # only a password may be all digits, unlike "token: 4096"
        return bool(word) and not reading.in_code(match.start())
    if not word and (" " in value or _QUANTITY.fullmatch(value)):
        return False
    return match["quoted"] is not None or not reading.in_code(match.start()) or _set_in_file(match)


def _set_in_file(match: re.Match[str]) -> bool:
    """Return whether an unquoted value in code is a text, as in configuration files, and not a variable."""
    if _NEXT_SETTING.match(match.string, match.end()):
        return True
    line_end = _VALUE_ENDS.match(match.string, match.end())
    in_capitals = match.string[match.start() : match.start("sign")].strip("\"'`").isupper()
    return line_end is not None and (
        in_capitals or not _PLAIN_NAME.fullmatch(match["value"]) or match["sign"].strip() == ":"
    )
