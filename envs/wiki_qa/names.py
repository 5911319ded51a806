"""Invented names: syllables of several made-up languages, each name given once, none that a real place has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Language:
    """How names of one made-up language sound: beginnings, vowels and middles of syllables, and endings by use."""

    starts: tuple[str, ...]
    vowels: tuple[str, ...]
    middles: tuple[str, ...]
    he: tuple[str, ...]
    she: tuple[str, ...]
    surname: tuple[str, ...]
    town: tuple[str, ...]
    country: tuple[str, ...]


def _language(*parts: str) -> Language:
    return Language(*(tuple(part.split()) for part in parts))


LANGUAGES = (
    _language(
        "B Br D Dr G Gr H K Kr M S Sk St T Th V Tr H J",
        "a e i o u",
        "ld nd rg rk sk lm rn v g mm st nn",
        "ar ek or ulf und ik",
        "a is ild run eth",
        "dal gard strom vik mark holt sund",
        "by havn torp borg lund fjell",
        "mark land ria",
    ),
    _language(
        "B C D F G L M P R S T V Z Qu",
        "a e i o u ia io",
        "l r n ll rr nt ss v c z b tr",
        "o io ino ando esto",
        "a ia ina ella etta",
        "elli ardo ucci ante oro azzi",
        "ona eto ura anza ello ace",
        "ania ora essa",
    ),
    _language(
        "B Bl D Dz H J K L M N P R S Sv V Vl Z Zh",
        "a e i o u y",
        "k l r s v z sl dr rn ch b l mn",
        "an ek omir islav yan",
        "a ka ana islava enka",
        "ov enko ich sky ata ovar",
        "ovo ograd insk itsa ava",
        "ovia uria enia",
    ),
    _language(
        "Al B D F H J K M N Q R S T Y Z Sh",
        "a i u aa ee",
        "l m n r s z sh h d k f b",
        "im ad een ir uf",
        "a eh ina ira ood",
        "azi ani uri abad emi isar",
        "abar iyan esh uma adan",
        "istan ahar emar",
    ),
    _language(
        "A E I H K M N P T W L U R",
        "a e i o u ai oa ua",
        "k l m n p t w r h",
        "oa eku amo ilo",
        "ea ani ula ione",
        "kane walo moana piko teru",
        "hiko lani raki puna weto",
        "nui mea loa",
    ),
    _language(
        "Ab C Ch Cl D F Gw H K L M N P R Th Tw W",
        "a e i o u ae y",
        "l ll n nn r th dd w m lw rv ff",
        "wyn ach or ric ael",
        "wen a ith iel yra",
        "wick combe croft ley yard rigg",
        "mouth ford wold stead combe",
        "wy ach mere",
    ),
)
_REAL = (
    "accra algiers amman ankara athens baghdad baku bamako bangkok beijing beirut belgrade berlin bern bogota brasilia "
    "brussels bucharest budapest cairo canberra caracas copenhagen dakar damascus delhi dhaka doha dublin geneva "
    "hanoi harare havana helsinki islamabad jakarta kabul kampala kiev kyiv kinshasa lagos lima lisbon ljubljana "
    "london luanda lusaka madrid managua manila maputo minsk monaco monrovia montevideo moscow nairobi nicosia oslo "
    "ottawa paris prague pretoria quito rabat reykjavik riga rome santiago sarajevo seoul sofia stockholm suva tallinn "
    "tehran tirana tokyo tripoli tunis vaduz valletta vienna vilnius warsaw zagreb zurich milan turin verona modena "
    "siena ravenna parma bologna palermo naples venice genoa dresden hamburg bremen munich cologne leeds oxford durham "
    "afghanistan albania algeria andorra angola argentina armenia australia austria bahrain belarus belgium benin "
    "bhutan bolivia botswana brazil bulgaria burundi cambodia cameroon canada chad chile china colombia congo croatia "
    "cuba cyprus denmark ecuador egypt eritrea estonia ethiopia fiji finland france gabon gambia germany ghana greece "
    "guinea guyana haiti honduras hungary iceland india indonesia iran iraq ireland israel italy jamaica japan jordan "
    "kenya kuwait laos latvia lebanon lesotho liberia libya lithuania madagascar malawi malaysia mali malta mauritania "
    "mexico moldova mongolia morocco mozambique myanmar namibia nepal nicaragua niger nigeria norway oman pakistan "
    "panama paraguay peru philippines poland portugal qatar romania russia rwanda senegal serbia singapore slovakia "
    "slovenia somalia spain sudan sweden syria taiwan tajikistan tanzania thailand togo tonga tunisia turkey "
    "turkmenistan uganda ukraine uruguay uzbekistan vanuatu venezuela vietnam yemen zambia zimbabwe texas utah "
    "alabama alaska nevada bergen malmo lund uppsala narvik bosnia kosovo anatolia persia siberia crimea bohemia "
    "moravia silesia saxony bavaria prussia tuscany lombardy catalonia castile aragon galicia cornwall"
)
REAL = frozenset(_REAL.split())
"""Real places whose names are never given."""


class Draw:
    """A source of choices that depends on nothing but its seed, on every version of Python.

    Only ``random.Random.random`` is used, whose values for a seed Python promises to keep.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def below(self, n: int) -> int:
        """Return an integer from 0 to ``n - 1``."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """Return an integer; both bounds are possible."""
        return low + self.below(high - low + 1)

    def chance(self, share: float) -> bool:
        """Return True in this share of the calls."""
        return self._random() < share

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Return the items in another order."""
        order = list(items)
        for n in range(len(order) - 1, 0, -1):
            m = self.below(n + 1)
            order[n], order[m] = order[m], order[n]
        return order


class Names:
    """Makes names, each of them once.

    Args:
        draw: where the choices come from.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._taken: set[str] = set(REAL)

    def word(self, language: Language, endings: Sequence[str], most: int = 2) -> str:
        """Return a new capitalised word of one to ``most`` syllables and an ending."""
        draw, tries = self._draw, 0
        while True:
            # A small language runs out of short words: after some failures they become longer.
            syllables = draw.between(1, most) + tries // 20
            middle = "".join(draw.pick(language.vowels) + draw.pick(language.middles) for _ in range(syllables))
            word = draw.pick(language.starts) + middle + draw.pick(endings)
            if len(word) > 3 and self.take(word):
                return word
            tries += 1

    def take(self, name: str) -> bool:
        """Reserve a name; False if it is taken already, or real."""
        key = name.lower()
        if key in self._taken:
            return False
        self._taken.add(key)
        return True
