"""PostgreSQL on psycopg 3."""
