"""Cursor pages as OpenAI's lists have them: `after` is the id of the last item seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from service.errors import Invalid

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page:
    """What part of a list is asked for."""

    limit: int
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


@dataclass(frozen=True)
class Slice(Generic[Row]):
    """One page of rows, and whether more follow."""

    rows: list[Row]
    has_more: bool


def cut(db: Session, chosen: Select[Row], table: Any, page: Page) -> Slice[Row]:
    """The page of a selection of rows that have `id` and `created_at`; Invalid where `after` is not among them."""
    key = tuple_(table.created_at, table.id)
    if page.after is not None:
        last = db.scalar(chosen.where(table.id == page.after))
        if last is None:
            raise Invalid(f"there is no {page.after!r} in this list", param="after")
        mark: Any = (last.created_at, last.id)  # type: ignore[attr-defined]
        chosen = chosen.where(key < mark if page.order == "desc" else key > mark)
    if page.order == "desc":
        ordered = chosen.order_by(table.created_at.desc(), table.id.desc())
    else:
        ordered = chosen.order_by(table.created_at, table.id)
    rows = list(db.scalars(ordered.limit(page.limit + 1)))
    return Slice(rows[: page.limit], len(rows) > page.limit)
