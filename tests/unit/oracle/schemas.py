"""Whether one GraphQL schema has all of another."""

from __future__ import annotations

from graphql import BreakingChangeType, GraphQLSchema, find_breaking_changes


def missing(needed: GraphQLSchema, found: GraphQLSchema) -> list[str]:
    """What a question to `needed` may ask for, and `found` lacks or has of another type. Directives are left aside."""
    changes = find_breaking_changes(needed, found)
    return [change.description for change in changes if change.type != BreakingChangeType.DIRECTIVE_REMOVED]
