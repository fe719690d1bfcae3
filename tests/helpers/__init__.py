"""What several test modules share: small networks, data sets and commands."""
