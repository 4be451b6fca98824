"""Find links, e-mail addresses, and IP addresses."""

import ipaddress
import re
from collections.abc import Iterator
from functools import cache

import phonenumbers

from fine_tuning.data_collection.private_details.reading import ENDS, LATIN, SPACED, UNSPACED, Reading, Span

# Links

_IN_LINK = rf"[!#-&(-;=?-\[\]^_a-z{{}}~'{LATIN}{SPACED}]"
# In scripts without spaces, a link would include words of the sentence: of their characters, only
# those in a query or the path of a wiki are allowed.
_CASELESS = rf"(?-i:[{UNSPACED}])"  # where case is ignored, compiling would go through all 40,000 of them
_REST = rf"(?:{_IN_LINK}|(?<==){_CASELESS}+|(?<=/wiki/){_CASELESS}+|(?<=%[0-9A-F][0-9A-F]){_CASELESS})"
_LINK = re.compile(
    rf"""(?ix) (?<![{LATIN}0-9_@]) (?:
        # With a name and a password before the host, a link of any scheme: "postgres://app:hunter2@db.example.com/main".
        (?P<login> [a-z][a-z0-9+.-]{{1,19}} :// [a-z0-9._%+-]{{0,64}} : [^\s\0/@$%<{{\[\"'`]{{1,256}} @ )
        [a-z0-9\[] {_REST}*
      | (?P<scheme> (?:https?|ftps?|sftp|ssh|git|wss?|file) :// )
        (?: [{LATIN}{SPACED}0-9\[] | (?<=file://)/\w | {_CASELESS}+(?=\.) ) {_REST}*
      | www \. [{LATIN}{SPACED}0-9] {_REST}{{2,}}
      | (?<![./-]) (?:[a-z0-9-]{{1,63}}\.){{1,4}}
        (?:com|org|net|edu|gov|io|dev|app|info|eu|de|uk|fr|es|it|nl|at|ch|pl|ru|br|in|jp|cn|au|ca|us) / {_REST}*
    )"""
)
_AFTER_LINK = ".,;:!?'\"*_…»”’~(["
_PAIRS = {")": "(", "]": "[", "}": "{"}


def links(reading: Reading) -> Iterator[Span]:
    """Yield the positions of links, without the punctuation of the sentence around them.

    In code, only a link with a scheme (https://...) counts.
    """
    for match in _LINK.finditer(reading.text):
        if match["scheme"] or match["login"] or not reading.in_code(match.start()):
            yield match.start(), match.start() + _length(match[0], reading.text[match.start() - 1 : match.start()])


def _length(link: str, before: str) -> int:
    """Return the length of the link at the beginning of `link`.

    The link ends at a quotation mark that was opened before it (`before` is the character before it),
    at a closing bracket that was not opened in it, and before the punctuation of the sentence.
    """
    if before == "'" and "'" in link:
        link = link[: link.index("'")]
    opened = []
    for position, character in enumerate(link):
        if character in "([{":
            opened.append(character)
        elif character in _PAIRS and (not opened or opened.pop() != _PAIRS[character]):
            link = link[:position]
            break
    return len(link.rstrip(_AFTER_LINK))


# E-mail

_HAN_DOMAINS = "中国|中國|公司|网络|網絡|网址|香港|台湾|台灣|新加坡|한국|닷컴|みんな|コム|ไทย"
_MAIL = re.compile(
    rf"""(?x)
    (?: (?<![{LATIN}0-9.+%'-]) [{LATIN}0-9._+%'-]{{1,64}}
      | (?<![{SPACED}0-9.+%'-]) [{SPACED}0-9._+%'-]{{1,64}}
      | [{UNSPACED}]{{1,64}} (?=@[{UNSPACED}]) )
    @
    (?: (?:[{LATIN}0-9-]{{1,63}}\.){{1,8}} [{LATIN}]{{2,24}}
      | (?:[{SPACED}0-9-]{{1,63}}\.){{1,8}} [{SPACED}]{{2,24}}
      | [{UNSPACED}0-9-]{{1,63}}\.(?:{_HAN_DOMAINS}) )
    (?![{LATIN}0-9])"""
)
# Text after a likely address that shows that it is a path on another machine ("user@host:path"), or an
# element of a matrix ("A@B[0]").
_NO_MAIL = re.compile(r"\[|:[\w.~-]*[/~]|:[\w-]+\.git\b", re.ASCII)
_GENERIC_NAMES = """
    com org net edu gov mil int info biz name pro mobi dev app page io ai co me tv cc online site store shop blog cloud email mail tech live
    news world life today group team company agency digital media social studio design art xyz club wiki press health care science academy
    education school university bank insurance finance law legal energy berlin hamburg koeln wien paris london nyc tokyo amsterdam swiss
    scot cat eus gal asia africa jobs travel museum aero coop post tel example test local localhost internal lan home corp intranet invalid
    onion arpa
"""  # noqa: E501
_GENERIC = frozenset(_GENERIC_NAMES.split())
_FILES = {"py", "sh", "rs", "md"}  # file endings in code, countries elsewhere
_NO_METHODS = {"com", "net", "org", "edu", "gov", "cn", "jp", "kr", "tw", "hk", "ru", "de", "fr", "uk"}


@cache
def _countries() -> frozenset[str]:
    return frozenset(region.lower() for region in phonenumbers.SUPPORTED_REGIONS) | {"uk", "eu", "su", "aq", "gs", "tf"}


def mails(reading: Reading) -> Iterator[Span]:
    """Yield the positions of e-mail addresses. `user@host:path` and matrix products (`A@B`) are not addresses."""
    for match in _MAIL.finditer(reading.plain):
        local, _, domain = match[0].partition("@")
        end = match.end() - _glued(domain)
        after = reading.text[end : end + 1]
        start = match.start() + len(local) - len(local.lstrip("_*'.%-" if after == "_" else "'.%-"))
        if reading.plain[start] == "@" or _NO_MAIL.match(reading.text, end):
            continue
        name, _, top = reading.plain[match.end() - len(domain) : end].rpartition(".")
        if (
            (after != "(" or top in _NO_METHODS)
            and (after != "-" or _known(top))
            and _is_domain(name, top, len(local), reading, start)
        ):
            yield start, end


def _glued(domain: str) -> int:
    """Return how many characters at a domain's end belong to the next sentence, as in "jo@example.com.Then"."""
    rest, _, last = domain.rpartition(".")
    return (
        len(last) + 1 if last.istitle() and "." in rest and not _known(last) and _known(rest.rpartition(".")[2]) else 0
    )


def _known(top: str) -> bool:
    return top.lower() in _GENERIC or top.lower() in _countries()


def _is_domain(name: str, top: str, local: int, reading: Reading, start: int) -> bool:
    """Return whether a name and a top-level domain form a domain.

    The rules are stricter for an unknown top-level domain, and for a text in code.
    """
    if not top.isascii():
        return True
    if _known(top):
        return (top.islower() and len(name) > 1 and top not in _FILES) or not reading.in_code(start)
    return (
        len(top) > 2 and local > 1 and len(name) > 1 and (top.islower() or top.isupper()) and not reading.in_code(start)
    )


# IP addresses

_START = r"(?:(?<![\w.])|(?<=\bIP))"  # with its label just before it where words have no spaces: "IP203.0.113.7"
_IP = re.compile(
    rf"""(?xia)
        {_START} (?<![a-z_]-) (?:::ffff:)? ( (?:\d{{1,3}}\.){{3}}\d{{1,3}} ) {ENDS} (?! \.\d | -(?!\d+\.\d+\.\d+\.) )
      | {_START} (?<![0-9a-f]:) (?=(?:[0-9a-f]{{1,4}}:){{7}}) (?=[0-9a-f:]*\d) (?:[0-9a-f]{{1,2}}:)??
        (?:[0-9a-f]{{3,4}}:[0-9a-f]{{0,4}}:?){{3}} [0-9a-f:]{{2,20}} {ENDS} (?!:)
      | {_START} (?<![0-9a-f]{{2}}:) (?:[23][0-9a-f]{{3}}|f[cd][0-9a-f]{{2}}|fe[89ab][0-9a-f]) : [0-9a-f:]{{2,34}} {ENDS} (?!:|\.\d)"""  # noqa: E501
)
# Addresses of public DNS resolvers, and of the metadata service of clouds.
_PUBLIC_ADDRESSES = """
    8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 4.2.2.1 4.2.2.2 114.114.114.114 223.5.5.5
    223.6.6.6 119.29.29.29 180.76.76.76 77.88.8.8 77.88.8.1 94.140.14.14 94.140.15.15 168.126.63.1 168.126.63.2 169.254.169.254
    2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001 2620:fe::fe 2620:fe::9
"""  # noqa: E501
_PUBLIC = frozenset(_PUBLIC_ADDRESSES.split())
_MACHINES = (
    r"\b(?:ipv?[46]?|ips|addr(?:ess)?(?:es)?|servers?|hosts?|hostname|ping|ssh|telnet|curl|nmap|gateway|router|dns|proxy|subnet"
    r"|client|machine|connect\w*|reach\w*|log(?:ged)?[ "
    r"-]?in|adresse?\w*|rechner|dirección|servidor|serveur|indirizzo|сервер\w*|адрес\w*"
    r"|хост\w*)\b|服务器|伺服器|主机|地址|位址|サーバ|アドレス|서버|주소|호스트|เซิร์ฟเวอร์|ไอพี|ที่อยู่|सर्वर|पते?|आईपी|خادم|عنوان"
)
_EDITIONS = (
    r"\bv\.?\s?$|\b(?:ver|versions?\w*|releases?|build|firmware|driver|update[ds]?|updating|upgrad\w+|downgrad\w+|patch\w*|runs?|running"
    r"|install\w*|edition|sdk|kernel|bios|chrome|chromium|firefox|edge|windows|android|ios|section|chapter|clause|figure|table|step"
    r"|kapitel|abschnitt|ausgabe|versión|versão|versione|versie|wersja|verze|sürüm\w*|верс\w*|обновл\w*|раздел|a[ck]tuali[sz]\w*"
    r"|aggiorna\w*|atualiza\w*|mise à jour)\b|§\s?$"
    r"|版本|版|升级|更新|バージョン|アップデート|버전|업데이트|เวอร์ชัน|เวอร์ชั่น|รุ่น|संस्करण|वर्ज़?न|إصدار|نسخة"
)
_PROGRAMS = (
    r"\b(?:python|pypy|java|jdk|node\.?js|npm|deno|go|rust|ruby|php|perl|nginx|apache|mysql|mariadb|postgres\w*|sqlite|redis|mongodb"
    r"|linux|ubuntu|debian|fedora|macos|office|excel|word|photoshop|docker|kubernetes|git|gcc|clang|cmake|cuda|opera|safari|brave|vlc|zoom"
    r"|teams|slack|steam|unity|blender|openss[hl]|tensorflow|pytorch|numpy|django|react|angular|qt|boost|vs "
    r"?code|ollama|llama\.cpp) $"
)
_SAID = re.compile(f"(?i)(?P<machine>{_MACHINES})|(?P<edition>{_EDITIONS}|{_PROGRAMS})")
_EDITION_AFTER = re.compile(r"(?i) ?(?:버전|バージョン|版|version|build|release|वर्ज़?न|संस्करण)")


def machines(reading: Reading) -> Iterator[Span]:
    """Yield the positions of IP addresses of particular machines.

    Version numbers, netmasks, private networks, public resolvers, and loopback and multicast addresses
    are not private.
    """
    for match in _IP.finditer(reading.plain):
        try:
            address = ipaddress.ip_address(match[1] or match[0])
        except ValueError:
            continue
        if str(address) in _PUBLIC or address.is_loopback or address.is_unspecified or address.is_multicast:
            continue
        if address.version == 6 or _is_machine(address, reading, match):
            yield match.span()


def _is_machine(address: ipaddress.IPv4Address, reading: Reading, match: re.Match[str]) -> bool:
    """Return whether four numbers are the IP address of a machine, and not a version number.

    The last word before them that indicates one of the two, such as "server" or "version", decides. If
    there is none, the numbers themselves do.
    """
    octets, after = address.packed, reading.plain[match.end() : match.end() + 4]
    if _is_mask(int(address)) or octets[0] >= 240 or _is_network(address, after):
        return False
    said = [found.lastgroup for found in _SAID.finditer(reading.before(match.start(), 60))]
    if said:
        return said[-1] == "machine"
    if _EDITION_AFTER.match(reading.plain, match.end()):
        return False
    if re.match(r":\d|/\d", after):
        return True
    return octets[3] != 0 and (octets[0] >= 10 or sum(octet >= 32 for octet in octets) >= 2)


def _is_mask(value: int) -> bool:
    """Return whether an address is a netmask or its inverse, such as 255.255.255.0 or 0.0.0.255."""
    inverted = value ^ 0xFFFFFFFF
    return (value & (value + 1)) == 0 or (inverted & (inverted + 1)) == 0


def _is_network(address: ipaddress.IPv4Address, after: str) -> bool:
    """Return whether an address stands for a whole private network, such as 10.0.0.0/8."""
    size = re.match(r"/(\d\d?)(?!\d)", after)
    hosts = 32 - int(size[1]) if size else 0
    return address.is_private and 0 < hosts <= 32 and int(address) % (1 << hosts) == 0
