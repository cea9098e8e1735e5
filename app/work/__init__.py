"""How jobs are done: in turn, in processes that can be ended, within limits."""
