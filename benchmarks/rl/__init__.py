"""What training and backtests cost beside their peers: environments, PPO, backtests, and the machine's own bounds."""
