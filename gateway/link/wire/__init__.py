"""What travels between processes: messages, what they tell of a front, and connections."""
