"""MySQL and MariaDB on PyMySQL."""
