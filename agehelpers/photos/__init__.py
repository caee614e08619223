"""From a photograph or a face crop to ages."""
