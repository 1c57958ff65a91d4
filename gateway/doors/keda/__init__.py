"""The door of KEDA: how many replicas a pool should have."""
