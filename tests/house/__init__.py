"""The house itself: ./dev, the lock files, the contract's generated code, what may stand in the tree."""
