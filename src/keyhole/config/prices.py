"""The sections [price."UPSTREAM/MODEL"] to Prices.

They come before every list of prices. A model that no route names yet is no problem, an upstream
that is not there is.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyhole.config.document import Document
from keyhole.config.upstreams import Upstreams
from keyhole.config.values import Check, Wrong, meant, shown, target, usd_per_million
from keyhole.policy.pricing import Price

PRICE: Mapping[str, Check] = {"input": usd_per_million, "output": usd_per_million}
"""The keys of [price."UPSTREAM/MODEL"]."""


def read_prices(document: Document, upstreams: Upstreams) -> dict[str, Price]:
    """The document's prices by UPSTREAM/MODEL; what is wrong becomes its problems."""
    prices = {}
    for name, table in document.named("price").items():
        path = ("price", name)
        try:
            upstream, _ = target(name)
            if upstream not in upstreams:
                hint = f"a price is for an upstream's model; {meant(upstream, upstreams)}"
                raise Wrong(f"there is no upstream {shown(upstream)}", hint)
        except Wrong as wrong:
            document.blame_wrong(path, wrong)
        values = document.section(path, table, PRICE)
        for key in PRICE:
            if key not in table:
                document.blame_missing(path, key, f"such as {key} = 0.5, or 0 for free")
        if len(values) == len(PRICE):
            prices[name] = Price(prompt=values["input"], completion=values["output"])
    return prices
