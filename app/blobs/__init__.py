"""Put-once files and folders under a key, with a checksum. Knows no database."""
