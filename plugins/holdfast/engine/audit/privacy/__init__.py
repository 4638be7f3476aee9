"""Privacy of exports: subjects under pseudonyms, and their events readable only as long as their keys exist."""
