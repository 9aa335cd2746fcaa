"""Observers that turn a pool's events into CloudWatch metrics."""
