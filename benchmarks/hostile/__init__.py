"""Messages, bodies and callers that do harm."""
