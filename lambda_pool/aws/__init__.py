"""What credentials, endpoints and trust share of AWS: its environment, its identities, its SDK and its host names."""
