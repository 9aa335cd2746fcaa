"""What credentials, endpoints and trust all need of AWS: its environment, identities, SDK and host names."""
