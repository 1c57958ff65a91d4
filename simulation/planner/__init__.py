"""Answers before anyone buys GPUs: replicas, cost per token over load, break-even, overflow."""
