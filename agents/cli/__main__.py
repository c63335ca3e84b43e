"""`python -m mru_rl.agents.cli`, the command without its console script."""

from mru_rl.agents.cli.main import main

main()
