"""What is true: prices and vault state as typed, aged readings."""
