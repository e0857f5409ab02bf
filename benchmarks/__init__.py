"""What takes too long for the tests, or is measured rather than asserted."""
