# ruff: noqa: E501
"""Define patterns of names and postal addresses in several languages, for the `regex` package.

A name is found if its sentence announces one ("My name is", "Sehr geehrte Frau", the closing of a
letter above a signature). An address is found by its own form (a word for a street beside a number,
a postcode beside a place). The patterns are case-sensitive, since capitals distinguish names from
other words.
"""

# A whole capitalised word: "O'Neill", "Anne-Marie", "McKay", "J". Possessive, so that patterns made
# of it do not backtrack into its parts.
_WORD = r"\p{Lu}[\p{L}\p{M}]*+(?:['’-]\p{L}[\p{L}\p{M}]*+)*+"
_FULL = rf"(?=\p{{Lu}}[\p{{L}}\p{{M}}]*\p{{Ll}}){_WORD}"
_PARTICLE = (
    r"(?:von|vom|van|der|den|zu|zum|zur|de|del|della|di|da|dos|das|do|du|des|la|le|el|al|bin|ibn|ten|ter|af|y|e|i)"
)
# Capitalised words that may follow a greeting or "I am" without being a name
_NO_NAMES = """
    Dr Prof Sir Madam Sirs Team All Everyone Everybody There World Customer Customers Friend Friends Guys Folks Colleague Colleagues Assistant
    Claude Siri Alexa Alex-Bot Bot ChatGPT Again And But Can Could Would What Where When Why Who How Which Please The This That These I I'm
    I'd I've My We You Your It Is Are Do Does Did If In On At For From To Not No Yes Ok Okay Just Let Thanks Thank So Sorry Good Hello Hi Hey
    Dear Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September October
    November December English American British Irish Scottish Welsh German French Italian Spanish Portuguese Dutch Polish Czech Swedish
    Norwegian Danish Finnish Russian Ukrainian Greek Turkish Chinese Japanese Korean Indian Canadian Australian Mexican Brazilian African
    Asian European Swiss Austrian Belgian Muslim Jewish Hindu Buddhist Catholic Protestant
    Welt Kunde Kundin Kunden Leute Freunde Freund Zusammen Kollegen Kolleginnen Damen Herren Kollege Ich Wir Wie Was Wo Wann Warum Können
    Könnten Hallo Bitte Danke Frau Herr Monde Tous Toutes Client Cliente Ami Amis Madame Monsieur Comment Mundo Amigo Amiga Amigos Señor
    Señora Cómo Qué Todos Mondo Tutti Signore Signora Cosa Come Amici Cliente Clienti Wereld Klant Allemaal Świecie Мир Друзья Коллеги Как
    Värld Alla
"""
_ANOTHER = rf"(?!(?:{'|'.join(sorted({*_NO_NAMES.split()}))})(?![\p{{L}}\p{{M}}]))"
_NAME = rf"(?P<find>(?:(?:von|van|zu|de|di|da)[ ](?:(?:der|den|la)[ ])?)?{_ANOTHER}{_FULL}(?:[ ]{_ANOTHER}(?:\p{{Lu}}\.|(?:{_PARTICLE}[ ]){{0,2}}{_WORD})){{0,3}})(?![\p{{L}}\p{{M}}])"
_TWO = rf"(?P<find>{_ANOTHER}{_FULL}(?:[ ]{_ANOTHER}(?:\p{{Lu}}\.|(?:{_PARTICLE}[ ]){{0,2}}{_WORD})){{1,3}})(?![\p{{L}}\p{{M}}])"
_TITLE = (
    r"(?:Mr|Mrs|Ms|Mx|Dr|Prof|Herrn?|Frau|Mme|Mlle|Monsieur|Madame|M|Sr|Sra|Srta|Señora?|Sig|Sig\.ra|Signora?|Dott|Dhr|Mevr|Mevrouw|Meneer"
    r"|Pani|Panem|Fru)\b\.?"
)

NAMES = (
    # "My name is ...", in small or capital letters, then a name
    r"\b(?i:my(?:[ ]full)?[ ]name[ ]is|my[ ]name['’]s|i[ ]am[ ]called|call[ ]me|(?:this|it)[ ]is|speaking[ ]with|"
    r"mein[ ]name[ ]ist|ich[ ]hei(?:ß|ss)e|hier[ ](?:ist|spricht)|je[ ]m['’]appelle|mon[ ]nom[ ]est|me[ ]llamo|mi[ ]nombre[ ]es|mi[ ]chiamo|"
    r"il[ ]mio[ ]nome[ ]è|me[ ]chamo|(?:o[ ])?meu[ ]nome[ ]é|chamo-me|mijn[ ]naam[ ]is|ik[ ]heet|nazywam[ ]się|mam[ ]na[ ]imię|"
    r"jag[ ]heter|mitt[ ]namn[ ]är|jmenuj[iu][ ]se|benim[ ]adım|меня[ ]зовут|мо[её][ ]имя|мене[ ]звати|με[ ]λένε|"
    rf"(?:full[ ])?name|nachname|vorname|nom|nombre|nome|naam|imię|имя|фамилия)[ ]*[:—-]?[ ]*(?:{_TITLE}[ ])?{_NAME}",
    # "I am ..." often states a role: only a full name, or a name that ends the clause
    rf"\b(?:I[ ]am|I['’]m|i[ ]am|i['’]m)[ ](?:{_TITLE}[ ])?{_NAME}(?=[ ]*(?:[,.!?;\n]|$|and\b|from\b))",
    r"\b(?i:ich[ ]bin|je[ ]suis|yo[ ]soy|soy|io[ ]sono|sono|eu[ ]sou|sou|ik[ ]ben|jestem|jag[ ]är|я[ ]—|я)[ ]"
    rf"(?:{_TITLE}[ ])?{_TWO}",
    # Titles
    rf"\b{_TITLE}[ ](?:(?:Dr|Prof)\.[ ])*{_NAME}",
    # Greetings at the beginning of a line, up to the sign that ends them
    r"(?:^|(?<=\n))[ ]*(?i:hi|hello|hey|dear|good[ ](?:morning|afternoon|evening)|hallo|liebe[r]?|lieber|guten[ ](?:tag|morgen|abend)|servus|"
    r"sehr[ ]geehrte[r]?|bonjour|bonsoir|salut|cher|chère|hola|estimad[oa]|querid[oa]|buenos[ ]días|ciao|gentile|car[oa]|buongiorno|"
    r"egregio|olá|oi|prezad[oa]|bom[ ]dia|beste|hoi|dag|geachte|goedemorgen|cześć|witaj|dzień[ ]dobry|hej|hejsan|ahoj|merhaba|sevgili|"
    r"привет|здравствуйте|уважаем(?:ый|ая)|дорог(?:ой|ая)|добрый[ ]день|вітаю|γεια[ ]σου|αγαπητ[έή]),?[ ]"
    rf"(?:{_TITLE}[ ])*{_NAME}(?=[ ]*(?:[,!:;.—-]|\n|$))",
    # Closings, and the name below or after them
    r"\b(?i:(?:(?:kind|best|warm|many)[ ])?regards|(?:yours[ ])?(?:sincerely|faithfully|truly)|best[ ]wishes|all[ ]the[ ]best|cheers|"
    r"many[ ]thanks|thanks|thank[ ]you|love|mit[ ](?:freundlichen|besten|lieben)[ ]gr(?:ü|ue)(?:ß|ss)en|(?:viele|liebe|beste|schöne)[ ]gr(?:ü|ue)(?:ß|ss)e|"
    r"mfg|lg|vg|cordialement|bien[ ]à[ ]vous|amicalement|salutations|saludos(?:[ ]cordiales)?|atentamente|un[ ]abrazo|"
    r"(?:cordiali|distinti)[ ]saluti|a[ ]presto|atenciosamente|abraços|cumprimentos|met[ ]vriendelijke[ ]groet(?:en)?|groet(?:jes|en)?|"
    r"pozdrawiam|z[ ]poważaniem|med[ ]vänliga[ ]hälsningar|vänliga[ ]hälsningar|s[ ]pozdravem|saygılarımla|с[ ]уважением|з[ ]повагою|"
    rf"με[ ]εκτίμηση)[ ]*(?:[,.!:—-]+[ ]*\n?|\n)\s*(?:{_TITLE}[ ])?{_NAME}(?=[ ]*(?:[.,]?[ ]*(?:\n|$)))",
    # Scripts without capitals: only if the sentence also marks the end of the name
    r"(?:私の名前は|わたしの名前は|私は|僕は|名前は)(?P<find>[\p{Han}\p{Katakana}ー][\p{Han}\p{Hiragana}\p{Katakana}ー]{0,4}[ 　]?[\p{Han}\p{Hiragana}\p{Katakana}ー]{1,5}?)(?=(?:です|といいます|と言います|と申します))",
    r"(?:我叫|我的名字是|我的名字叫|我是(?=\p{Han}{2,3}[，。,！!]))(?P<find>\p{Han}{2,4}?)(?=[，。,.！!？\s]|$)",
    r"(?:제 이름은|저는|내 이름은)\s?(?P<find>\p{Hangul}{2,4})(?=(?:입니다|이에요|예요|이라고|라고))",
)

_CITY = rf"{_FULL}(?:-?[ ](?:(?:de|do|da|dos|das|la|les|le|del|en|am|an|der|den|im|in|bei|upon|sur|sous|ob|zu|d['’])[ ])?{_WORD}){{0,3}}"
_GAP = r"[ ]*[,\n][ ]*"  # between the lines of an address
_HOUSE = r"\d{1,5}[ ]?(?:[a-zA-Z]\b)?(?:[ ]?[-/][ ]?\d{1,4}[a-zA-Z]?)?"
_FLAT = r"(?:Apt|Apartment|Suite|Ste|Unit|Flat|Studio|Room|Piso|Puerta|Appartamento|Piano|Étage|Etage|кв|#)\b?\.?[ ]?\w{1,6}"
_ENGLISH = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Court|Ct|Boulevard|Blvd|Way|Place|Pl|Square|Sq|Terrace|Crescent|Close|Highway|Hwy"
    r"|Parkway|Pkwy|Row|Grove|Gardens|Mews|Circle|Trail|Alley|Walk|Turnpike)\b\.?"
)
_GERMANIC = (
    r"(?:[Ss]tra(?:ß|ss)e|[Ss]tr\.|[Ww]eg|[Gg]asse|[Pp]latz|[Aa]llee|[Rr]ing|[Uu]fer|[Dd]amm|[Cc]haussee|[Ss]teig|[Pp]fad|[Ss]traat|[Ll]aan"
    r"|[Pp]lein|[Gg]racht|[Kk]ade|[Ss]ingel|[Dd]reef|[Ss]teeg|[Bb]oulevard|[Gg]atan|[Vv]ägen|[Gg]ränd|[Tt]orget|[Ss]tigen)"
)
_FRENCH = r"(?i:rue|avenue|boulevard|chemin|place|allée|impasse|quai|cours|route|square|passage|faubourg)"
_SOUTHERN = (
    r"(?i:calle|c/|c\.|avenida|avda\.?|av\.|plaza|paseo|camino|cañada|carrera|ronda|vía|via|viale|piazza|corso|largo|vicolo|strada|contrada"
    r"|borgo|rotonda|rua|travessa|praça|alameda|estrada|viela|callejón|pasaje|pasadizo|glorieta|urbanización|cuesta|rambla|vial|canale"
    r"|incrocio|stretto|acceso)"
)
_ZIP_CITY = (
    rf"(?:[A-Z]{{1,2}}-)?(?:\d{{4}}[ ]?[A-Z]{{2}}\b\s|\d{{4,5}}(?:-?\d{{3}})?,?[ ]){_CITY}(?:['’])?"
    rf"(?:[ ]\([A-Z]{{2}}\)|[ ]/[ ][A-Z]{{2}}\b|{_GAP}[A-Z]{{2}}\b)?"
)
_SLAVIC = r"(?:ul|al|pl|os)\.|(?:ulica|aleja|plac|osiedle)\b"
_RUSSIAN = r"(?:ул|пр|просп|пер|бул|наб|ш|алл)\.|(?:улица|проспект|переулок|бульвар|набережная|шоссе|аллея|вулиця)\b"
_UK = r"\b[A-Z]{1,2}\d[A-Z\d]?[ ]?\d[A-Z]{2}\b"

ADDRESSES = (
    # 12 Mill Lane, Flat 3, Newtown, OH 44444 | 12 Anything Else\nNewtown, OH 44444
    rf"(?P<find>(?<![\w.,$€£/-])(?:{_FLAT}{_GAP}|{_FLAT}[ ])?\d{{1,5}}[a-zA-Z]?,?[ ](?:{_WORD}[ ]){{1,4}}?{_ENGLISH}(?:,?[ ]{_FLAT})?"
    rf"(?:{_GAP}{_CITY}(?:,?[ ][A-Z]{{2}}[ ]\d{{5}}(?:-\d{{4}})?|{_GAP}{_UK}|[ ]{_UK}|(?=\n|$)))?)(?![\p{{L}}])",
    rf"(?P<find>(?<![\w.,$€£/-])\d{{1,5}}[ ]{_WORD}(?:[ ]{_WORD}){{0,4}}(?:,?[ ]{_FLAT})?{_GAP}{_CITY},?[ ][A-Z]{{2}},?[ ]\d{{5}}(?:-\d{{4}})?)\b",
    # up to four lines or parts above a British postcode
    rf"(?P<find>(?<![\w.,$€£/-])(?:{_FLAT}(?:{_GAP}|[ ]))?\d{{0,4}}[a-zA-Z]?,?[ ]?(?:{_WORD}[ ]?){{1,4}}{_GAP}(?:(?:{_WORD}[ ]?){{1,3}}(?:{_GAP}|[ ])){{0,2}}{_UK})",
    # Mühlweg 3, 12345 Neustadt; Kerkstraat 5
    rf"(?P<find>\b(?:(?:{_WORD}[ ]){{0,2}}\p{{Lu}}[\p{{L}}\p{{M}}'’-]*{_GERMANIC}|(?:{_WORD}[ ]){{1,3}}(?:Stra(?:ß|ss)e|Str\.|Allee|Gasse|Chaussee|Weg))"
    rf"[ ]{_HOUSE}(?:{_GAP}{_ZIP_CITY})?)(?![\p{{L}}])",
    # any street followed by a postcode and a town
    rf"(?P<find>\b{_WORD}(?:[ ](?:(?:de|la|am|an|der|den|im|in|zum|zur)[ ])?{_WORD}){{0,3}}[ ]{_HOUSE}{_GAP}{_ZIP_CITY})(?![\p{{L}}])",
    # 3, rue du Moulin, 12345 Neuville
    rf"(?P<find>\b{_FRENCH}[ ](?:(?:de|du|des|la|le|les|l['’])[ ]?){{0,2}}(?:{_WORD}[ ]?){{1,5}}{_GAP}\d{{5}}[ ]{_CITY})(?![\p{{L}}])",
    rf"(?P<find>(?<![\w.,$€£/-])\d{{1,4}}(?:[ ](?:bis|ter))?,?[ ]{_FRENCH}[ ][\p{{L}}\p{{M}}'’ .-]{{2,50}}?(?:{_GAP}\d{{5}}[ ]{_CITY}|(?=[,.;\n?!]|$)))",
    # Calle del Molino 3, 12345 Villanueva; Via Roma, 5; Rua Nova, 7
    rf"(?P<find>\b{_SOUTHERN}[ ](?=[^\n\d]*\p{{Lu}})[\p{{L}}\p{{M}}'’ .-]{{2,50}}?,?[ ](?:nº[ ]?|n\.[ ]?)?{_HOUSE}(?:[ ]{_FLAT})?(?:{_GAP}{_FLAT})?(?:(?:{_GAP}|[ ]){_ZIP_CITY}|{_GAP}{_CITY},[ ]\d{{5}}\b)?)(?![\p{{L}}])",
    # up to two lines above a Brazilian postcode
    rf"(?P<find>\b{_WORD}(?:[ ](?:(?:da|de|do|das|dos)[ ])?{_WORD}){{0,4}}(?:,[ ]\d{{1,5}})?{_GAP}(?:{_WORD}(?:[ ](?:(?:da|de|do|das|dos)[ ])?"
    rf"[\p{{Lu}}\d][\p{{L}}\d]*){{0,5}}{_GAP})?\d{{5}}-?\d{{3}}[ ]{_CITY}(?:[ ]?[/-][ ]?[A-Z]{{2}}\b)?)",
    rf"(?P<find>(?:{_SLAVIC})[ ]?(?:{_WORD}[ ]){{1,4}}{_HOUSE}(?:[ ]?m\.[ ]?\d+)?(?:{_GAP}\d{{2}}-\d{{3}}[ ]{_CITY})?)(?![\p{{L}}])",
    rf"(?P<find>(?:(?:г|с|п|д|ст|клх|к)\.?[ ]{_CITY}(?:[ ]\([\p{{L}}.-]+\))?,[ ])?(?:{_RUSSIAN})[ ]?(?:[\p{{Lu}}\d][\p{{L}}\p{{M}}\d.-]*[ ,]+){{1,4}}(?:(?:д|дом|буд)\.?[ ]?)?{_HOUSE}"
    rf"(?:[ ]?(?:к|корп|стр)\.[ ]?\d+(?:/\d+)?)?(?:,?[ ]кв\.[ ]?\d+)?(?:,[ ]\d{{6}})?)(?![\p{{L}}])",
    # East Asian addresses, in which the larger place comes first
    r"(?P<find>(?:〒?\d{3}-\d{4}\s?)?(?:東京都|北海道|(?:京都|大阪)府|[\p{Han}]{2,3}県)[\p{Han}\p{Hiragana}\p{Katakana}ー]{1,12}[区市町村郡][\p{Han}\p{Hiragana}\p{Katakana}ー]{0,12}\d+(?:丁目|番地?|号|-|\d)*(?:[ 　][\p{Han}\p{Hiragana}\p{Katakana}ー]{2,15}\d{2,4}号?室?)?)",
    r"(?P<find>(?:\p{Han}{2,8}(?:省|自治区|市))?\p{Han}{1,8}(?:市|区|县)\p{Han}{1,8}(?:路|街|道|巷|弄)(?:\d+号?|[A-Za-z]座)(?:\d+[室楼单元栋-]*)*(?:[ ]\d{6}\b)?)",
    r"(?P<find>\p{Hangul}{1,8}(?:시|도)[ ](?:\p{Hangul}{1,6}(?:시|군|구)[ ]){1,2}\p{Hangul}{1,8}\d*(?:로|길|거리|가)[ ]?(?:지하)?\d+(?:-\d+)?"
    r"(?:[ ]\(\p{Hangul}+\))?)",
)
