"""`ENGINE = "lambda_pool.django.mysql"`: Django's own backend for MySQL and MariaDB, with PyMySQL and on a pool."""
