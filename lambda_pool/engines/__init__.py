"""Database drivers, each behind the protocol of `base`. A driver is imported when its engine first connects."""
