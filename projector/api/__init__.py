"""What a stream answers over HTTP: health and, of the timers, a pass on demand."""
