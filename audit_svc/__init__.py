"""The audit service: an append-only, verifiable log of everything agents did, one tree per tenant."""
