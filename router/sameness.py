"""Whether two questions may be the same at all: a cheap guard beside the closeness of their vectors.

Vectors hardly move with a number, a negation, a name or a piece of code, which change the answer most. So two
questions may share one only where their *signatures* are equal: numbers, words that turn a meaning around, names
and quoted or code-like pieces, each in the order in which they come. And the words that both have must come in the
same order, or who does what to whom is another. What passes may still be different (the guard is English, and knows
few words); a paraphrase that does not merely misses.
"""

import re
from binascii import crc32
from collections.abc import Iterator, Sequence

_QUOTED = re.compile(r"```.+?```|`[^`]+`|\"[^\"]+\"|“[^”]+”|«[^»]+»|(?<!\w)'[^']+'(?!\w)", re.DOTALL)
#: Holds a sign that prose has not, a dot or a capital inside.
_CODE = re.compile(r"\S*[_/\\=<>{}()\[\]@#$%^&*|~+]\S*|\b\w+(?:\.\w+)+|\b[a-z]+[A-Z]\w*|\b\w+\.\w+\b")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?(?:-[^\W\d_]+)*")
_STOPS = frozenset(".!?\n:")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: "one" is a pronoun more often than a number.
_NUMBERS = dict(
    zip(
        _listed(
            """
            zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
            seventeen eighteen nineteen twenty thirty forty fifty hundred thousand million
            """
        ),
        _listed("0 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 30 40 50 100 1000 1000000"),
        strict=True,
    )
)
_NEGATIONS = frozenset(
    _listed(
        """
        not no never none neither nor nobody nothing nowhere without cannot except excluding unless
        hardly all every some only always sometimes
        """
    )
)
#: Of opposites, of which one in the other's place asks for something else; not those that mostly mean nothing (on).
_TURNING = frozenset(
    _listed(
        """
        before after above below under more less most least fewer minimum maximum min max first last best
        worst better worse highest lowest higher lower largest smallest larger smaller biggest longest
        shortest longer shorter oldest newest older newer younger fastest slowest faster slower cheapest cheap
        expensive increase decrease increasing decreasing increased decreased raise reduce down left right
        north south east west out off start stop begin end open close opened closed enable disable
        enabled disabled add remove added removed buy sell buying selling lend borrow win lose import export
        upload download encrypt decrypt encode decode compress decompress install uninstall lock unlock send
        receive push pull rise fall ascending descending true false yes even odd safe unsafe legal illegal
        possible impossible correct incorrect valid invalid unlike dislike advantages disadvantages pros
        cons positive negative internal external input output subscribe unsubscribe accept reject allow forbid
        deny today tomorrow yesterday morning evening daily weekly monthly yearly annual renew cancel activate
        deactivate inside outside public private male female gain gaining losing loss save spend saving
        spending read write reading writing born die birth death dead alive summer winter spring autumn hot
        cold warm cool heat freeze boil melt love hate pass fail passed failed success failure dangerous
        harmful harmless healthy unhealthy good bad easy hard difficult simple complex early late earlier
        later join leave enter exit arrive depart arrival departure employer employee buyer seller teacher
        student parent child husband wife brother sister mother father king queen plus minus multiply divide
        sum difference subtract integrate differentiate ascend descend expand shrink grow show hide connect
        disconnect attach detach login logout sign married divorced rich poor heavy light heavier lighter
        thick thin wide narrow full empty front back strengths weaknesses benefits risks causes effects gross
        net debit credit deposit withdraw
        """
    )
)
#: Words that go anywhere in a question.
_LIGHT = frozenset(
    _listed(
        """
        a an the i me my you your we our it its this that these those he she they is are am was were be been
        do does did has have had can could will would shall should may might must what which who whom whose
        when where why how please of to for with by from at as so if then than and or but also just there here
        any some all tell give show want need like know way get let make help thing things
        """
    )
)
#: Of a question; more may be more than an encoder's 256 tokens, and it would be cut in the middle.
LONGEST_BYTES = 768

Signature = tuple[tuple[str, ...], ...]


def short(text: str) -> bool:
    """Whether all of the text is in its vector."""
    return len(text) <= LONGEST_BYTES and len(text.encode("utf-8", "replace")) <= LONGEST_BYTES


def signature(text: str) -> Signature:
    """What two questions must have alike: (quoted and code, numbers, turning words, names), each in its order."""
    kept = [piece[0] for piece in _QUOTED.finditer(text)]
    prose = _QUOTED.sub(" ", text)
    code = [piece[0].rstrip(".,;:!?") for piece in _CODE.finditer(prose)]
    numbers, turning, names = [], [], []
    for word, begins in _words(prose):
        low = word.lower().replace("’", "'")
        if low in _NUMBERS:
            numbers.append((_NUMBERS[low], begins))
        elif low in _NEGATIONS or low.endswith("n't") or low.startswith("non-"):
            turning.append("not" if low.endswith("n't") else low)
        elif low in _TURNING:
            turning.append(low)
        elif len(low) == 1 and low not in "ai":
            names.append(low)  # of a variable, or data
        elif word[0].isupper() and low not in ("i", "i'm", "i've", "i'd", "i'll") and not _starts(prose, begins):
            names.append(word)
    numbers += [(piece[0], piece.start()) for piece in _NUMBER.finditer(prose)]
    ordered = tuple(number for number, _ in sorted(numbers, key=lambda found: found[1]))
    return (*kept, *code), ordered, tuple(turning), tuple(names)


def order(text: str) -> tuple[int, ...]:
    """The words that say something, in their order, as 16-bit hashes: for `reordered`."""
    words = (word.lower() for word, _ in _words(text))
    return tuple(crc32(word.encode("utf-8", "replace")) & 0xFFFF for word in words if word not in _LIGHT)


def reordered(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether words that both have come in another order; those that come twice aside."""
    both = {word for word in one if one.count(word) == 1 and other.count(word) == 1}
    return [word for word in one if word in both] != [word for word in other if word in both]


def _words(text: str) -> Iterator[tuple[str, int]]:
    for found in _WORD.finditer(text):
        yield found[0], found.start()


def _starts(text: str, at: int) -> bool:
    """Whether a sentence begins here, so that a capital says nothing."""
    before = text[:at].rstrip(" \t\"'([-*")
    return not before or before[-1] in _STOPS
