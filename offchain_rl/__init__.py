"""What we wish: observation, policy, training, evaluation."""
