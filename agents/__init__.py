"""What is allowed, done, recorded and earned: the trading agent and the daemon around it."""
