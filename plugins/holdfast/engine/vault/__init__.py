"""The vault: encrypted, deduplicated, write-once backups in other clouds, and the proof that they restore."""
