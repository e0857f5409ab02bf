"""What a cheat earns: agents of every kind on the real contracts, against honest twins in the same market."""
