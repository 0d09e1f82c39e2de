"""Mixed load on the product at a fixed rate: errors, waits and memory over half an hour, and a thousand event streams."""
