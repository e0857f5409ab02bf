"""What graph-node made of a subgraph's schema: the types and filters of its API, as GraphQL.

    python tools/graph_schema.py URL > oracle/schemas/protocol.graphql

Asked of any endpoint of that subgraph, such as the one that `ape run localgraph` shows. Sorted: two nodes of one
version give the same text.
"""

from __future__ import annotations

import sys

from gql import Client, GraphQLRequest
from gql.transport.requests import RequestsHTTPTransport
from graphql import build_client_schema, get_introspection_query, lexicographic_sort_schema, print_schema


def fetch_schema(url: str) -> str:
    """The schema's text. Raises what gql raises."""
    with Client(transport=RequestsHTTPTransport(url, timeout=30)) as session:
        found = session.execute(GraphQLRequest(get_introspection_query()))
    return print_schema(lexicographic_sort_schema(build_client_schema(found))) + "\n"


if __name__ == "__main__":
    print(fetch_schema(sys.argv[1]), end="")
