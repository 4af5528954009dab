"""What the house runs on itself: generating the contract's code, releasing its image."""
