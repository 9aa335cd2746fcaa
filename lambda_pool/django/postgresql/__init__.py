"""`ENGINE = "lambda_pool.django.postgresql"`: Django's own backend for PostgreSQL, on a pool."""
