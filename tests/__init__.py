"""A regular package: a dependency (pymultihash) installs its own `tests`, which would win over a plain folder."""
