"""One checked, reused database connection per AWS Lambda environment."""

__version__ = "0.1.0"
