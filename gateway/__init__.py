"""The process that clients call: everything that touches the world."""
