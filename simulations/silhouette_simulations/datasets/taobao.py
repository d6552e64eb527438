"""Taobao: purchases, carts, favourites and page views of what was bought."""

from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.schema import LAST_TIME

from .base import DatasetInfo, Tables
from .files import read_file
from .reading import parse

TAOBAO: Final = DatasetInfo(
    name="taobao",
    title="Taobao: purchases, carts, favourites, page views, one held-out purchase",
    licence="research use",
    home_page="https://tianchi.aliyun.com/dataset/649",
    times="utc",
    files=("train_interactions.csv", "test_buy.csv"),
    sizes=(31_882, 31_024, 471_337),
    fetched=False,
)

_BEHAVIOURS: Final = MappingProxyType({"buy": "purchase", "cart": "cart", "fav": "favourite", "pv_of_bought": "view"})


def read_taobao(source: Path) -> Tables:
    """Read Taobao from a folder with train_interactions.csv and test_buy.csv.

    The catalogue holds every item of either file, by id; nothing else is known of an item.

    Raises:
        UsageError: With file, line and reason.
    """
    path, later = source / "train_interactions.csv", source / "test_buy.csv"
    columns = ("user", "item", "behavior", "timestamp")
    rows = parse(read_file(path), str(path), columns, separator=",", header=True)
    test = parse(read_file(later), str(later), ("user", "item"), separator=",", header=True)
    users, items = rows.identifiers("user"), rows.identifiers("item")
    held_out = pd.DataFrame({"user": test.identifiers("user"), "item": test.identifiers("item")})
    test.known("user", users, rows.where)
    test.unique("user")
    events = pd.DataFrame(
        {
            "user": users,
            "item": items,
            "behaviour": rows.mapped("behavior", _BEHAVIOURS),
            "timestamp": rows.integers("timestamp", 1, LAST_TIME, "a time in UTC seconds"),
            "value": np.full(len(rows), np.nan),
            "text": pd.Series([None], dtype=users.dtype).repeat(len(rows)).reset_index(drop=True),
        }
    )
    known = pd.concat([items, held_out["item"]]).drop_duplicates()
    known = known.sort_values(key=lambda ids: ids.astype("int64"))
    people = users.drop_duplicates().sort_values(key=lambda ids: ids.astype("int64"))
    count = len(known)
    return Tables(
        name=TAOBAO.name,
        events=events,
        users=pd.DataFrame({"user": people}).reset_index(drop=True),
        catalogue=Catalogue(
            items=tuple(known),
            titles=("",) * count,
            categories=(),
            category_matrix=np.zeros((count, 0), dtype=np.float32),
            texts=("",) * count,
            content=np.zeros((count, 0), dtype=np.float32),
        ),
        attributes=MappingProxyType({}),
        times="utc",
        held_out=held_out,
    )
