"""Pure decisions: which request runs where, and when. No I/O, no clock, no randomness."""
