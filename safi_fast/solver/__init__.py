"""The only loops: outer steps, dual steps, stopping, certificate. They know no device; see `safi_fast.backend`."""
