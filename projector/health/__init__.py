"""Whether this process does its work: what must move in it, who looks, and what happens when something stands still."""
