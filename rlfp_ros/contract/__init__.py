"""The contract between training and deployment: the policy bundle."""
