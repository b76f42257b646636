"""Published results measured again, on simulated heads: every number on their pages comes from a run."""
