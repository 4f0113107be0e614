"""What is tried rather than read: on real NICs, each trial in a process of its own."""
