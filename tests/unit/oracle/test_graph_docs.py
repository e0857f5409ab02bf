"""What docs/graph.md tells people to ask can be asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from graphql import build_schema, parse, validate

from oracle.protocol_graph import protocol_schema

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "graph.md"
QUERIES = re.findall(r"```graphql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_queries_to_try():
    assert len(QUERIES) >= 2


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_fits_the_schema(query: str):
    assert validate(build_schema(protocol_schema()), parse(query)) == []
