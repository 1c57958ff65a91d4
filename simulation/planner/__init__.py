"""Capacity planning before purchase: replicas, cost per token over load, break-even, overflow."""
