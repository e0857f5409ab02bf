"""The fault laboratory: what stands between an agent and its chain, and breaks."""
