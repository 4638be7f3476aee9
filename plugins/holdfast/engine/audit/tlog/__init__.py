"""A transparency log: RFC 9162 hashes, C2SP tiles, checkpoints as signed notes, proofs. It knows nothing of events."""
