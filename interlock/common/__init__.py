"""What all contracts share, by version, and what their callers need: addresses, channels, errors."""
