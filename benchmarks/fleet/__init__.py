"""What it costs to read: feeds, histories, subgraphs."""
