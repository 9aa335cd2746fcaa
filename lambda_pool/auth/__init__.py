"""Where the user name and the password of a new connection come from."""
